"""Tokens as text again."""

from collections.abc import Iterable

from ..engine.runner import LoadedModel


def text_of(token_ids: Iterable[int], model: LoadedModel) -> str:
    """Returns the text that tokens stand for; control tokens by their names."""
    return b"".join(_bytes(token_id, model) for token_id in token_ids).decode(errors="replace")


def _bytes(token_id: int, model: LoadedModel) -> bytes:
    control = model.control_tokens.get(token_id)
    return model.pieces[token_id] if control is None else control.encode()
