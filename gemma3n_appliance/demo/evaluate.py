"""Examines a running server: ``python -m gemma3n_appliance.demo.evaluate [--base-url URL]``.

Asks through the official OpenAI client, greedily, and prints the share of right answers by kind, with the
answers that were wrong. Needs the ``dev`` extra, for the client.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from openai.types.chat import ChatCompletionMessage

from ..engine.tool_calls import SEPARATOR
from ..prompt.tools import call_text
from .examination import LEVELS, Mark, Question, questions, report, shares
from .wire import messages, tools

SEED = 7


def main() -> int:
    """Asks all questions; the exit code is 1 if a kind misses its level."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--per-kind", type=int, default=100, help="questions of each kind")
    arguments = parser.parse_args()
    marks = examine(arguments.base_url, questions(arguments.seed, arguments.per_kind))
    print("\n".join(report(marks)))
    return int(any(share < LEVELS[kind] for kind, share in shares(marks).items()))


def examine(base_url: str, asked: list[Question]) -> list[Mark]:
    """Asks every question, four at a time."""
    client = openai.OpenAI(base_url=base_url, api_key="none", timeout=300)

    def answer(question: Question) -> Mark:
        sent: Any = {"messages": messages(question.conversation), **tools(question.conversation)}
        reply = client.chat.completions.create(model="gemma3n", temperature=0, max_tokens=400, **sent)
        return Mark(question, _said(reply.choices[0].message))

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(answer, asked))


def _said(message: ChatCompletionMessage) -> str:
    """Returns an answer as the model wrote it, its calls too."""
    calls = [call.function for call in message.tool_calls or () if call.type == "function"]
    return SEPARATOR.join(call_text(call.name, call.arguments) for call in calls) or message.content or ""


if __name__ == "__main__":
    sys.exit(main())
