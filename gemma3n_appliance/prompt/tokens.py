"""Encodes a rendered prompt: control tokens where the template wrote them, and nowhere else."""

import re
from dataclasses import dataclass

from tokenizers import Tokenizer

from .template import Rendered


@dataclass(frozen=True, slots=True)
class SoftTokens:
    """What stands for one image or clip: ``placeholder`` in the template, ``sequence`` in the prompt."""

    placeholder: str
    sequence: str
    count: int

    @classmethod
    def between(cls, begin: str, token: str, end: str, count: int) -> "SoftTokens":
        """As Gemma3nProcessor builds it: the blank lines become one piece with the text around them."""
        return cls(token, f"\n\n{begin}{token * count}{end}\n\n", count)


class PromptTokenizer:
    """The checkpoint's tokenizer, which never sees a control token in what a user wrote.

    ``soft_token_ids`` stand for parts of pictures and clips.
    """

    def __init__(self, tokenizer: Tokenizer, soft_tokens: tuple[SoftTokens, ...]) -> None:
        """Takes the tokenizer over: it must not be used elsewhere."""
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._soft_tokens = soft_tokens
        self._control_ids = {
            token.content: token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        self.soft_token_ids = frozenset(
            self._control_ids[soft.placeholder]
            for soft in soft_tokens
            if soft.placeholder in self._control_ids
        )
        longest_first = sorted(self._control_ids, key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._longest_token = max(map(len, tokenizer.get_vocab()))

    def fewest_tokens(self, num_characters: int) -> int:
        """The number of tokens below which no text of that length can be encoded."""
        return num_characters // self._longest_token

    def encode(self, rendered: Rendered) -> list[int]:
        """Returns the prompt's ids, soft tokens in their full number."""
        skeleton = rendered.skeleton
        for soft in self._soft_tokens:
            skeleton = skeleton.replace(soft.placeholder, soft.sequence)
        ids: list[int] = []
        for i, piece in enumerate(self._control.split(skeleton)):
            if i % 2:
                ids.append(self._control_ids[piece])
            elif piece:
                ids += self._tokenizer.encode(rendered.fill(piece), add_special_tokens=False).ids
        return ids
