"""Whole servers, as clients see them: ours and ``transformers serve``, which are asked in turns."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median, quantiles

from . import checkpoints, load, servers
from .load import Answer, Crowd
from .report import Row
from .servers import Server

PEER = "transformers serve"
NUM_TOKENS = 48
CLIENTS = (1, 4, 8, 16)
PROMPT_WORDS = (8, 500, 2000)
CHAT_WORDS = 1000


def rows(cache: Path, num_rounds: int) -> Iterator[Row]:
    """Measures and yields, one figure after the other."""
    directory = checkpoints.at(cache, checkpoints.E2B_LIKE)
    yield _starts(directory, num_rounds)
    with servers.ours(directory) as ours, servers.transformers_serve(directory) as theirs:
        pair = _Pair(ours, theirs, num_rounds)
        for num_words in PROMPT_WORDS:
            yield pair.first_token(num_words)
        yield pair.second_turn()
        for num_clients in CLIENTS:
            yield from pair.crowd(num_clients)


def _starts(directory: Path, num_rounds: int) -> Row:
    """Each alone; the first round, which may have to read from the disk, does not count."""
    seconds: dict[str, list[float]] = {}
    for _ in range(num_rounds + 1):
        for start in (servers.ours, servers.transformers_serve):
            with start(directory) as server:
                seconds.setdefault(server.name, []).append(server.started_s)
    ours, theirs = (each[1:] for each in seconds.values())
    return Row("start to first token", "s", ours, theirs, PEER)


class _Pair:
    """Both servers, and questions that neither has been asked before."""

    def __init__(self, ours: Server, theirs: Server, num_rounds: int) -> None:
        self._ours, self._both = ours, (ours, theirs)
        self._num_rounds = num_rounds
        self._seed = count()

    def first_token(self, num_words: int) -> Row:
        """Asks for one token."""
        questions = [load.question(next(self._seed), num_words) for _ in range(self._num_rounds)]
        pairs = [[load.ask(server, question, 2) for server in self._both] for question in questions]
        ours, theirs = zip(*pairs, strict=True)
        what = f"first token after {ours[0].num_prompt_tokens} prompt tokens"
        return Row(what, "ms", _ttft_ms(ours), _ttft_ms(theirs), PEER)

    def second_turn(self) -> Row:
        """A chat's second turn against its first, on our server alone."""
        turns = []
        for _ in range(self._num_rounds):
            chat = load.question(next(self._seed), CHAT_WORDS)
            first = load.ask(self._ours, chat, NUM_TOKENS)
            said = [{"role": "assistant", "content": first.text}, {"role": "user", "content": "and then"}]
            turns.append((first, load.ask(self._ours, chat + said, 2)))
        firsts, seconds = zip(*turns, strict=True)
        what = f"first token of a second turn, after {firsts[0].num_prompt_tokens} tokens"
        return Row(what, "ms", _ttft_ms(seconds), _ttft_ms(firsts), "its first turn")

    def crowd(self, num_clients: int) -> Iterator[Row]:
        """Several clients at once: how much they get together, and how long each waits."""
        rounds = []
        for _ in range(self._num_rounds):
            questions = [load.question(next(self._seed), 20) for _ in range(num_clients)]
            rounds.append([load.crowd(server, questions, NUM_TOKENS) for server in self._both])
        ours, theirs = zip(*rounds, strict=True)

        def row(what: str, unit: str, measure: Callable[[Crowd], float], **options: bool) -> Row:
            who = f"{num_clients} client{'s' * (num_clients > 1)}: {what}"
            return Row(who, unit, [measure(c) for c in ours], [measure(c) for c in theirs], PEER, **options)

        yield row("all together", "tokens/s", lambda crowd: crowd.tokens_per_s, more_is_better=True)
        yield row("first token, median", "ms", lambda crowd: median(_ttft_ms(crowd.answers)))
        yield row("between tokens, median", "ms", lambda crowd: median(_gaps_ms(crowd)))
        yield row("between tokens, p99", "ms", lambda crowd: _p99(_gaps_ms(crowd)))
        health = [_p99([1e3 * second for second in crowd.health_s]) for crowd in ours]
        yield Row(f"{num_clients} client{'s' * (num_clients > 1)}: /health, p99", "ms", health)


def _ttft_ms(answers: list[Answer] | tuple[Answer, ...]) -> list[float]:
    return [1e3 * answer.ttft_s for answer in answers]


def _gaps_ms(crowd: Crowd) -> list[float]:
    return [1e3 * gap for answer in crowd.answers for gap in answer.gaps_s]


def _p99(numbers: list[float]) -> float:
    return quantiles(numbers, n=100, method="inclusive")[-1] if len(numbers) > 1 else numbers[0]
