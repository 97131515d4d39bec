"""Builds the demo checkpoint's tokenizer: Gemma's own construction over a small vocabulary.

Like Gemma's it is BPE with byte fallback in which spaces become ``▁``, digits are never merged, and the
control tokens have their usual texts. Merges are learnt from what the checkpoint is taught to say and
hear; capitals are left out so that spelling and shouting are learnt letter by letter.
"""

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer

from .architecture import MULTIMODAL_VOCAB_SIZE

_CONTROL = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<start_of_audio>",
)
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# What stands between JSON's words is merged over indented lines, or a schema would take twice the tokens.
_WORDS = Regex(r'▁?[a-z]+|▁?[A-Z][a-z]*|(?:["{}\[\]:,]|\n(?=▁)|▁(?=[▁"{}\[\]\n]))+|\n+|.')


def build(texts: Iterable[str], num_merges: int) -> GemmaTokenizer:
    """Learns ``num_merges`` merges from ``texts`` and returns the tokenizer.

    Its text ids come first; `<end_of_image>`, `<image_soft_token>`, `<end_of_audio>` and
    `<audio_soft_token>` follow in the vision and audio ranges.
    """
    learnt = _learn(texts, num_merges)
    base = (*_CONTROL, *_BYTES)
    pieces = [piece for piece, _ in sorted(learnt["vocab"].items(), key=lambda item: item[1])]
    vocab = {piece: i for i, piece in enumerate((*base, *(p for p in pieces if p not in base)))}
    merges = [tuple(merge) for merge in learnt["merges"]]
    offset = len(vocab)
    vocab.update(_range(offset, ("<end_of_image>", "<image_soft_token>"), "vision"))
    vocab.update(_range(offset + MULTIMODAL_VOCAB_SIZE, ("<end_of_audio>", "<audio_soft_token>"), "audio"))
    return GemmaTokenizer(
        vocab=vocab,
        merges=merges,
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
            "boa_token": "<start_of_audio>",
            "eoa_token": "<end_of_audio>",
            "audio_token": "<audio_soft_token>",
            "sot_token": "<start_of_turn>",
            "eot_token": "<end_of_turn>",
        },
        model_max_length=4096,
    )


def num_text_tokens(tokenizer: GemmaTokenizer) -> int:
    """Returns how many ids come before the vision range: the rows of the PLE table."""
    return len(tokenizer) - 2 * MULTIMODAL_VOCAB_SIZE


def _range(offset: int, named: tuple[str, ...], kind: str) -> dict[str, int]:
    unused = (f"<unused_{kind}_{i}>" for i in range(len(named), MULTIMODAL_VOCAB_SIZE))
    return {piece: offset + i for i, piece in enumerate((*named, *unused))}


def _learn(texts: Iterable[str], num_merges: int) -> dict:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_WORDS, behavior="isolated")
    printable = [chr(code) for code in range(0x20, 0x7F) if chr(code) != " "] + ["▁", "\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=len(printable) + num_merges, initial_alphabet=printable, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())["model"]
