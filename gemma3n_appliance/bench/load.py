"""Clients: what they wait for, alone and in a crowd."""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from itertools import pairwise

import httpx2

from .servers import Server

WORDS = (
    "where",
    "are",
    "the",
    "logs",
    "what",
    "do",
    "you",
    "see",
    "how",
    "many",
    "count",
    "from",
    "one",
    "to",
)
TIMEOUT_S = 600

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Answer:
    """A streamed answer: seconds to its first token, and between its pieces; what it cost and said."""

    ttft_s: float
    gaps_s: list[float]
    num_prompt_tokens: int
    num_tokens: int
    text: str


def question(seed: int, num_words: int) -> Messages:
    """Returns a question that no other seed's begins like."""
    chance = random.Random(seed)
    return [{"role": "user", "content": " ".join(chance.choices(WORDS, k=num_words))}]


def ask(server: Server, messages: Messages, num_tokens: int) -> Answer:
    """Asks once."""

    async def once() -> Answer:
        async with httpx2.AsyncClient(timeout=TIMEOUT_S) as client:
            return await _ask(client, server, messages, num_tokens)

    return asyncio.run(once())


@dataclass(frozen=True)
class Crowd:
    """Clients that asked at the same time, how long all took, and how long ``/health`` took meanwhile."""

    answers: list[Answer]
    seconds: float
    health_s: list[float]

    @property
    def tokens_per_s(self) -> float:
        """Of all together."""
        return sum(answer.num_tokens for answer in self.answers) / self.seconds


def crowd(server: Server, questions: list[Messages], num_tokens: int) -> Crowd:
    """Asks all at once."""

    async def all_at_once() -> Crowd:
        async with httpx2.AsyncClient(
            timeout=TIMEOUT_S, limits=httpx2.Limits(max_connections=None)
        ) as client:
            health_s: list[float] = []
            watching = asyncio.create_task(_watch(client, server, health_s))
            began = time.perf_counter()
            answers = await asyncio.gather(*(_ask(client, server, q, num_tokens) for q in questions))
            seconds = time.perf_counter() - began
            if not watching.cancel():
                await watching  # which says why it has ended by itself
            return Crowd(answers, seconds, health_s)

    return asyncio.run(all_at_once())


async def _watch(client: httpx2.AsyncClient, server: Server, health_s: list[float]) -> None:
    while True:
        began = time.perf_counter()
        (await client.get(f"{server.url}/health")).raise_for_status()
        health_s.append(time.perf_counter() - began)
        await asyncio.sleep(0.05)


async def _ask(client: httpx2.AsyncClient, server: Server, messages: Messages, num_tokens: int) -> Answer:
    body = {
        "model": server.model,
        "messages": messages,
        "max_tokens": num_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = time.perf_counter()
    times, text, usage = [], "", None
    async with client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "choices" not in chunk:
                raise RuntimeError(f"{server.name} said: {chunk}")
            usage = chunk.get("usage") or usage
            content = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            if content:
                times.append(time.perf_counter())
                text += content
    if usage is None or usage["completion_tokens"] != num_tokens or not times:
        raise RuntimeError(f"{server.name} gave {usage}, not {num_tokens} tokens")
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return Answer(times[0] - began, gaps, usage["prompt_tokens"], num_tokens, text)
