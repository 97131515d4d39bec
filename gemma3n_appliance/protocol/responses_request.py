"""The body of ``POST /v1/responses``, whose conversations the client keeps: nothing is stored here."""

from functools import cached_property

from ..errors import InvalidRequestError
from .absent import refuse_absent
from .responses_chat import ResponsesChat
from .responses_fields import LOGPROBS, ResponsesFields


class ResponsesRequest(ResponsesFields):
    """A conversation to answer, and how."""

    def check(self) -> None:
        """Raises InvalidRequestError for what is not there, and for fields that need or contradict others."""
        refuse_absent(self)
        if self.reasoning:
            refuse_absent(self.reasoning, "reasoning.")
        if self.top_logprobs and not self.has_logprobs:
            raise InvalidRequestError(
                f"'top_logprobs' is only allowed where 'include' has {LOGPROBS}.", param="top_logprobs"
            )
        if self.stream_options and not self.stream:
            raise InvalidRequestError(
                "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
            )
        self.chat.check()

    @property
    def pictures_elsewhere(self) -> dict[str, str]:
        """The URLs of pictures that would have to be fetched, with their paths in the request."""
        pictures = self.chat.body.pictures_elsewhere
        return {url: self.chat.renamed(param) for url, param in pictures.items()}

    @cached_property
    def chat(self) -> ResponsesChat:
        """The chat that it is. Raises InvalidRequestError where it is none."""
        return ResponsesChat(self)
