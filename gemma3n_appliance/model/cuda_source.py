"""The source of our CUDA kernels, in ``kernels``: compiled at the first start on a GPU, and kept."""

import hashlib
from pathlib import Path

import structlog
import torch

from . import nvrtc
from .quantized_files import sync

_DIRECTORY = Path(__file__).with_name("kernels")
_FILES = ("basics", "streams", "attention", "feed_forward", "products", "one_token")

# How launches are cut up. Of products with few tokens:
MULTIPLYING_WARPS, ROWS_OF_A_WARP = 4, 2
# Of attention; a part of fewer keys costs as much, and more parts are slow to put together.
ATTENDING_WARPS, KEYS_OF_A_PART, LARGEST_HEAD = 16, 64, 256
MOST_PARTS = 32
# Of each of a token's vectors.
NUMBERS_OF_A_THREAD = 4
# Of one token's products: so many blocks of so many threads to a multiprocessor, which has twice as many at
# a time, and 1,536 threads at most.
TOKEN_THREADS, TOKEN_BLOCKS = 512, 1
NEURONS_OF_A_PART = 1024

log = structlog.get_logger(__name__)


def source() -> str:
    """Returns all of it, as one text."""
    files = [(_DIRECTORY / name).with_suffix(".cu") for name in _FILES]
    # An error says in which of them it is.
    return "".join(f'#line 1 "{file.name}"\n{file.read_text()}' for file in files)


def options(dtype: torch.dtype, group: int) -> list[str]:
    """Returns what the source is compiled with; ``group`` is how many queries share a key."""
    values = {
        "BFLOAT16": int(dtype == torch.bfloat16),
        "GROUP": group,
        "MULTIPLYING_WARPS": MULTIPLYING_WARPS,
        "ROWS_OF_A_WARP": ROWS_OF_A_WARP,
        "ATTENDING_WARPS": ATTENDING_WARPS,
        "KEYS_OF_A_PART": KEYS_OF_A_PART,
        "LARGEST_HEAD": LARGEST_HEAD,
        "TOKEN_THREADS": TOKEN_THREADS,
        "TOKEN_BLOCKS": TOKEN_BLOCKS,
        "NEURONS_OF_A_PART": NEURONS_OF_A_PART,
    }
    return [f"--define-macro={name}={value}" for name, value in values.items()]


def module(given: list[str], cache_dir: Path | None) -> nvrtc.Module:
    """Returns machine code on the current GPU; compiling takes half a minute on a board."""
    text, architecture = source(), nvrtc.architecture()
    made_of = repr((text, architecture, given, torch.version.cuda)).encode()
    name = f"{hashlib.sha256(made_of).hexdigest()[:16]}.cubin"
    file = cache_dir / "kernels" / name if cache_dir else None
    if file and file.exists():
        try:
            return nvrtc.Module(file.read_bytes())
        except (nvrtc.CudaError, OSError) as error:
            log.warning("compiled kernels cannot be read: they are compiled again", reason=str(error))
    image = nvrtc.compiled(text, architecture, given)
    if file:
        _keep(file, image)
    return nvrtc.Module(image)


def _keep(file: Path, image: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_bytes(image)
        sync(partial)
        partial.rename(file)
    except OSError as error:
        log.warning("compiled kernels are not kept: the next start compiles them again", reason=str(error))
