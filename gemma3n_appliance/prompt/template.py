"""Renders the checkpoint's own chat template around marks that stand for the texts.

A user's text never passes through the template or the control-token search: the template sees marks from a
private-use area, and the texts are put in their places once the control tokens have been found.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import InvalidRequestError, ModelLoadError
from .conversation import Clip, Conversation, Part, Picture, Text

# The template may trim what it is given or not. The marks wear a white-space character that nothing else
# uses: where it is gone after rendering, the template has trimmed, and the text is trimmed there too.
_EDGE = "\x1f"
_MARK = re.compile(f"({_EDGE}?)\ue000(\\d+)\ue001({_EDGE}?)")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt's skeleton, and the texts that belong in its marks."""

    skeleton: str
    texts: tuple[str, ...] = field(repr=False)

    def fill(self, piece: str) -> str:
        """Puts the texts in their places in a piece of the skeleton."""
        return _MARK.sub(self._text, piece)

    def _text(self, mark: re.Match[str]) -> str:
        text = self.texts[int(mark[2])]
        text = text if mark[1] else text.lstrip()
        return text if mark[3] else text.rstrip()


def only(text: str, begin: str) -> Rendered:
    """Returns a prompt that is a text as it is, after the control tokens that ``begin`` it."""
    texts: list[str] = []
    return Rendered(begin + _mark(text, texts), tuple(texts))


class ChatTemplate:
    """A chat template, compiled in the sandbox and with the names that transformers gives it."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        """Raises ModelLoadError where the template is not valid Jinja."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
        )
        environment.globals["raise_exception"] = _raise_exception
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelLoadError(f"The checkpoint's chat template is not valid: {error}") from error
        self._special_tokens = special_tokens

    def render(self, conversation: Conversation) -> Rendered:
        """Returns the prompt up to where the model's answer begins.

        Raises:
            InvalidRequestError: the template refuses the conversation.
        """
        texts: list[str] = []
        messages = _messages(conversation, lambda text: _mark(text, texts))
        try:
            skeleton = self._template.render(
                messages=messages, add_generation_prompt=True, **self._special_tokens
            )
        except TemplateError as error:
            raise InvalidRequestError(
                f"The model's chat template refuses this conversation: {error}", param="messages"
            ) from error
        return Rendered(skeleton, tuple(texts))


def _messages(conversation: Conversation, mark: Callable[[str], str]) -> list[dict[str, Any]]:
    system = [] if conversation.system is None else [conversation.system]
    return [
        *({"role": "system", "content": mark(text)} for text in system),
        *(
            {"role": turn.role, "content": [_part(part, mark) for part in turn.parts]}
            for turn in conversation.turns
        ),
    ]


def _part(part: Part, mark: Callable[[str], str]) -> dict[str, str]:
    match part:
        case Text(text):
            return {"type": "text", "text": mark(text)}
        case Picture():
            return {"type": "image"}
        case Clip():
            return {"type": "audio"}


def _mark(text: str, texts: list[str]) -> str:
    texts.append(text)
    return f"{_EDGE}\ue000{len(texts) - 1}\ue001{_EDGE}"


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
