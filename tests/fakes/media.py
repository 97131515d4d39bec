"""Pictures and clips, whole and broken, made on the spot."""

import base64
from io import BytesIO

import numpy as np
import soundfile
from PIL import Image


def picture(
    form: str = "PNG", size: tuple[int, int] = (8, 6), color: str = "red", mode: str = "RGB"
) -> bytes:
    return encoded(Image.new("RGB", size, color).convert(mode), form)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def tone(
    seconds: float = 1.0, rate: int = 16_000, form: str = "WAV", channels: int = 1, hertz: float = 440.0
) -> bytes:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    return clip(np.repeat(wave[:, None], channels, axis=1), rate, form)


def clip(samples: np.ndarray, rate: int = 16_000, form: str = "WAV", subtype: str | None = None) -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def image_part(content: bytes | None = None) -> dict:
    return {"type": "image_url", "image_url": {"url": data_url(content or picture()), "detail": "auto"}}


def audio_part(content: bytes | None = None, form: str = "wav") -> dict:
    data = base64.b64encode(content or tone()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
