"""How many slots, and of how long a context, there is memory for."""

import gc
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
import torch

from ..errors import InsufficientMemoryError
from .kv_cache import bytes_per_position
from .parts import TextDecoder

Asked = int | Literal["auto"]

MEMORY = Path("/proc/meminfo")
# For what a step computes with, the encoders' activations, and rows of the per-layer table in the page cache.
_LEFT_FREE = 1 << 30
# Wanted where memory does not say how many or how long; the first that there is room for.
_SLOTS = (8, 4, 2, 1)
_CONTEXT = 8192
_SHORTEST_CONTEXT = 512
_GRANULE = 256

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CacheSize:
    """What the cache may grow to."""

    num_slots: int
    max_context: int


def fitting(decoder: TextDecoder, num_slots: Asked, context_length: Asked) -> CacheSize:
    """Returns a size for the memory that is free now, with the model loaded.

    Raises:
        InsufficientMemoryError: there is not even room for one request.
    """
    if decoder.device.type == "cuda":  # what loading has used and left would count as taken
        gc.collect()
        torch.cuda.empty_cache()
    available = _available_bytes(decoder.device)
    room = max(available - _LEFT_FREE, available // 4)
    per_position = bytes_per_position(decoder.config, decoder.dtype)
    size = choose(num_slots, context_length, room // per_position, decoder.config.max_position_embeddings)
    if size.num_slots * size.max_context * per_position > room:
        log.warning(
            "memory may run out: lower NUM_SLOTS or CONTEXT_LENGTH, or leave them to be chosen",
            wanted_mb=size.num_slots * size.max_context * per_position >> 20,
            free_mb=available >> 20,
        )
    return size


def choose(num_slots: Asked, context_length: Asked, num_positions: int, longest: int) -> CacheSize:
    """Returns what is asked for, and of the rest as much as ``num_positions`` of all slots together allow.

    No context is longer than ``longest``.

    Raises:
        InsufficientMemoryError: that is too little for one request.
    """
    wanted = _CONTEXT if context_length == "auto" else context_length
    wanted = min(wanted, longest)
    if num_slots == "auto":
        num_slots = next((slots for slots in _SLOTS if slots * wanted <= num_positions), 1)
    if context_length != "auto":
        return CacheSize(num_slots, wanted)
    room = num_positions // num_slots
    context = longest if room >= longest else room // _GRANULE * _GRANULE
    if context < min(_SHORTEST_CONTEXT, longest):
        raise InsufficientMemoryError(
            "The model leaves no memory for a conversation. Set QUANTIZATION=int4, serve a smaller model, "
            "lower NUM_SLOTS, or end other programs.",
            retry_after_s=5,
        )
    return CacheSize(num_slots, context)


def _available_bytes(device: torch.device) -> int:
    """What can still be had where the cache will be.

    CPU and GPU of a Jetson share their memory, and to CUDA what the page cache holds counts as taken.
    """
    if device.type == "cuda" and not torch.cuda.get_device_properties(device).is_integrated:
        return torch.cuda.mem_get_info(device)[0]
    [available] = re.findall(r"^MemAvailable:\s+(\d+) kB", MEMORY.read_text(), re.MULTILINE)
    return int(available) << 10
