import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from gemma3n_appliance.errors import InvalidRequestError
from gemma3n_appliance.prompt import encoded, images
from tests.fakes.media import data_url, picture
from tests.fakes.media import encoded as file_of

RESIZE = images.Resize(80, 60)
RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)


def pixels(content: bytes, max_pixels: int = 1_000_000) -> np.ndarray:
    image = images.decode(content, max_pixels, RESIZE, "p")
    return np.frombuffer(image.rgb, np.uint8).reshape(image.height, image.width, 3)


def refusal(content: bytes, max_pixels: int = 1_000_000) -> str:
    with pytest.raises(InvalidRequestError) as refused:
        images.decode(content, max_pixels, RESIZE, "p")
    assert (refused.value.status, refused.value.param) == (400, "p")
    return refused.value.message


def near(pixel: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel.astype(int) - color).max() < 12)


@pytest.mark.parametrize("form", images.FORMATS)
def test_every_format_is_read(form):
    seen = pixels(picture(form))
    assert seen.shape == (6, 8, 3)
    assert near(seen[3, 4], RED)


@pytest.mark.parametrize("form", images.FORMATS)
@pytest.mark.parametrize("tail", [b"PK\x03\x04" + b"x" * 5000, b"<script>alert(1)</script>", b"\0" * 70_000])
def test_of_a_file_that_is_something_else_too_only_the_picture_counts(form, tail):
    assert (pixels(picture(form) + tail) == pixels(picture(form))).all()


@pytest.mark.parametrize("mode", ["CMYK", "L", "YCbCr"])
def test_jpegs_of_other_colour_spaces_become_rgb(mode):
    seen = pixels(picture("JPEG", color="white", mode=mode))
    assert near(seen[0, 0], WHITE)


def test_sixteen_bits_keep_their_shades():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    seen = pixels(file_of(Image.fromarray(ramp)))
    assert np.array_equal(seen[..., 0], ramp >> 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_is_white(mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert("LA" if mode == "LA" else "RGBA")
    content = file_of(image.quantize() if mode == "PA" else image)
    assert near(pixels(content)[0, 0], WHITE)


def test_a_palette_colour_can_be_transparent():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*BLUE, *RED])
    image.putpixel((1, 1), 1)
    seen = pixels(file_of(image, transparency=0))
    assert near(seen[0, 0], WHITE)
    assert near(seen[1, 1], RED)


def test_of_an_animation_the_first_frame_counts():
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for form in ("GIF", "WEBP", "PNG"):
        seen = pixels(file_of(first, form, save_all=True, append_images=[second]))
        assert near(seen[0, 0], RED)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_photograph_is_turned_upright(form):
    image = Image.new("RGB", (40, 20), "white")
    image.paste("red", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    seen = pixels(file_of(image, form, exif=exif, quality=95))
    assert seen.shape == (40, 20, 3)
    assert near(seen[5, 10], RED)
    assert near(seen[35, 10], WHITE)


@pytest.mark.parametrize("size", [(81, 60), (80, 61), (1600, 1200), (4801, 1), (1, 4801)])
def test_of_a_large_picture_remains_what_the_model_sees(size):
    seen = pixels(picture("JPEG", size=size), 2_000_000)
    assert seen.shape == (60, 80, 3)
    assert near(seen[30, 40], RED)


@pytest.mark.parametrize("size", [(80, 60), (60, 80), (4800, 1), (1, 1)])
def test_a_small_picture_stays_as_it_is(size):
    assert pixels(picture(size=size)).shape == (size[1], size[0], 3)


def test_a_processor_without_a_size_gets_pictures_as_they_are():
    assert images.decode(picture(size=(300, 200)), 100_000, None, "p").width == 300


def test_sixteen_bits_are_brought_to_eight_within_a_few_bytes_a_pixel():
    content = file_of(Image.new("I;16", (1000, 1000)))
    tracemalloc.start()
    pixels(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1_000_000


@pytest.mark.parametrize("form", images.FORMATS)
def test_a_truncated_file_is_refused(form):
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    content = file_of(Image.fromarray(noise), form)
    assert "broken or truncated" in refusal(content[: len(content) // 2])


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='x'/>",
        b"%PDF-1.4",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        picture("TIFF"),
        picture("PPM"),
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"\xff\xd8\xff",
    ],
)
def test_what_is_no_picture_of_a_known_format_is_refused(content):
    assert "'p'" in refusal(content)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (1001, 1000), (65_536, 1)]
)
def test_a_decompression_bomb_is_refused_by_its_header(width, height):
    assert f"{width} x {height} pixels" in refusal(bomb(width, height))


def test_a_picture_of_just_the_allowed_size_is_taken():
    assert pixels(picture(size=(80, 50)), 4_000).shape == (50, 80, 3)
    assert "80 x 51 pixels" in refusal(picture(size=(80, 51)), 4_000)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://example.org/cat.png", "does not fetch"),
        ("HTTP://169.254.169.254/", "does not fetch"),
        ("ftp://example.org/cat.png", "does not fetch"),
        ("file:///etc/passwd", "data: URL"),
        ("/etc/passwd", "data: URL"),
        ("", "data: URL"),
        ("data:image/png,rawtext", "data: URL"),
        ("data:image/png;base64", "data: URL"),
        ("data:image/png;base64,???", "not valid base64"),
        ("data:image/png;base64,abcde", "not valid base64"),
        ("data:image/png;base64,abc===", "not valid base64"),
        ("data:image/png;base64,ab=cd", "not valid base64"),
        ("data:image/png;base64,ab%zz", "not valid base64"),
        ("data:image/png;base64,%", "not valid base64"),
        ("  ", "data: URL"),
        (" https://example.org/cat.png", "does not fetch"),
        ("data:image/png;base64,é", "not valid base64"),
        ("data:image/png;base64,", "0 bytes"),
    ],
)
def test_a_url_that_holds_no_picture_is_refused(url, said):
    with pytest.raises(InvalidRequestError, match=said) as refused:
        encoded.from_data_url(url, "p")
    assert refused.value.param == "p"


def test_base64_may_be_broken_into_lines():
    url = data_url(b"some bytes")
    assert encoded.from_data_url(url[:-6] + "\r\n" + url[-6:], "p") == b"some bytes"
    assert encoded.from_data_url(url.replace("data:", "DATA:"), "p") == b"some bytes"


@pytest.mark.parametrize(
    "data",
    ["+/+/+w==", "+/+/+w", "-_-_-w", "-_-_-w==", "%2B/%2b/%2Bw%3D%3d", "%2B%2F+%2f%2Bw", " +/+/%0D%0A+w=="],
)
def test_base64_is_read_however_it_was_written(data):
    assert encoded.from_data_url(f" data:image/png;base64,{data}", "p") == b"\xfb\xff\xbf\xfb"


def test_a_body_of_spaces_costs_no_more_than_its_size():
    data = "ab " * 1_000_000
    tracemalloc.start()
    assert len(encoded.from_base64(data, "p")) == 1_500_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(data)
