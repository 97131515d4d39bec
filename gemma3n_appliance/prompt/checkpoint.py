"""What a checkpoint's files say about prompts: template, tokens, and how it likes to be sampled."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Resampling
from tokenizers import Tokenizer

from ..errors import ModelLoadError
from .images import Resize
from .template import ChatTemplate
from .tokens import PromptTokenizer, SoftTokens

NUM_IMAGE_TOKENS = 256
NUM_AUDIO_TOKENS = 188


@dataclass(frozen=True)
class PromptFiles:
    """A checkpoint, as far as prompts are concerned; ``top_k`` and ``top_p`` are its own defaults.

    ``bos_token`` begins a prompt that has no template; empty where there is none. ``resize`` is None where
    the image processor takes pictures of any size.
    """

    template: ChatTemplate
    tokenizer: PromptTokenizer
    bos_token: str
    resize: Resize | None
    num_image_tokens: int
    num_audio_tokens: int
    top_k: int
    top_p: float


def read(directory: Path) -> PromptFiles:
    """Reads the files that transformers' processor would.

    Raises:
        ModelLoadError: a file is missing or broken, or the checkpoint has no chat template.
    """
    config = _json(directory / "tokenizer_config.json")
    processor = _json(directory / "processor_config.json") | _json(directory / "preprocessor_config.json")
    generation = _json(directory / "generation_config.json")
    num_image_tokens = int(processor.get("image_seq_length", NUM_IMAGE_TOKENS))
    num_audio_tokens = int(processor.get("audio_seq_length", NUM_AUDIO_TOKENS))
    named = _named_tokens(config)
    image = SoftTokens.between(
        named.get("boi_token", "<start_of_image>"),
        named.get("image_token", "<image_soft_token>"),
        named.get("eoi_token", "<end_of_image>"),
        num_image_tokens,
    )
    audio = SoftTokens.between(
        named.get("boa_token", "<start_of_audio>"),
        named.get("audio_token", "<audio_soft_token>"),
        named.get("eoa_token", "<end_of_audio>"),
        num_audio_tokens,
    )
    return PromptFiles(
        template=ChatTemplate(_template(directory, config), named),
        tokenizer=PromptTokenizer(_tokenizer(directory / "tokenizer.json"), (image, audio)),
        bos_token=named.get("bos_token", ""),
        resize=_resize(directory),
        num_image_tokens=num_image_tokens,
        num_audio_tokens=num_audio_tokens,
        top_k=int(generation.get("top_k") or 0),
        top_p=float(generation.get("top_p") or 1.0),
    )


def _json(path: Path) -> dict[str, Any]:
    """Returns an empty object where there is no such file: all of them are optional."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{path} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _resize(directory: Path) -> Resize | None:
    """Reads the image processor's size; older releases keep it at the top of a file of its own."""
    processor = _json(directory / "processor_config.json").get("image_processor")
    if not isinstance(processor, dict):
        processor = _json(directory / "preprocessor_config.json")
    default = Resize()
    size = processor.get("size") or {"width": default.width, "height": default.height}
    resample = processor.get("resample")
    if processor.get("do_resize") is False or not isinstance(size, dict) or {"width", "height"} - {*size}:
        return None
    try:
        return Resize(
            int(size["width"]),
            int(size["height"]),
            default.resample if resample is None else Resampling(resample),
        )
    except (TypeError, ValueError) as error:
        raise ModelLoadError(f"{directory}: the image processor cannot be used: {error}") from error


def _named_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Returns the texts of ``bos_token``, ``image_token`` and the like, wherever a release keeps them."""
    extra = config.get("extra_special_tokens")
    entries = (extra if isinstance(extra, dict) else {}) | config
    texts = {name: _token_text(value) for name, value in entries.items() if name.endswith("_token")}
    return {name: text for name, text in texts.items() if text}


def _token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _template(directory: Path, config: dict[str, Any]) -> str:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = _json(directory / "chat_template.json").get("chat_template") or config.get("chat_template")
    if not isinstance(template, str):
        raise ModelLoadError(
            f"{directory} has no chat template: it is a base checkpoint. "
            "Set MODEL_NAME to an instruction-tuned one, such as google/gemma-3n-E4B-it."
        )
    return template


def _tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ModelLoadError(f"{path} is missing: run `gemma3n-appliance download`.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises nothing more precise
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
