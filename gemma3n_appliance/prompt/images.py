"""Decodes one picture, whoever made it: upright, RGB, and never larger than the server allows."""

from io import BytesIO

import numpy as np
import structlog
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from ..engine.request import Image
from ..errors import InvalidRequestError

log = structlog.get_logger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

# The vision tower sees 768 x 768. Photographs are brought near twice that by whole factors, so that a
# message full of them fits in memory and what the tower sees stays the same.
_ENOUGH_SIDE = 1536

# Our own limit is checked from the header; Pillow's would only warn about it.
Pillow.MAX_IMAGE_PIXELS = None


def decode(content: bytes, max_pixels: int, param: str) -> Image:
    """Returns the picture (the first frame of an animation) on white where it is transparent.

    Raises:
        InvalidRequestError: not a picture in one of FORMATS, broken, or of more than ``max_pixels``.
    """
    try:
        with Pillow.open(BytesIO(content), formats=FORMATS) as picture:
            _check_size(picture, max_pixels, param)
            rgb = _near_enough(_to_rgb(ImageOps.exif_transpose(picture)))
    except (InvalidRequestError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise InvalidRequestError(
            f"'{param}' is not a picture this server reads: send one of {', '.join(FORMATS)}.", param=param
        ) from None
    except Exception as error:  # decoders raise nearly anything over hostile bytes
        log.debug("broken_image", param=param, error=repr(error))
        raise InvalidRequestError(f"'{param}' is broken or truncated: {error}.", param=param) from error
    return Image(rgb.width, rgb.height, rgb.tobytes())


def _check_size(picture: Pillow.Image, max_pixels: int, param: str) -> None:
    if picture.width * picture.height > max_pixels:
        raise InvalidRequestError(
            f"'{param}' has {picture.width} x {picture.height} pixels, and this server takes {max_pixels} "
            "at most. Send a smaller picture: the model sees 768 x 768.",
            param=param,
        )


def _to_rgb(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode.startswith("I"):
        return _from_16_bit(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    rgb = Pillow.new("RGB", rgba.size, "white")
    rgb.paste(rgba, mask=rgba.getchannel("A"))
    return rgb


def _from_16_bit(picture: Pillow.Image) -> Pillow.Image:
    """Keeps the upper byte; Pillow would clip at 255."""
    samples = np.asarray(picture).astype(np.int64) >> 8
    return Pillow.fromarray(np.clip(samples, 0, 255).astype(np.uint8)).convert("RGB")


def _near_enough(picture: Pillow.Image) -> Pillow.Image:
    return picture.reduce((max(1, picture.width // _ENOUGH_SIDE), max(1, picture.height // _ENOUGH_SIDE)))
