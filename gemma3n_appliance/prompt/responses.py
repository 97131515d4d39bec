"""A request for a response as the chat that it is, and errors about that chat in the request's own words."""

import copy
import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from pydantic import ValidationError

from ..errors import InvalidRequestError
from ..protocol.chat_request import ChatCompletionRequest
from ..protocol.messages import AudioPart, ImagePart, Message, Part, RefusalPart, TextPart
from ..protocol.responses_format import FlatJsonSchemaFormat
from ..protocol.responses_request import (
    AudioContent,
    CallItem,
    CallOutputItem,
    Content,
    ImageContent,
    Item,
    MessageItem,
    ReasoningItem,
    RefusalContent,
    ResponsesRequest,
)
from ..protocol.responses_tools import NamedTool
from ..protocol.structured import JsonObjectFormat, JsonSchemaFormat, TextFormat
from ..protocol.tools import (
    MAX_TOOLS,
    FunctionCall,
    NamedToolChoice,
    Tool,
    ToolCall,
    ToolChoice,
)
from ..protocol.wire import refusal

_NEW_NAMES = (
    (re.compile(r"tools\[(\d+)\]\.function\."), r"tools[\1]."),
    (re.compile(r"tool_choice\.function\."), "tool_choice."),
    (re.compile(r"response_format\.json_schema\."), "text.format."),
    (re.compile(r"response_format"), "text.format"),
    (re.compile(r"max_(completion_)?tokens"), "max_output_tokens"),
)
_PLACE = re.compile(r"messages(?:\[(\d+)\])?")


class ResponsesChat:
    """The chat, and which item of the input each of its messages comes from."""

    def __init__(self, body: ResponsesRequest) -> None:
        """Raises InvalidRequestError where it would be no chat, or one whose fields contradict each other."""
        self._origins: list[str] = []
        try:
            said = list(_messages(body))
            self._origins = [origin for origin, _ in said]
            self.body = _chat(body, [message for _, message in said])
            self.body.check()
        except ValidationError as error:
            raise self.reworded(refusal(error)) from None
        except InvalidRequestError as error:
            raise self.reworded(error) from None

    def reworded(self, error: InvalidRequestError) -> InvalidRequestError:
        """Returns an error about the chat as one about the request."""
        reworded = copy.copy(error)
        reworded.message = self._reworded(error.message)
        reworded.param = self._reworded(error.param) if error.param else None
        return reworded

    def _reworded(self, text: str) -> str:
        for old, new in _NEW_NAMES:
            text = old.sub(new, text)
        return _PLACE.sub(self._place, text)

    def _place(self, found: re.Match[str]) -> str:
        index = int(found[1]) if found[1] else len(self._origins)
        return self._origins[index] if index < len(self._origins) else "input"


def _chat(body: ResponsesRequest, messages: list[Message]) -> ChatCompletionRequest:
    return ChatCompletionRequest(
        model=body.model,
        messages=messages,
        max_completion_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        logprobs=body.has_logprobs,
        top_logprobs=body.top_logprobs if body.has_logprobs else None,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body),
        tools=[Tool(type="function", function=tool) for tool in body.tools] if body.tools else None,
        tool_choice=_tool_choice(body),
    )


def _messages(body: ResponsesRequest) -> Iterator[tuple[str, Message]]:
    """Yields messages, each with the path to what it comes from. Calls in a row are one message's."""
    if body.instructions:
        yield "instructions", Message(role="system", content=body.instructions)
    if isinstance(body.input, str):
        yield "input", Message(role="user", content=body.input)
        return
    known = [(i, item) for i, item in enumerate(body.input) if not isinstance(item, ReasoningItem)]
    for are_calls, group in groupby(known, key=lambda each: isinstance(each[1], CallItem)):
        items = list(group)
        if are_calls:
            for start in range(0, len(items), MAX_TOOLS):
                together = items[start : start + MAX_TOOLS]
                yield f"input[{together[0][0]}]", _calls([item for _, item in together])
        else:
            yield from ((f"input[{i}]", _message(item)) for i, item in items)


def _calls(items: Sequence[Item]) -> Message:
    calls = [
        ToolCall(id=item.call_id, function=FunctionCall(name=item.name, arguments=item.arguments))
        for item in items
        if isinstance(item, CallItem)
    ]
    return Message(role="assistant", tool_calls=calls)


def _message(item: Item) -> Message:
    if isinstance(item, CallOutputItem):
        return Message(role="tool", tool_call_id=item.call_id, content=_content(item.output))
    assert isinstance(item, MessageItem)
    return Message(role=item.role, content=_content(item.content))


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


def _format(body: ResponsesRequest) -> TextFormat | JsonObjectFormat | JsonSchemaFormat | None:
    form = body.text.format if body.text else None
    if not isinstance(form, FlatJsonSchemaFormat):
        return form
    return JsonSchemaFormat(type="json_schema", json_schema=form)


def _tool_choice(body: ResponsesRequest) -> ToolChoice | None:
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        return NamedToolChoice(type="function", function=choice)
    return choice
