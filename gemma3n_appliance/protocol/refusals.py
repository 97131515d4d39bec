"""Refuses what a well-formed request asks for and this server does not do."""

from typing import Any

from ..errors import InvalidRequestError, UnsupportedParameterError
from .chat_fields import ChatFields
from .generation_fields import GenerationFields
from .messages import AudioPart, ImagePart, Message
from .tools import NamedToolChoice
from .wire import WireModel

# Values that ask for nothing. None does so for every parameter.
_NEUTRAL_IN_ALL: dict[str, tuple[Any, ...]] = {
    "bad_words": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "min_tokens": (0,),
    "prompt_logprobs": (),
    "stop_token_ids": ([],),
    "use_beam_search": (False,),
}
_NEUTRAL_IN_CHATS: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
}


def refuse_unsupported(request: ChatFields) -> None:
    """Checks what single fields cannot: parameters not there yet, and fields that contradict each other.

    Raises:
        UnsupportedParameterError: names a parameter whose value asks for something.
        InvalidRequestError: two fields do not go together.
    """
    refuse_named(request, _NEUTRAL_IN_CHATS)
    check_stream_options(request)
    _check_max_tokens(request)
    _check_logprobs(request)
    check_structure(request)
    _check_tools(request)
    for index, message in enumerate(request.messages):
        _check_message(message, f"messages[{index}]")


def refuse_named(request: GenerationFields, neutral: dict[str, tuple[Any, ...]]) -> None:
    """Raises UnsupportedParameterError for a parameter whose value asks for what no request can have.

    ``neutral`` lists those of the one kind of request, with the values that ask for nothing.
    """
    refuse_values(request, _NEUTRAL_IN_ALL | neutral)


def refuse_values(request: WireModel, neutral: dict[str, tuple[Any, ...]]) -> None:
    """Raises UnsupportedParameterError for a parameter that has a value not listed as ``neutral``."""
    for name, values in neutral.items():
        value = getattr(request, name)
        if value is not None and value not in values:
            raise unsupported(name)


def check_stream_options(request: GenerationFields) -> None:
    """Raises InvalidRequestError where there is no stream to have options for."""
    if request.stream_options and not request.stream:
        raise InvalidRequestError(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )


def unsupported(param: str) -> UnsupportedParameterError:
    """Returns what says that a parameter asks for what is not there."""
    return UnsupportedParameterError(
        f"'{param}' is not supported by this server: leave it out or at its default.", param=param
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
    if form and form.unsupported:
        raise unsupported(f"structured_outputs.{form.unsupported[0]}")
    if len(forms) > 1:
        raise InvalidRequestError(
            f"'structured_outputs' takes one of {', '.join(forms)}, not several.", param="structured_outputs"
        )
    has_format = request.response_format is not None and request.response_format.type != "text"
    if has_format and forms:
        raise InvalidRequestError(
            "'response_format' and 'structured_outputs' both say what to answer: send only one of them.",
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
                "'structured_outputs' leaves no room for calls: use 'response_format' or tool_choice 'none'.",
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
    for name in ("audio", "function_call"):
        if getattr(message, name):
            raise unsupported(f"{path}.{name}")
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
