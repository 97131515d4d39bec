"""The body of ``POST /v1/chat/completions``."""

from .chat_fields import ChatFields
from .messages import AudioPart, ImagePart
from .refusals import refuse_unsupported
from .tools import FunctionDefinition, NamedToolChoice


class ChatCompletionRequest(ChatFields):
    """A conversation to continue, and how."""

    def check(self) -> None:
        """Raises InvalidRequestError where ``refusals`` has a rule against it."""
        refuse_unsupported(self)

    @property
    def has_media(self) -> bool:
        """Whether there are pictures or clips in it."""
        contents = (message.content for message in self.messages if isinstance(message.content, list))
        return any(isinstance(part, ImagePart | AudioPart) for content in contents for part in content)

    @property
    def pictures_elsewhere(self) -> dict[str, str]:
        """The URLs of pictures that would have to be fetched, with their paths in the request."""
        return {
            part.url: f"messages[{index}].content[{place}].image_url"
            for index, message in enumerate(self.messages)
            if isinstance(message.content, list)
            for place, part in enumerate(message.content)
            if isinstance(part, ImagePart) and part.is_elsewhere
        }

    @property
    def functions_to_call(self) -> tuple[FunctionDefinition, ...]:
        """The functions that the answer may call."""
        if self.tool_choice == "none":
            return ()
        known = tuple(tool.function for tool in self.tools or ())
        if isinstance(self.tool_choice, NamedToolChoice):
            named = self.tool_choice.function.name
            return tuple(function for function in known if function.name == named)
        return known

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedToolChoice)

    @property
    def may_call_in_parallel(self) -> bool:
        """Whether the answer may be several calls; of one function by name, one is asked for."""
        return self.parallel_tool_calls is not False and not isinstance(self.tool_choice, NamedToolChoice)

    @property
    def max_new_tokens(self) -> int | None:
        """How many tokens the client asks for at most, by either name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_top_logprobs(self) -> int | None:
        """How many of the likeliest tokens to tell of at every step; None if not even of the chosen one."""
        return (self.top_logprobs or 0) if self.logprobs else None
