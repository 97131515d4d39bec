"""Refuses what a well-formed chat request asks for and this server does not do."""

from typing import Any

from ..errors import InvalidRequestError, UnsupportedParameterError
from .chat_fields import ChatFields
from .messages import AudioPart, ImagePart, Message

# Values that ask for nothing. None does so for every parameter.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "stop_token_ids": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}


def refuse_unsupported(request: ChatFields) -> None:
    """Checks what single fields cannot: parameters not there yet, and fields that contradict each other.

    Raises:
        UnsupportedParameterError: names a parameter whose value asks for something.
        InvalidRequestError: two fields do not go together.
    """
    for name, neutral in _NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and value not in neutral:
            raise _unsupported(name)
    _check_stream_options(request)
    _check_max_tokens(request)
    _check_logprobs(request)
    _check_structure(request)
    for index, message in enumerate(request.messages):
        _check_message(message, f"messages[{index}]")


def _unsupported(param: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(
        f"'{param}' is not supported by this server: leave it out or at its default.", param=param
    )


def _check_stream_options(request: ChatFields) -> None:
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


def _check_structure(request: ChatFields) -> None:
    form = request.structured_outputs
    forms = form.given if form else ()
    if form and form.unsupported:
        raise _unsupported(f"structured_outputs.{form.unsupported[0]}")
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
    if (has_format or forms) and request.ignore_eos:
        raise InvalidRequestError(
            "'ignore_eos' cannot go on where a structured answer ends: leave it out.", param="ignore_eos"
        )


def _check_message(message: Message, path: str) -> None:
    if message.role == "tool":
        raise UnsupportedParameterError(
            "Messages of role 'tool' are not supported by this server.", param=f"{path}.role"
        )
    for name in ("audio", "tool_calls", "tool_call_id", "function_call"):
        if getattr(message, name):
            raise _unsupported(f"{path}.{name}")
    if message.content is None and message.role != "assistant":
        raise InvalidRequestError(
            f"A message of role '{message.role}' needs content.", param=f"{path}.content"
        )
    if message.role != "user" and isinstance(message.content, list):
        _check_parts_are_text(message, path)


def _check_parts_are_text(message: Message, path: str) -> None:
    for index, part in enumerate(message.content or ()):
        if isinstance(part, ImagePart | AudioPart):
            raise InvalidRequestError(
                f"Only user messages can hold images and audio, not role '{message.role}'.",
                param=f"{path}.content[{index}]",
            )
