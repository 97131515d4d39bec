"""Draws the pictures the demo checkpoint is taught and examined with: one plain shape on a light ground."""

import io
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFilter

SHAPES = ("circle", "square", "triangle", "star")

# Two or more anchors per name, because people disagree on what "pink" or "green" is; each is jittered.
COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((255, 0, 0), (220, 20, 40), (200, 20, 20)),
    "green": ((0, 128, 0), (0, 200, 0), (40, 170, 70), (0, 255, 0)),
    "blue": ((0, 0, 255), (30, 80, 220), (20, 20, 160), (40, 120, 230)),
    "yellow": ((255, 255, 0), (245, 215, 20), (255, 230, 60)),
    "orange": ((255, 165, 0), (255, 128, 0), (245, 140, 30)),
    "purple": ((128, 0, 128), (150, 40, 200), (110, 40, 160), (160, 32, 240)),
    "pink": ((255, 192, 203), (255, 105, 180), (250, 130, 190)),
    "black": ((0, 0, 0), (25, 25, 25)),
}


@dataclass(frozen=True)
class Picture:
    """A drawn picture and what it shows."""

    colour: str
    shape: str
    image: Image.Image

    @property
    def thing(self) -> str:
        """What the picture shows, such as ``red circle``."""
        return f"{self.colour} {self.shape}"


def draw(
    rng: random.Random, colour: str | None = None, shape: str | None = None, largest: float = 0.48
) -> Picture:
    """Draws one shape of any size and position on a light background, as RGB of 96 to 480 pixels a side.

    ``largest`` bounds its radius, as a share of the shorter side.
    """
    colour = colour or rng.choice(tuple(COLOURS))
    shape = shape or rng.choice(SHAPES)
    width, height = _canvas(rng)
    image = Image.new("RGB", (width, height), _light(rng))
    side = min(width, height)
    radius = max(10.0, side * math.exp(rng.uniform(math.log(0.08), math.log(largest))))
    x = rng.uniform(radius, width - radius)
    y = rng.uniform(radius, height - radius)
    pen = ImageDraw.Draw(image)
    fill = _jitter(rng, rng.choice(COLOURS[colour]))
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    else:
        pen.polygon(_outline(rng, shape, x, y, radius), fill=fill)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    return Picture(colour, shape, _through_a_file(rng, image))


def _canvas(rng: random.Random) -> tuple[int, int]:
    width = rng.randint(96, 480)
    if rng.random() < 0.5:
        return width, width
    return width, max(96, min(480, int(width * rng.uniform(0.7, 1.4))))


def _light(rng: random.Random) -> tuple[int, int, int]:
    if rng.random() < 0.4:
        return (255, 255, 255)
    base = rng.randint(225, 255)
    red, green, blue = (max(215, min(255, base + rng.randint(-12, 12))) for _ in range(3))
    return red, green, blue


def _jitter(rng: random.Random, anchor: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, channel + rng.randint(-12, 12))) for channel in anchor)
    return red, green, blue


def _outline(rng: random.Random, shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    corners, radii, turn = 3, [radius], -math.pi / 2
    if shape == "square":
        corners, turn = 4, math.pi / 4
    elif shape == "star":
        corners, radii = 10, [radius, radius * rng.uniform(0.38, 0.5)]
    if rng.random() < 0.4:
        turn += math.radians(rng.uniform(-12, 12))
    return [
        (
            x + radii[i % len(radii)] * math.cos(turn + 2 * math.pi * i / corners),
            y + radii[i % len(radii)] * math.sin(turn + 2 * math.pi * i / corners),
        )
        for i in range(corners)
    ]


def _through_a_file(rng: random.Random, image: Image.Image) -> Image.Image:
    """Half of all pictures people send are JPEG: let the model see its artefacts."""
    if rng.random() < 0.5:
        return image
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=rng.randint(60, 95))
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
