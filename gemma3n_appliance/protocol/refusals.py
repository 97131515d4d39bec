"""Refuses what a well-formed request asks for and this server does not do."""

from ..errors import InvalidRequestError
from .absent import refuse_absent
from .chat_fields import ChatFields
from .generation_fields import GenerationFields
from .messages import AudioPart, ImagePart, Message
from .tools import NamedToolChoice


def refuse_unsupported(request: ChatFields) -> None:
    """Checks what single fields cannot: parameters not there yet, and fields that contradict each other.

    Raises:
        UnsupportedParameterError: names a parameter whose value asks for something.
        InvalidRequestError: two fields do not go together.
    """
    refuse_absent(request)
    check_stream_options(request)
    _check_max_tokens(request)
    _check_logprobs(request)
    check_structure(request)
    _check_tools(request)
    for index, message in enumerate(request.messages):
        _check_message(message, f"messages[{index}]")


def check_stream_options(request: GenerationFields) -> None:
    """Raises InvalidRequestError where there is no stream to have options for."""
    if request.stream_options and not request.stream:
        raise InvalidRequestError(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )


def _check_max_tokens(request: ChatFields) -> None:
    limits = (request.max_tokens, request.max_completion_tokens)
    if None not in limits and limits[0] != limits[1]:
        raise InvalidRequestError(
            "'max_tokens' and 'max_completion_tokens' differ: send only one of them.", param="max_tokens"
        )


def _check_logprobs(request: ChatFields) -> None:
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs"
        )


def check_structure(request: GenerationFields) -> None:
    """Raises InvalidRequestError where an answer cannot have the form, or all of the forms, asked for."""
    form = request.structured_outputs
    forms = form.given if form else ()
    if form:
        refuse_absent(form, "structured_outputs.")
    if len(forms) > 1:
        raise InvalidRequestError(
            f"'structured_outputs' takes one of {', '.join(forms)}, not several.", param="structured_outputs"
        )
    has_format = request.response_format is not None and request.response_format.type != "text"
    if has_format and forms:
        raise InvalidRequestError(
            "'structured_outputs' and another form both say what to answer: send only one of them.",
            param="structured_outputs",
        )
    if has_format or forms:
        _check_end(request)


def _check_end(request: GenerationFields) -> None:
    if request.ignore_eos:
        raise InvalidRequestError(
            "'ignore_eos' cannot go on where a structured answer or a call ends: leave it out.",
            param="ignore_eos",
        )


def _check_tools(request: ChatFields) -> None:
    tools = request.tools or []
    if tools and request.tool_choice != "none":
        if request.structured_outputs and request.structured_outputs.given:
            raise InvalidRequestError(
                "'structured_outputs' leaves no room for calls: leave it out, or tool_choice 'none'.",
                param="structured_outputs",
            )
        _check_end(request)
    names = [tool.function.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidRequestError(
                f"There are two functions '{name}'.", param=f"tools[{index}].function.name"
            )
        if (tools[index].function.parameters or {}).get("type", "object") != "object":
            raise InvalidRequestError(
                "The parameters of a function are an object.",
                param=f"tools[{index}].function.parameters.type",
            )
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
        raise InvalidRequestError(
            f"There is no function '{choice.function.name}' in 'tools'.", param="tool_choice.function.name"
        )
    if choice == "required" and not names:
        raise InvalidRequestError("'tool_choice' needs 'tools' to choose from.", param="tool_choice")


def _check_message(message: Message, path: str) -> None:
    refuse_absent(message, f"{path}.")
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequestError("Only role 'assistant' calls tools.", param=f"{path}.tool_calls")
    if (message.role == "tool") != bool(message.tool_call_id):
        raise InvalidRequestError(
            "A message of role 'tool', and no other, has the 'tool_call_id' that it answers.",
            param=f"{path}.tool_call_id",
        )
    if message.content is None and message.role != "assistant":
        raise InvalidRequestError(
            f"A message of role '{message.role}' needs content.", param=f"{path}.content"
        )
    if message.role not in ("user", "tool") and isinstance(message.content, list):
        _check_parts_are_text(message, path)


def _check_parts_are_text(message: Message, path: str) -> None:
    for index, part in enumerate(message.content or ()):
        if isinstance(part, ImagePart | AudioPart):
            raise InvalidRequestError(
                f"Only messages of users and tools can hold images and audio, not role '{message.role}'.",
                param=f"{path}.content[{index}]",
            )
