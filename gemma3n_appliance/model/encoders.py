"""Pictures and clips → soft tokens, through the checkpoint's own processors and towers.

Importing this needs torchvision, hence `make_torchvision_importable` first.
"""

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoFeatureExtractor, AutoImageProcessor, Gemma3nModel

from ..engine.request import Audio, Image, Media
from ..errors import InvalidRequestError

_LONGEST_CLIP_S = 30


class Encoders:
    """The vision and audio side of one model."""

    def __init__(self, model: Gemma3nModel, directory: Path) -> None:
        """``model`` may be without its text model."""
        self._model = model
        self._config = model.config
        # torchvision's resize differs from PIL's, and PIL is what is at hand everywhere.
        self._image_processor = AutoImageProcessor.from_pretrained(
            directory, backend="pil", local_files_only=True
        )
        self._feature_extractor = AutoFeatureExtractor.from_pretrained(directory, local_files_only=True)

    @property
    def placeholder_ids(self) -> frozenset[int]:
        """See `MediaEncoder`."""
        return frozenset((self._config.image_token_id, self._config.audio_token_id))

    def token_id(self, media: Media) -> int:
        """See `MediaEncoder`."""
        return self._config.image_token_id if isinstance(media, Image) else self._config.audio_token_id

    def num_soft_tokens(self, media: Media) -> int:
        """Returns how many places one of this kind fills.

        Raises:
            InvalidRequestError: the clip is too long. The extractor would cut it without a word.
        """
        if isinstance(media, Image):
            return self._config.vision_soft_tokens_per_image
        seconds = len(media.samples) / np.float32().nbytes / self._feature_extractor.sampling_rate
        if seconds > _LONGEST_CLIP_S:
            raise InvalidRequestError(
                f"The audio is {seconds:.1f} s long; the limit is {_LONGEST_CLIP_S} s. Split it into several."
            )
        return self._config.audio_soft_tokens_per_image

    def encode(self, media: Media) -> Tensor:
        """Returns ``[num_soft_tokens, hidden_size]`` in the language model's space.

        One at a time: a clip's features depend on how long the others in its batch are.
        """
        return self._encode_image(media) if isinstance(media, Image) else self._encode_audio(media)

    def _encode_image(self, image: Image) -> Tensor:
        picture = PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb)
        pixels = self._image_processor(images=picture, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self._model.device, self._model.dtype)
        return self._model.get_image_features(pixels, return_dict=True).pooler_output[0]

    def _encode_audio(self, audio: Audio) -> Tensor:
        extracted = self._feature_extractor(self._samples(audio), return_tensors="pt")
        features = extracted["input_features"].to(self._model.device, self._model.dtype)
        is_padding = ~extracted["input_features_mask"].to(self._model.device)
        encoded = self._model.get_audio_features(features, is_padding, return_dict=True)
        # Gemma3nModel.forward overwrites padded frames, too; a clip on its own has none.
        heard = encoded.pooler_output[0]
        missing = self._config.audio_soft_tokens_per_image - len(heard)
        return torch.cat([heard, self._audio_padding().expand(missing, -1)])

    def _samples(self, audio: Audio) -> np.ndarray:
        """Returns the samples, with silence after a clip too short for a single spectrogram frame."""
        samples = torch.frombuffer(bytearray(audio.samples), dtype=torch.float32)
        missing = self._feature_extractor.frame_length + 1 - len(samples)
        return functional.pad(samples, (0, max(0, missing))).numpy()

    def _audio_padding(self) -> Tensor:
        """Returns ``[1, hidden_size]``: the last id of the vocabulary, as Gemma3nModel.forward pads clips."""
        last = torch.tensor([self._config.get_text_config().vocab_size - 1], device=self._model.device)
        return self._model.embed_audio(input_ids=last)
