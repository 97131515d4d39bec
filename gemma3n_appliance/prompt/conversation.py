"""Folds a client's messages into what Gemma knows: user and model in turn, and a text before them.

Gemma has no system role, and its template refuses two messages of one role in a row. Clients send both.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from ..protocol.messages import AudioPart, ImagePart, Message, RefusalPart, TextPart
from .tools import call_text, result_text

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Text:
    """A run of text."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture not decoded yet; ``param`` is the path to it in the request."""

    url: str = field(repr=False)
    param: str


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip not decoded yet; ``param`` is the path to it in the request."""

    data: str = field(repr=False)
    param: str


Part = Text | Picture | Clip


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says at a time."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that alternate and begin with the user's; ``system`` goes before the first."""

    system: str | None
    turns: tuple[Turn, ...]

    @property
    def media(self) -> list[Picture | Clip]:
        """All pictures and clips, in order."""
        return [part for part in self._parts() if not isinstance(part, Text)]

    @property
    def num_characters(self) -> int:
        """The length of all text in it, without the white space around each run."""
        texts = (part.text for part in self._parts() if isinstance(part, Text))
        return sum(len(text.strip()) for text in texts) + len((self.system or "").strip())

    def _parts(self) -> Iterator[Part]:
        return (part for turn in self.turns for part in turn.parts)


def from_messages(messages: Sequence[Message], tools: str = "") -> Conversation:
    """Merges neighbours of one role, and makes a user's turn of whatever the conversation lacks one for.

    System messages at the start become ``system``, and with them the text about ``tools``; later ones join
    the user's turn they stand next to. So does what a tool said, under the name that it was called by.
    """
    num_leading = next((i for i, m in enumerate(messages) if not _is_system(m)), len(messages))
    system = _join([*(_plain_text(message) for message in messages[:num_leading]), tools])
    turns = list(_turns(messages, num_leading))
    if not turns or turns[0].role != "user":
        turns.insert(0, Turn("user", (Text(system),)))
        system = ""
    return Conversation(system or None, tuple(turns))


def _turns(messages: Sequence[Message], first: int) -> Iterator[Turn]:
    names: dict[str, str] = {}  # of the functions, by the ids of their last calls
    said = []
    for index in range(first, len(messages)):
        names |= {call.id: call.function.name for call in messages[index].tool_calls or ()}
        said.append((_role(messages[index]), _parts(messages[index], index, names)))
    for role, neighbours in groupby(said, key=lambda each: each[0]):
        yield Turn(role, _merge(parts for _, parts in neighbours))


def _merge(messages: Iterable[list[Part]]) -> tuple[Part, ...]:
    """Concatenates the parts; texts that meet at a border between messages become paragraphs of one."""
    merged: list[Part] = []
    paragraphs: list[str] = []
    for head, *tail in messages:
        for is_first, part in [(True, head), *((False, part) for part in tail)]:
            if paragraphs and not (is_first and isinstance(part, Text)):
                merged.append(Text(_join(paragraphs)))
                paragraphs = []
            if isinstance(part, Text):
                paragraphs.append(part.text)
            else:
                merged.append(part)
    if paragraphs:
        merged.append(Text(_join(paragraphs)))
    return tuple(merged)


def _join(texts: Iterable[str]) -> str:
    """Joins texts as paragraphs; one alone stays as it is."""
    present = [text for text in texts if text.strip()]
    return present[0] if len(present) == 1 else "\n\n".join(text.strip() for text in present)


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def _role(message: Message) -> Role:
    return "assistant" if message.role == "assistant" else "user"


def _plain_text(message: Message) -> str:
    return _join(part.text for part in _content(message, 0) if isinstance(part, Text))


def _parts(message: Message, index: int, names: Mapping[str, str]) -> list[Part]:
    """Returns at least one part; ``names`` are those of the functions, by the ids of their calls."""
    content = _content(message, index)
    if message.tool_calls:
        calls = (call_text(call.function.name, call.function.arguments) for call in message.tool_calls)
        return [Text("\n".join(filter(None, [_plain_text(message), *calls])))]
    if message.role == "tool":
        said = "\n".join(part.text for part in content if isinstance(part, Text))
        seen = [part for part in content if not isinstance(part, Text)]
        return [Text(result_text(names.get(message.tool_call_id or "", message.name or "tool"), said)), *seen]
    return content


def _content(message: Message, index: int) -> list[Part]:
    if message.content is None or isinstance(message.content, str):
        return [Text(message.content or message.refusal or "")]
    return [_part(part, f"messages[{index}].content[{i}]") for i, part in enumerate(message.content)]


def _part(part: TextPart | ImagePart | AudioPart | RefusalPart, path: str) -> Part:
    if isinstance(part, ImagePart):
        return Picture(part.url, f"{path}.image_url")
    if isinstance(part, AudioPart):
        return Clip(part.input_audio.data, f"{path}.input_audio")
    return Text(part.refusal if isinstance(part, RefusalPart) else part.text)
