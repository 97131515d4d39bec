"""What an answer may consist of, token by token: llguidance finds it out beside the model's computing."""

import concurrent.futures
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import any_to_lark

from ..errors import ApplianceError, EngineError, GrammarError

if TYPE_CHECKING:  # a name of the stub's alone
    from llguidance._lib import JsonCompileOptions

# What may stand in a JSON string takes longest to find, unless it was looked through before. Each of these
# takes as much memory as all tokens together, so there is one.
_SLICES = [r'[^"\\\x00-\x1F\x7F]+']
# JSON as Python writes it: white space of any amount is tokens that say nothing, without end when hot.
JSON_STYLE: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
# A schema can ask for other things than these itself, but not that its words be passed over.
_STRICT: "JsonCompileOptions" = {"lenient": False}
# Their other defaults hold a step to some tens of milliseconds, and the first of thousands of properties to a
# quarter of a second. A state takes 1.4 kB, and stays as long as its grammar is kept; a character of a string
# of limited length takes two.
_LIMITS = LLParserLimits(verbose_errors=False, max_lexer_states=40_000)
_NUM_KEPT = 8
_LONGEST_COMPLAINT = 300


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A grammar as its author wrote it.

    ``text`` is a JSON schema, a JSON list of strings to choose from, a regular expression in Rust's syntax
    that is to match the whole answer, or a context-free grammar in llguidance's dialect of Lark's syntax or
    llama.cpp's GBNF.
    """

    kind: Literal["json_schema", "choice", "regex", "cfg"]
    text: str = field(repr=False)


class Guide:
    """Where one answer stands in its grammar.

    ``coming`` will tell which tokens may come next, one bit for each id, lowest bits first.
    """

    def __init__(self, grammar: "Grammar", matcher: LLMatcher, first: bytes) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._is_alone = False
        self._said: list[int] = []
        self.coming: Future[bytes] = Future()
        self.coming.set_result(first)

    def allowed(self) -> bytes | None:
        """Returns what may come next; None while that is being found out.

        Raises:
            GrammarError: it would take too long to find out.
            EngineError: finding out failed.
        """
        if not self.coming.done():
            return None
        try:
            return self.coming.result()
        except ApplianceError as error:
            raise error.anew() from None

    def accept(self, token_id: int) -> None:
        """Says what the answer goes on with, and begins to find out what may follow that."""
        if token_id not in self._grammar.eos_token_ids:
            self.coming = self._grammar.thread.submit(self._after, token_id)

    def _after(self, token_id: int) -> bytes:
        self._said.append(token_id)
        try:
            return self._mask_after(token_id)
        except GrammarError as error:
            raise GrammarError(
                f"The grammar of the answer has become too much to keep to: {error.message}. Simplify it."
            ) from None
        except BaseException as error:  # panics of libraries written in Rust are no Exception
            raise EngineError("The grammar of the answer failed. Simplify it.") from error

    def _mask_after(self, token_id: int) -> bytes:
        try:
            return _mask(self._matcher, [token_id])
        except BaseException:
            if self._is_alone:
                raise
        # Answers share what was found out of their grammar, and all have failed once one of them has.
        self._matcher, self._is_alone = self._grammar.anew(), True
        return _mask(self._matcher, self._said)


class Grammar:
    """A grammar, compiled; for any number of answers.

    ``is_spent`` says that no more answers should begin with it: they would have to compile it themselves.
    """

    def __init__(self, compile_: Callable[[], LLMatcher], eos_token_ids: frozenset[int]) -> None:
        self._compile = compile_
        self._matcher = compile_()
        self._first = _mask(self._matcher)
        self.eos_token_ids = eos_token_ids
        self.is_spent = False
        # One, for answers take turns anyway with what they share; and of its own, so that a grammar that
        # takes long holds up no other.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def begin(self) -> Guide:
        """Returns where an answer begins, of which it is known already what it may begin with."""
        return Guide(self, self._matcher.deep_copy(), self._first)

    def anew(self) -> LLMatcher:
        """Returns what an answer can go through the grammar with that shares nothing with any other."""
        self.is_spent = True
        return self._compile()


def wait_for_any(guides: Iterable[Guide], timeout_s: float) -> None:
    """Returns as soon as it is known of one answer what may come next."""
    concurrent.futures.wait([guide.coming for guide in guides], timeout_s, FIRST_COMPLETED)


class Grammars:
    """Compiles grammars for one model's tokens, in any thread, and keeps those that were used last."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        control_tokens: Mapping[int, str],
        eos_token_ids: frozenset[int],
        encode: Callable[[str], list[int]],
    ) -> None:
        """As in `LoadedModel`; ``encode`` turns text into ids.

        Takes a second for Gemma's 262,144 tokens, in which no other thread of Python's runs.
        """
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Vocabulary(pieces, control_tokens, eos_token_ids, encode)),
            n_vocab=len(pieces),
            eos_token=sorted(eos_token_ids),
            slices=_SLICES,
        )
        self._eos_token_ids = eos_token_ids
        self._kept: OrderedDict[GrammarSource, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, source: GrammarSource) -> Grammar:
        """Returns the grammar, in which every answer ends with one of the model's end tokens.

        Raises:
            GrammarError: it is not valid, asks for something that llguidance does not do, or is too large.
        """
        with self._lock:
            kept = self._kept.get(source)
            if kept and not kept.is_spent:
                self._kept.move_to_end(source)
                return kept
        grammar = Grammar(lambda: self._matcher(source), self._eos_token_ids)
        with self._lock:
            self._kept[source] = grammar
            self._kept.move_to_end(source)
            while len(self._kept) > _NUM_KEPT:
                self._kept.popitem(last=False)
        return grammar

    def complaint(self, source: GrammarSource) -> str | None:
        """Returns what there is to say against a grammar, if there is something; nothing of it is kept."""
        try:
            _mask(self._matcher(source))
        except GrammarError as error:
            return error.message
        return None

    def _matcher(self, source: GrammarSource) -> LLMatcher:
        try:
            return LLMatcher(self._tokenizer, _written(source), log_level=0, limits=_LIMITS)
        except ValueError as error:
            raise GrammarError(_complaint(str(error))) from None


class _Vocabulary:
    """The tokens as llguidance asks for them."""

    bos_token_id = None

    def __init__(
        self,
        pieces: Sequence[bytes],
        control_tokens: Mapping[int, str],
        eos_token_ids: frozenset[int],
        encode: Callable[[str], list[int]],
    ) -> None:
        names = {token_id: name.encode() for token_id, name in control_tokens.items()}
        self.tokens = [names.get(token_id, piece) for token_id, piece in enumerate(pieces)]
        self.special_token_ids = sorted(control_tokens)
        self.eos_token_id = min(eos_token_ids)
        self._encode = encode

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError("takes text, not bytes")
        return self._encode(text)


def _written(source: GrammarSource) -> str:
    """Returns the grammar in llguidance's own form. Raises ValueError where it is not valid."""
    match source.kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(source.text, overrides=JSON_STYLE | _STRICT)
        case "choice":
            choices = " | ".join(json.dumps(choice) for choice in json.loads(source.text))
            return LLMatcher.grammar_from_lark(f"start: {choices}")
        case "regex":
            return LLMatcher.grammar_from_regex(source.text)
        case "cfg":
            return LLMatcher.grammar_from_lark(_lark(source.text))


def _lark(text: str) -> str:
    # Blank lines say nothing, and llguidance's search for what it has before it is quadratic in them.
    text = "\n".join(line for line in text.split("\n") if line.strip())
    try:
        return any_to_lark(text)
    except Exception as error:  # its parser has no error of its own
        raise ValueError(f"not GBNF: {error}") from None


def _mask(matcher: LLMatcher, said: Sequence[int] = ()) -> bytes:
    """Returns what may follow after the answer has gone on with ``said``."""
    matcher.consume_tokens([*said])
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        raise GrammarError(_complaint(matcher.get_error()))
    return mask


def _complaint(reason: str) -> str:
    reason = reason.partition("<non-verbose/>")[0].strip()
    return "no answer can keep to it" if reason.startswith("NoExtension") else reason[:_LONGEST_COMPLAINT]
