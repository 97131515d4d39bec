"""A request for a response as the chat that it is, and errors about that chat in the request's own words."""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from pydantic import ValidationError

from ..errors import InvalidRequestError
from .chat_request import ChatCompletionRequest
from .generation_fields import SamplingFields
from .messages import AudioPart, ImagePart, Message, Part, RefusalPart, TextPart
from .responses_fields import (
    AudioContent,
    CallItem,
    CallOutputItem,
    Content,
    ImageContent,
    Item,
    MessageItem,
    ReasoningItem,
    RefusalContent,
    ResponsesFields,
)
from .responses_format import FlatJsonSchemaFormat
from .responses_tools import NamedTool
from .structured import JsonObjectFormat, JsonSchemaFormat, TextFormat
from .tools import (
    MAX_TOOLS,
    FunctionCall,
    NamedToolChoice,
    Tool,
    ToolCall,
    ToolChoice,
)
from .wire import TextRequest, refusal

# How the paths of a chat's fields begin, and how the request's own do.
_NEW_NAMES = (
    (re.compile(r"^tools\[(\d+)\]\.function\b"), r"tools[\1]"),
    (re.compile(r"^tool_choice\.function\b"), "tool_choice"),
    (re.compile(r"^response_format(\.json_schema)?\b"), "text.format"),
    (re.compile(r"^max_(completion_)?tokens$"), "max_output_tokens"),
)
_MESSAGE = re.compile(r"^messages\[(\d+)\]")
_CALL = re.compile(r"^\.tool_calls\[(\d+)\](\.function)?")
_TAKEN_OVER = SamplingFields.model_fields.keys() - TextRequest.model_fields.keys()

# From the path within a message to the path in the request.
Origin = Callable[[str], str]


class ResponsesChat:
    """The chat, and what each of its messages comes from."""

    def __init__(self, body: ResponsesFields) -> None:
        """Raises InvalidRequestError where it would be no chat."""
        said = list(_messages(body))
        self._origins = [origin for origin, _ in said]
        if not said:
            raise InvalidRequestError("There is nothing in 'input' that could be answered.", param="input")
        try:
            self.body = _chat(body, [message for _, message in said])
        except ValidationError as error:
            raise self.reworded(refusal(error)) from None

    def check(self) -> None:
        """Raises InvalidRequestError where fields of the chat contradict each other."""
        try:
            self.body.check()
        except InvalidRequestError as error:
            raise self.reworded(error) from None

    def reworded(self, error: InvalidRequestError) -> InvalidRequestError:
        """Returns an error about the chat as one about the request; what else it quotes is the client's."""
        reworded = copy.copy(error)
        if error.param:
            reworded.param = self.renamed(error.param)
            reworded.message = error.message.replace(f"'{error.param}'", f"'{reworded.param}'")
        return reworded

    def renamed(self, path: str) -> str:
        """Returns a path within the chat as one within the request."""
        if found := _MESSAGE.match(path):
            index = int(found[1])
            return self._origins[index](path[found.end() :]) if index < len(self._origins) else "input"
        if path == "messages":
            return "input"
        for old, new in _NEW_NAMES:
            path, num_changed = old.subn(new, path)
            if num_changed:
                break
        return path


def _chat(body: ResponsesFields, messages: list[Message]) -> ChatCompletionRequest:
    return ChatCompletionRequest(
        model=body.model,
        messages=messages,
        max_completion_tokens=body.max_output_tokens,
        logprobs=body.has_logprobs,
        top_logprobs=body.top_logprobs if body.has_logprobs else None,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body),
        tools=[Tool(type="function", function=tool) for tool in body.tools] if body.tools else None,
        tool_choice=_tool_choice(body),
        **{name: getattr(body, name) for name in _TAKEN_OVER},
    )


def _messages(body: ResponsesFields) -> Iterator[tuple[Origin, Message]]:
    """Yields messages, each with what it comes from. Calls in a row are one message's."""
    if body.instructions:
        yield _text("instructions"), Message(role="system", content=body.instructions)
    if isinstance(body.input, str):
        yield _text("input"), Message(role="user", content=body.input)
        return
    known = [
        (f"input[{i}]", item) for i, item in enumerate(body.input) if not isinstance(item, ReasoningItem)
    ]
    for are_calls, group in groupby(known, key=lambda each: isinstance(each[1], CallItem)):
        items = list(group)
        if are_calls:
            for start in range(0, len(items), MAX_TOOLS):
                paths, calls = zip(*items[start : start + MAX_TOOLS], strict=True)
                yield _of_calls(paths), _calls(calls)
        else:
            yield from (_of_item(path, item) for path, item in items)


def _text(path: str) -> Origin:
    return lambda _within: path


def _of_calls(paths: Sequence[str]) -> Origin:
    def origin(within: str) -> str:
        found = _CALL.match(within)
        if not found:
            return paths[0]
        return paths[int(found[1])] + within[found.end() :].replace(".id", ".call_id")

    return origin


def _of_item(path: str, item: Item) -> tuple[Origin, Message]:
    if isinstance(item, CallOutputItem):
        message = Message(role="tool", tool_call_id=item.call_id, content=_content(item.output))
        return lambda within: path + within.replace(".content", ".output", 1), message
    assert isinstance(item, MessageItem)
    return lambda within: path + within, Message(role=item.role, content=_content(item.content))


def _calls(items: Sequence[Item]) -> Message:
    calls = [
        ToolCall(id=item.call_id, function=FunctionCall(name=item.name, arguments=item.arguments))
        for item in items
        if isinstance(item, CallItem)
    ]
    return Message(role="assistant", tool_calls=calls)


def _content(content: str | list[Content]) -> str | list[Part]:
    """Returns what a message holds: nothing said is an empty text."""
    return content if isinstance(content, str) else [_part(part) for part in content] or ""


def _part(part: Content) -> Part:
    match part:
        case ImageContent():
            return ImagePart(type="image_url", image_url=part.image_url)
        case AudioContent():
            return AudioPart(type="input_audio", input_audio=part.input_audio)
        case RefusalContent():
            return RefusalPart(type="refusal", refusal=part.refusal)
        case _:
            return TextPart(type="text", text=part.text)


def _format(body: ResponsesFields) -> TextFormat | JsonObjectFormat | JsonSchemaFormat | None:
    form = body.text.format if body.text else None
    if not isinstance(form, FlatJsonSchemaFormat):
        return form
    return JsonSchemaFormat(type="json_schema", json_schema=form)


def _tool_choice(body: ResponsesFields) -> ToolChoice | None:
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        return NamedToolChoice(type="function", function=choice)
    return choice
