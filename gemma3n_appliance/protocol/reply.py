"""What replies of every kind have in common."""

from pydantic import BaseModel


class Reply(BaseModel):
    """What is set is sent, null included, and what is left out stays out, whatever its default."""

    @property
    def event_name(self) -> str | None:
        """The name that it has as an event of a stream, if such events have names."""
        return None

    def to_json(self) -> bytes:
        """The object as it goes over the wire."""
        return self.model_dump_json(exclude_unset=True).encode()


class PromptTokensDetails(BaseModel):
    """What the prompt tokens were; ``cached_tokens`` cost no computing."""

    cached_tokens: int
    audio_tokens: int
    image_tokens: int


class Usage(BaseModel):
    """What a request cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
