"""Weights of fewer bits: what is rounded, and to what, so that it costs least."""

from typing import Literal

import torch
from torch import Tensor

from ..errors import ModelLoadError
from .linear import GROUP, Int4, Int8

Bits = Literal["int8", "int4"]

# Rounded at a time: a whole table would not fit into a board in float32.
_ROWS = 2048
_HIGHEST_BYTE = 127
_HIGHEST_NIBBLE = 15
_MIDDLE = 8
# How often values and scales are fitted to each other; more gains next to nothing.
_NUM_FITS = 4


def require_kernels(bits: Bits, device: torch.device) -> None:
    """Raises ModelLoadError where this torch has no kernel for such weights on this device."""
    for each in {bits, "int8"}:
        weight = torch.ones(16, GROUP, device=device)
        try:
            linear(quantize(weight, each))(weight)
        except (AttributeError, RuntimeError) as error:
            raise ModelLoadError(
                f"torch {torch.__version__} does not multiply by {each} weights on {device.type}: install a "
                f"newer one, or set QUANTIZATION=none. ({str(error).partition(chr(10))[0]})"
            ) from error


def fits(weight: Tensor, bits: Bits) -> bool:
    """Whether the kernels take a weight of this shape; the CPU's do not check, and read beyond its end."""
    num_outputs, num_inputs = weight.shape
    return num_inputs % GROUP == 0 and (bits == "int8" or num_outputs % 16 == 0)


def quantize(weight: Tensor, bits: Bits) -> dict[str, Tensor]:
    """Returns what `linear` makes a weight of: tensors by name, to be kept in a file."""
    if bits == "int8":
        values, scales = zip(*map(_to_bytes, weight.split(_ROWS)), strict=True)
        return {"int8": torch.cat(values), "scales": torch.cat(scales)}
    values, scales = zip(*map(_to_nibbles, weight.split(_ROWS)), strict=True)
    return {"int4": torch.cat(values), "scales": torch.cat(scales, dim=1)}


def linear(tensors: dict[str, Tensor]) -> Int8 | Int4:
    """Returns the weight of which `quantize` made these."""
    if "int8" in tensors:
        return Int8(tensors["int8"], tensors["scales"])
    return Int4(tensors["int4"], tensors["scales"])


def _to_bytes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns int8 ``[rows, num_inputs]`` and scales ``[rows]``."""
    weight = weight.float()
    scales = _as_kept(weight.abs().amax(dim=1, keepdim=True) / _HIGHEST_BYTE)
    values = (weight / scales).round_().clamp_(-_HIGHEST_BYTE, _HIGHEST_BYTE)
    return values.to(torch.int8), scales[:, 0].to(torch.bfloat16)


def _to_nibbles(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns uint8 ``[rows, num_inputs / 2]`` and scales and zeros ``[groups, rows, 2]``.

    Values rounded by given scales, and scales fitted to those values by least squares, in turns.
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    lowest, highest = groups.aminmax(dim=-1, keepdim=True)
    scales = _as_kept((highest - lowest) / _HIGHEST_NIBBLE)
    zeros = _rounded(lowest + _MIDDLE * scales)
    best = _fitting(groups, scales, zeros)
    for _ in range(_NUM_FITS):
        scales, zeros = _least_squares(groups, _values(groups, scales, zeros))
        found = _fitting(groups, scales, zeros)
        better = found[0] < best[0]
        best = tuple(torch.where(better, new, old) for new, old in zip(found, best, strict=True))
    _, scales, zeros = best
    pairs = (_values(groups, scales, zeros) + _MIDDLE).flatten(1).to(torch.uint8).unflatten(1, (-1, 2))
    scales_and_zeros = torch.cat([scales, zeros], dim=-1).transpose(0, 1)
    return pairs[..., 0] << 4 | pairs[..., 1], scales_and_zeros.to(torch.bfloat16)


def _values(groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Returns -8 to 7, in float32."""
    return ((groups - zeros) / scales).round_().clamp_(-_MIDDLE, _HIGHEST_NIBBLE - _MIDDLE)


def _fitting(groups: Tensor, scales: Tensor, zeros: Tensor) -> tuple[Tensor, ...]:
    """Returns how far off the groups would be, and what makes them so."""
    off = torch.addcmul(zeros, _values(groups, scales, zeros), scales).sub_(groups)
    return off.square_().sum(dim=-1, keepdim=True), scales, zeros


def _least_squares(groups: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the scales and zeros with which these values are nearest to the groups."""
    middle, wanted = values.mean(dim=-1, keepdim=True), groups.mean(dim=-1, keepdim=True)
    values = values - middle
    spread = values.square().sum(dim=-1, keepdim=True).clamp_(min=1.0)
    scales = _as_kept((values * (groups - wanted)).sum(dim=-1, keepdim=True) / spread)
    return scales, _rounded(wanted - scales * middle)


def _as_kept(scales: Tensor) -> Tensor:
    """Rounds scales before they are divided by, so that values suit what they will be multiplied by."""
    return _rounded(scales.clamp(min=1e-8))


def _rounded(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).float()
