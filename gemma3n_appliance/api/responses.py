"""``POST /v1/responses``."""

import time
import uuid
from collections.abc import Mapping
from typing import Any

from ..engine.request import GenerationRequest
from ..engine.runner import LoadedModel
from ..errors import InvalidRequestError
from ..prompt.prompts import Prompts
from ..protocol.responses_format import FlatJsonSchemaFormat
from ..protocol.responses_reply import Response
from ..protocol.responses_request import ResponsesRequest
from ..reply.responses import ResponsesReply
from .generation import Asked


def ask(
    prompts: Prompts,
    body: ResponsesRequest,
    model: LoadedModel,
    request_id: str,
    fetched: Mapping[str, bytes],
) -> Asked:
    """Turns a request for a response into work for the engine, by way of the chat that it is."""
    try:
        prompt = prompts.for_chat(body.chat.body, model, request_id, fetched)
    except InvalidRequestError as error:
        raise body.chat.reworded(error) from None
    reply = ResponsesReply(_begun(body, prompt.request), prompt.num_image_tokens, prompt.num_audio_tokens)
    return Asked((prompt.request,), reply)


def _begun(body: ResponsesRequest, request: GenerationRequest) -> Response:
    """Returns the response before anything is said: what was asked for, and how that was understood."""
    return Response(
        id=f"resp_{uuid.uuid4().hex}",
        created_at=int(time.time()),
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=body.model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        temperature=request.sampling.temperature,
        text={"format": _format(body), "verbosity": "medium"},
        tool_choice=_tool_choice(body),
        tools=[tool.model_dump() for tool in body.tools or ()],
        top_logprobs=body.top_logprobs or 0,
        top_p=request.sampling.top_p,
        user=body.user,
    )


def _format(body: ResponsesRequest) -> dict[str, Any]:
    form = body.text.format if body.text else None
    if form is None:
        return {"type": "text"}
    if isinstance(form, FlatJsonSchemaFormat) and form.json_schema is None:
        return form.model_dump(by_alias=True) | {"schema": {"type": "object"}}
    return form.model_dump(by_alias=True)


def _tool_choice(body: ResponsesRequest) -> str | dict[str, Any]:
    choice = body.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump()
