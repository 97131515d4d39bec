"""What bytes each token id stands for."""

import re

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def control_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    """Returns the control tokens' names by their ids."""
    added = tokenizer.get_added_tokens_decoder().items()
    return {token_id: token.content for token_id, token in added if token.special}


def read(tokenizer: Tokenizer, vocab_size: int) -> tuple[bytes, ...]:
    """Returns the bytes of every id a model of ``vocab_size`` can produce.

    Control tokens, and ids that have no token, stand for none.
    """
    control = control_tokens(tokenizer)
    texts = {token_id: text for text, token_id in tokenizer.get_vocab().items() if token_id not in control}
    num_ids = max(vocab_size, max(texts, default=0) + 1)
    return tuple(_bytes(texts.get(token_id, "")) for token_id in range(num_ids))


def _bytes(text: str) -> bytes:
    """SentencePiece's way of writing: ``▁`` is a space, ``<0xNN>`` is a byte that no piece covers."""
    if byte := _BYTE.fullmatch(text):
        return bytes.fromhex(byte[1])
    return text.replace("▁", " ").encode()
