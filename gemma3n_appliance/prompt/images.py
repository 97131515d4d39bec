"""Decodes one picture, whoever made it: upright, RGB, and never larger than the model sees."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import structlog
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from ..engine.request import Image
from ..errors import InvalidRequestError

log = structlog.get_logger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

# As in a JPEG. A line of 40 million pixels would cost its resizing 640 MB of coefficients.
_MAX_SIDE = 65_535

# Our own limit is checked from the header; Pillow's would only warn about it.
Pillow.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class Resize:
    """What the checkpoint's image processor makes of every picture, in pixels and with Pillow's filter."""

    width: int = 768
    height: int = 768
    resample: Pillow.Resampling = Pillow.Resampling.BILINEAR

    def __call__(self, picture: Pillow.Image) -> Pillow.Image:
        """Does to a large picture what the processor would, which then finds nothing left to do.

        The same call over the same pixels: the tower sees not a bit else, and a request full of photographs
        fits in memory. A small picture would only grow, and is left to the processor.
        """
        if picture.width * picture.height <= self.width * self.height:
            return picture
        return picture.resize((self.width, self.height), self.resample)


def decode(content: bytes, max_pixels: int, resize: Resize | None, param: str) -> Image:
    """Returns the picture (the first frame of an animation) on white where it is transparent.

    ``resize`` is None for a processor that takes pictures of any size.

    Raises:
        InvalidRequestError: not a picture in one of FORMATS, broken, or of more than ``max_pixels`` or
                65,535 a side.
    """
    try:
        with Pillow.open(BytesIO(content), formats=FORMATS) as picture:
            _check_size(picture, max_pixels, param)
            ImageOps.exif_transpose(picture, in_place=True)  # anything else copies upright pictures, too
            rgb = _to_rgb(picture)
            rgb = resize(rgb) if resize else rgb
            return Image(rgb.width, rgb.height, rgb.tobytes())
    except (InvalidRequestError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise InvalidRequestError(
            f"'{param}' is not a picture this server reads: send one of {', '.join(FORMATS)}.", param=param
        ) from None
    except Exception as error:  # decoders raise nearly anything over hostile bytes
        log.debug("broken_image", param=param, error=repr(error))
        raise InvalidRequestError(f"'{param}' is broken or truncated: {error}.", param=param) from error


def _check_size(picture: Pillow.Image, max_pixels: int, param: str) -> None:
    if picture.width * picture.height > max_pixels or max(picture.size) > _MAX_SIDE:
        raise InvalidRequestError(
            f"'{param}' has {picture.width} x {picture.height} pixels, and this server takes {max_pixels} "
            f"at most and {_MAX_SIDE} a side. Send a smaller picture: the model sees less than that.",
            param=param,
        )


def _to_rgb(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode.startswith("I"):
        return _from_16_bit(picture)
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    rgba = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    rgb = Pillow.new("RGB", rgba.size, "white")
    rgb.paste(rgba, mask=rgba.getchannel("A"))
    return rgb


def _from_16_bit(picture: Pillow.Image) -> Pillow.Image:
    """Keeps the upper byte; Pillow would clip at 255."""
    samples = np.asarray(picture) >> 8
    return Pillow.fromarray(np.clip(samples, 0, 255).astype(np.uint8)).convert("RGB")
