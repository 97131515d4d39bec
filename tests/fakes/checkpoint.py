"""The files of a checkpoint that prompts need, made without transformers: every character is a token."""

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from gemma3n_appliance.engine.grammar import Grammars

TEMPLATE = Path(__file__).parents[2] / "gemma3n_appliance/demo/chat_template.jinja"
NUM_IMAGE_TOKENS = 4
NUM_AUDIO_TOKENS = 3
CONTROL = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
    "<start_of_audio>",
    "<end_of_audio>",
    "<audio_soft_token>",
)
CHARACTERS = "▁\n" + "".join(map(chr, range(0x21, 0x7F)))


def tokenizer() -> Tokenizer:
    pieces = (*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *CHARACTERS)
    vocab = {piece: i for i, piece in enumerate(pieces)}
    built = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    built.normalizer = normalizers.Replace(" ", "▁")
    built.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    built.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    return built


def pieces() -> list[bytes]:
    """What the characters stand for; bytes that no character covers are left out."""
    vocab = tokenizer().get_vocab()
    by_id = {i: piece for piece, i in vocab.items() if len(piece) == 1}
    return [by_id.get(i, "").replace("▁", " ").encode() for i in range(len(vocab))]


@cache
def grammars() -> Grammars:
    built = tokenizer()
    control = {i: token.content for i, token in built.get_added_tokens_decoder().items()}
    end = built.token_to_id("<end_of_turn>")
    return Grammars(pieces(), control, frozenset({end}), lambda text: built.encode(text).ids)


def write(
    directory: Path,
    *,
    template: bool = True,
    generation: dict | None = None,
    image_processor: dict | None = None,
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(directory / "tokenizer.json"))
    if template:
        (directory / "chat_template.jinja").write_text(TEMPLATE.read_text())
    for name, content in {
        "config.json": {"model_type": "gemma3n"},
        "tokenizer_config.json": {"bos_token": "<bos>", "eos_token": {"content": "<eos>"}},
        "processor_config.json": {
            "image_seq_length": NUM_IMAGE_TOKENS,
            "audio_seq_length": NUM_AUDIO_TOKENS,
        }
        | ({"image_processor": image_processor} if image_processor else {}),
        "generation_config.json": generation or {},
    }.items():
        (directory / name).write_text(json.dumps(content))
    return directory
