"""Calls of functions in a stream of text that is cut anywhere.

Gemma has no token of its own for a call: it writes JSON in the form that Google's prompt asks for,
https://ai.google.dev/gemma/docs/capabilities/function-calling. A grammar keeps it to that form to the letter,
so that a call is told from a text by how it begins.
"""

import json
from dataclasses import dataclass


def head(name: str) -> str:
    """Returns what a call begins with, up to its arguments."""
    return f'{{"name": {json.dumps(name)}, "parameters": '


END = "}"
SEPARATOR = "\n"


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of a function, the ``index``-th of its answer."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the JSON that a call's arguments are."""

    index: int
    json: str


Piece = str | CallBegun | Arguments


class ToolCalls:
    """Tells calls, one to a line, from the text of an answer. An answer is either."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Without names every text is an answer's."""
        self._heads = {head(name): name for name in names}
        self._held = ""
        self._is_text = not names
        self._arguments: _JsonObject | None = None
        self.num_calls = 0
        self.num_swallowed = 0

    def feed(self, text: str) -> list[Piece]:
        """Returns what the text holds, as soon as it can be told what that is.

        ``num_swallowed`` counts the characters that are not given out as text.
        """
        if self._is_text:
            return [text] if text else []
        self._held += text
        pieces: list[Piece] = []
        while (piece := self._next()) is not None:
            pieces.append(piece)
        return pieces

    def flush(self) -> list[Piece]:
        """Returns what was held back, now that nothing follows; half the head of another call is nothing."""
        if self.num_calls:
            self._swallow(len(self._held))
        rest, self._held = self._held, ""
        return [rest] if rest else []

    def _next(self) -> Piece | None:
        """Returns the next piece of what is held, or None until there is more."""
        if self._arguments is not None:
            return self._more_arguments(self._arguments)
        if self.num_calls:
            self._swallow(len(self._held) - len(self._held.lstrip(END + SEPARATOR)))
        if not self._held:
            return None
        for begin, name in self._heads.items():
            if self._held.startswith(begin):
                return self._begin(begin, name)
        if any(begin.startswith(self._held) for begin in self._heads):
            return None
        self._is_text = True
        text, self._held = self._held, ""
        return text

    def _begin(self, begin: str, name: str) -> CallBegun:
        self._swallow(len(begin))
        self._arguments = _JsonObject()
        self.num_calls += 1
        return CallBegun(self.num_calls - 1, name)

    def _more_arguments(self, arguments: "_JsonObject") -> Arguments | None:
        if not self._held:
            return None
        length = arguments.length_in(self._held)
        if arguments.is_complete:
            self._arguments = None
        return Arguments(self.num_calls - 1, self._swallow(length))

    def _swallow(self, length: int) -> str:
        swallowed, self._held = self._held[:length], self._held[length:]
        self.num_swallowed += length
        return swallowed


class _JsonObject:
    """Knows where an object ends that is read piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False
        self.is_complete = False

    def length_in(self, text: str) -> int:
        """Returns how much of the text belongs to the object."""
        for position, character in enumerate(text):
            self._read(character)
            if self.is_complete:
                return position + 1
        return len(text)

    def _read(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif self._is_in_string:
            self._is_escaped = character == "\\"
            self._is_in_string = character != '"'
        elif character == '"':
            self._is_in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            self.is_complete = self._depth == 0
