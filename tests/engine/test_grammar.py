import json
import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gemma3n_appliance.engine.grammar import Grammar, Grammars, GrammarSource, Guide, wait_for_any
from gemma3n_appliance.errors import EngineError, GrammarError
from tests.fakes.runner import EOS, GRAMMARS

CONTROL = 257
TIMEOUT_S = 20.0


def grammar(kind: str, text: object) -> Grammar:
    return GRAMMARS.compile(GrammarSource(kind, text if isinstance(text, str) else json.dumps(text)))


def known(guide: Guide) -> bytes:
    """What may come next, once it is known."""
    wait_for_any([guide], TIMEOUT_S)
    mask = guide.allowed()
    assert mask is not None
    return mask


def choices(guide: Guide) -> set[int]:
    mask = known(guide)
    return {i for i in range(len(mask) * 8) if mask[i // 8] >> (i % 8) & 1}


def written(grammar: Grammar, seed: int, most: int = 400) -> bytes | None:
    """What random choices among the allowed tokens come to; None if they have not come to an end."""
    luck, guide, said = random.Random(seed), grammar.begin(), bytearray()
    for _ in range(most):
        token_id = luck.choice(sorted(choices(guide)))
        if token_id == EOS:
            return bytes(said)
        said.append(token_id)
        guide.accept(token_id)
    return None


def complaint_about(kind: str, text: object, most: int) -> str:
    """What is said against a grammar, or against the answers that it makes."""
    try:
        written(grammar(kind, text), seed=1, most=most)
    except GrammarError as error:
        return error.message
    return ""


def accepts(grammar: Grammar, answer: bytes) -> bool:
    guide = grammar.begin()
    for token_id in answer:
        if token_id not in choices(guide):
            return False
        guide.accept(token_id)
    return EOS in choices(guide)


@pytest.mark.parametrize(
    ("kind", "text", "right", "wrong"),
    [
        ("regex", r"\d{2}-[ab]+", ["12-a", "00-abba"], ["1-a", "12-", "12-ac", "112-a", " 12-a"]),
        ("choice", ["yes", "yes, please", 'a "b"\n'], ["yes", "yes, please", 'a "b"\n'], ["y", "yes,", "no"]),
        ("cfg", 'start: "a" start "b" | "c"', ["c", "acb", "aacbb"], ["ac", "acbb", "ab"]),
        ("cfg", 'root ::= "a" [0-9]+ "z"', ["a1z", "a123z"], ["az", "a1"]),
        ("json_schema", {"type": "object"}, ["{}", '{"a": [1, {"b": null}]}'], ["[]", "{", '{"a":}', "{} "]),
        ("json_schema", {"type": ["integer", "null"]}, ["-3", "null"], ["3.5", "nul", "{}"]),
        ("json_schema", {"enum": ["ä", 7]}, ['"ä"', "7"], ['"a"', "77"]),
        (
            "json_schema",
            {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}},
            ["[]", "[[], [[]]]"],
            ["[[]", "[1]"],
        ),
        (
            "json_schema",
            {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "number", "minimum": 2, "maximum": 4}]},
            ['"ab"', "3.5"],
            ['"abc"', "5"],
        ),
        (
            "json_schema",
            {
                "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
                "discriminator": {"propertyName": "kind"},
                "$defs": {
                    kind: {
                        "type": "object",
                        "properties": {"kind": {"const": kind}},
                        "required": ["kind"],
                        "additionalProperties": False,
                    }
                    for kind in ("cat", "dog")
                },
            },
            ['{"kind": "cat"}', '{"kind": "dog"}'],
            ['{"kind": "cow"}', "{}"],
        ),
    ],
)
def test_an_answer_can_be_what_the_grammar_says_and_nothing_else(
    kind: str, text: object, right: list[str], wrong: list[str]
) -> None:
    compiled = grammar(kind, text)
    for answer in right:
        assert accepts(compiled, answer.encode()), answer
    for answer in wrong:
        assert not accepts(compiled, answer.encode()), answer


def test_white_space_in_json_cannot_go_on_for_ever() -> None:
    anything = grammar("json_schema", {"type": "object"})
    assert accepts(anything, b'{"a": 1, "b": [2, 3]}')
    assert not accepts(anything, b'{"a":  1}')
    assert not accepts(anything, b'{"a":1}')
    assert not accepts(anything, b'{"a": 1,\n"b": 2}')


def test_the_end_is_allowed_only_where_the_answer_is_complete() -> None:
    guide = grammar("regex", "ab?").begin()
    assert choices(guide) == {ord("a")}
    guide.accept(ord("a"))
    assert choices(guide) == {ord("b"), EOS}
    guide.accept(ord("b"))
    assert choices(guide) == {EOS}
    guide.accept(EOS)


def test_every_end_token_ends_an_answer_and_control_tokens_are_never_text() -> None:
    pieces = [b"a", b"<end>", b"", b"", b""]
    names = {2: "<end>", 3: "<eos>", 4: "<image>"}
    several = Grammars(pieces, names, frozenset({2, 3}), lambda text: [0] * len(text))
    guide = several.compile(GrammarSource("regex", "a|<end>|<image>")).begin()
    assert choices(guide) == {0, 1}
    guide.accept(1)
    assert choices(guide) == {2, 3}


def test_answers_to_one_grammar_do_not_know_of_each_other() -> None:
    compiled = grammar("regex", "ab|cd")
    first, second = compiled.begin(), compiled.begin()
    first.accept(ord("a"))
    second.accept(ord("c"))
    assert choices(first) == {ord("b")}
    assert choices(second) == {ord("d")}
    assert choices(compiled.begin()) == {ord("a"), ord("c")}


def test_characters_are_kept_whole_over_tokens_that_are_parts_of_them() -> None:
    compiled = grammar("json_schema", {"type": "string", "maxLength": 8})
    ended = [text for seed in range(200) if (text := written(compiled, seed)) is not None]
    assert len(ended) > 100
    assert all(len(json.loads(text.decode())) <= 8 for text in ended)
    assert any(max(text) > 127 for text in ended)


@pytest.mark.parametrize(
    ("kind", "text", "complaint"),
    [
        ("regex", "(", "unclosed group"),
        ("regex", "(?=a)b", "look-ahead"),
        ("cfg", "start: nowhere", "unknown name"),
        ("cfg", "what is this", "not GBNF"),
        ("cfg", "root ::= " + "(" * 5_000, "not GBNF"),
        ("json_schema", "{", "EOF"),
        ("json_schema", "[]", "object"),
        ("json_schema", {"type": "thing"}, "Invalid type: thing"),
        ("json_schema", {"not": {}}, "not"),
        ("json_schema", {"$ref": "#/$defs/x"}, "/$defs/x"),
        ("json_schema", {"$ref": "http://example.com/schema"}, "example.com"),
        ("json_schema", {"$ref": "file:///etc/passwd"}, "passwd"),
        ("json_schema", {"type": "string", "minLength": 3, "maxLength": 2}, "minLength"),
        ("json_schema", '{"const": "\ud800"}', "not JSON"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_with_the_reason(kind: str, text: object, complaint: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(complaint)) as refused:
        grammar(kind, text)
    assert len(refused.value.message) < 400
    assert "verbose" not in refused.value.message


def _nested(depth: int) -> dict:
    schema: dict = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def _doubling(num: int) -> dict:
    defs = {f"d{i}": {"allOf": [{"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2}] * 2} for i in range(num)}
    return {"$ref": "#/$defs/d0", "$defs": defs | {f"d{num}": {"type": "integer"}}}


BOMBS = {
    "nested": ("json_schema", _nested(100)),
    "doubling": ("json_schema", _doubling(30)),
    "wide": (
        "json_schema",
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5_000)}},
    ),
    "many choices": ("json_schema", {"enum": [f"value {i}" for i in range(10_000)]}),
    "long array": ("json_schema", {"type": "array", "minItems": 10**6, "items": {"type": "integer"}}),
    "itself": ("json_schema", {"$ref": "#"}),
    "repeated": ("regex", "(([a-z]{1,1000}){1,1000}){1,1000}"),
    "backtracking": ("regex", "(a+)+(a*)*b|(.*a){20,200}"),
    "ambiguous": ("cfg", "start: (x | start start start)*\nx: /[a-z]/ | /[a-m]+/ | /[g-z ]+/"),
    "left recursion": ("cfg", 'start: start start | "a" | ""'),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_grammar_made_to_explode_ends_as_an_error_or_an_answer_before_long(name: str) -> None:
    began_s = time.process_time()  # others may have the processor meanwhile
    assert re.search("^$|too|limit|no answer", complaint_about(*BOMBS[name], most=50))
    assert time.process_time() - began_s < 20  # seconds of work that never ends would be minutes


def test_a_grammar_that_becomes_too_much_midway_says_so() -> None:
    guide = grammar("regex", "(([a-z]{1,1000}){1,1000}){1,1000}!").begin()

    def go_on() -> None:
        for _ in range(100):
            guide.accept(ord("a"))
            known(guide)

    with pytest.raises(GrammarError, match=r"has become too much to keep to: [^<]+\. Simplify it"):
        go_on()


def test_a_panic_in_the_library_is_the_request_s_own_end() -> None:
    class Panic(BaseException):
        pass

    class Panicking:
        def consume_tokens(self, token_ids: list[int]) -> None:
            if token_ids:
                raise Panic

        def compute_bitmask(self) -> bytes:
            return b""

        def is_error(self) -> bool:
            return False

        def deep_copy(self) -> "Panicking":
            return self

    guide = Grammar(Panicking, frozenset()).begin()
    guide.accept(1)
    for _ in range(2):
        with pytest.raises(EngineError, match="grammar of the answer failed"):
            known(guide)


def test_one_answer_s_explosion_is_nobody_else_s() -> None:
    source = GrammarSource("regex", "([ab]*a[ab]{20})*c|x{200}")
    compiled = GRAMMARS.compile(source)
    harmless, hostile = compiled.begin(), compiled.begin()
    harmless.accept(ord("x"))
    luck = random.Random(1)

    def explode() -> None:
        while True:
            hostile.accept(luck.choice(b"ab"))
            known(hostile)

    with pytest.raises(GrammarError, match="too much"):
        explode()
    late = compiled.begin()
    late.accept(ord("x"))
    for _ in range(50):
        for guide in (harmless, late):
            assert choices(guide) == {ord("x")}
            guide.accept(ord("x"))
    assert GRAMMARS.compile(source) is not compiled
    assert accepts(GRAMMARS.compile(source), b"x" * 200)


def test_a_grammar_is_compiled_once_as_long_as_it_is_kept() -> None:
    source = GrammarSource("regex", "once upon a time")
    kept = GRAMMARS.compile(source)
    assert GRAMMARS.compile(source) is kept
    for i in range(40):
        grammar("regex", f"another {i}")
    assert GRAMMARS.compile(source) is not kept


@pytest.mark.parametrize(
    "text",
    ["\n" * 200_000 + 'root ::= "a"', " \n" * 100_000 + 'start: "a"', 'root ::= "a"\n\n \n' + "\n" * 100_000],
)
def test_blank_lines_in_a_grammar_cost_nothing(text: str) -> None:
    began_s = time.process_time()
    assert accepts(grammar("cfg", text), b"a")
    assert time.process_time() - began_s < 20  # minutes, where they are gone through again for each


NAMES = st.sampled_from(["a", "b c", "ä", '"', "longer name"])
SCALARS = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-99, 99),
        st.integers(0, 50),
    ),
    st.builds(
        lambda low: {"type": "number", "exclusiveMinimum": low, "maximum": low + 1.5}, st.integers(-9, 9)
    ),
    st.builds(
        lambda low, span: {"type": "string", "minLength": low, "maxLength": low + span},
        st.integers(0, 4),
        st.integers(0, 4),
    ),
    st.sampled_from(["[a-f]{2,4}", "x|yz", "é+1"]).map(
        lambda pattern: {"type": "string", "pattern": f"^({pattern})$"}
    ),
    st.sampled_from(["date", "uuid", "ipv4", "time"]).map(lambda form: {"type": "string", "format": form}),
    st.lists(st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=3)), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
)


def _containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.builds(
            lambda item, least: {"type": "array", "items": item, "minItems": least, "maxItems": least + 2},
            inner,
            st.integers(0, 2),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        st.lists(inner, min_size=1, max_size=2).map(
            lambda parts: {"type": "array", "prefixItems": parts, "items": False}
        ),
        st.builds(
            lambda properties, num: {
                "type": "object",
                "properties": properties,
                "required": [*properties][:num],
                "additionalProperties": False,
            },
            st.dictionaries(NAMES, inner, min_size=1, max_size=3),
            st.integers(0, 3),
        ),
    )


@settings(max_examples=150, deadline=None)
@given(st.recursive(SCALARS, _containers, max_leaves=6), st.integers(0, 2**32))
def test_whatever_the_schema_and_whatever_is_drawn_the_answer_is_valid(schema: dict, seed: int) -> None:
    answer = written(grammar("json_schema", schema), seed)
    if answer is not None:
        Draft202012Validator(schema).validate(json.loads(answer))
