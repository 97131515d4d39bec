"""A layer's feed-forward network; in the lowest layers, 95 % of its neurons rest."""

import torch
from torch import Tensor
from torch.nn import functional

from .linear import Dense, Int8, Linear, Weights

# For so few tokens at most, fetching the weights of the live neurons is quicker than reading all. Of numbers,
# down has to have so many bytes for each token; of bytes, gate and up so many for all.
_FEW = 8
_BYTES_OF_DOWN = 1 << 19
_BYTES_OF_BOTH = 1 << 22
SPARSE = 0.9


class FeedForward:
    """Gate, up and down; ``sparsity`` is the share of neurons that rest.

    What it computes is transformers' ``Gemma3nTextMLP``.
    """

    def __init__(self, weights: Weights, sparsity: float, dtype: torch.dtype) -> None:
        """``dtype`` is what the model computes in."""

        def both() -> Tensor:
            return torch.cat([weights("gate_proj.weight"), weights("up_proj.weight")])

        self.gate_and_up = weights.linear("gate_and_up", both)
        self.down = weights.linear("down", lambda: weights("down_proj.weight"))
        self.cutoff = _cutoff(sparsity, dtype)
        self._live = _live_neurons(self.gate_and_up, self.down) if sparsity >= SPARSE else None

    def __call__(self, x: Tensor) -> Tensor:
        """Returns ``[num_tokens, hidden_size]`` for as many."""
        if self._live and len(x) <= self._live.most_tokens:
            return self._live.feed(x, self._cut(self._live.gates(x)))
        gate, up = self.gate_and_up(x).chunk(2, dim=-1)
        if self.cutoff is not None:
            gate = self._cut(gate)
        return self.down(functional.gelu(gate, approximate="tanh") * up)

    def _cut(self, gate: Tensor) -> Tensor:
        """Brings all but the most excited neurons to rest."""
        deviation, mean = torch.std_mean(gate, dim=-1, keepdim=True, unbiased=False)
        return functional.relu(gate - torch.add(mean, deviation, alpha=self.cutoff or 0.0))


class _LiveNeurons:
    """Reads no weights of neurons that rest; which do, a GPU would have to tell the host first."""

    def __init__(self, gate_and_up: Tensor, down: Tensor) -> None:
        """``down`` is best laid out so that a neuron's column lies in one piece."""
        gate, self._up = gate_and_up.chunk(2)
        self._gate = Dense(gate)
        self._down = down.t()
        self.most_tokens = min(_FEW, down.nbytes // _BYTES_OF_DOWN)

    def gates(self, x: Tensor) -> Tensor:
        """Returns how excited every neuron is, ``[num_tokens, intermediate_size]``."""
        return self._gate(x)

    def feed(self, x: Tensor, gates: Tensor) -> Tensor:
        """Returns ``[num_tokens, hidden_size]``, for tokens and their neurons, those at rest being zero."""
        return torch.stack([self._fed(*token) for token in zip(x, gates, strict=True)])

    def _fed(self, x: Tensor, gate: Tensor) -> Tensor:
        live = gate.nonzero()[:, 0]
        up, down = self._up.index_select(0, live), self._down.index_select(0, live)
        chosen = functional.gelu(gate[live], approximate="tanh") * torch.mv(up, x)
        return torch.mv(down.t(), chosen)


class _LiveBytes:
    """Does the same for bytes, but for what neurons are multiplied by: the kernel wants those by outputs."""

    def __init__(self, gate_and_up: Int8, down: Linear) -> None:
        self._gate, self._up = gate_and_up.halves()
        self._down = down
        self.most_tokens = _FEW

    def gates(self, x: Tensor) -> Tensor:
        """See `_LiveNeurons`."""
        return self._gate(x)

    def feed(self, x: Tensor, gates: Tensor) -> Tensor:
        """See `_LiveNeurons`."""
        return self._down(torch.stack([self._chosen(*token) for token in zip(x, gates, strict=True)]))

    def _chosen(self, x: Tensor, gate: Tensor) -> Tensor:
        live = gate.nonzero()[:, 0]
        chosen = functional.gelu(gate[live], approximate="tanh") * self._up.of(live)(x[None])[0]
        return torch.zeros_like(gate).index_copy_(0, live, chosen)


def _live_neurons(gate_and_up: Linear, down: Linear) -> _LiveNeurons | _LiveBytes | None:
    """Returns None where what is small, of nibbles or on a GPU is quicker read as a whole."""
    if isinstance(gate_and_up, Int8) and gate_and_up.device.type == "cpu":
        return _LiveBytes(gate_and_up, down) if gate_and_up.num_bytes >= _BYTES_OF_BOTH else None
    if not isinstance(gate_and_up, Dense) or not isinstance(down, Dense):
        return None
    weight = down.weight
    if (
        weight.device.type != "cpu"
        or weight.nbytes < _BYTES_OF_DOWN
        or not _is_quick_by_columns(weight.dtype)
    ):
        return None
    down.weight = weight.t().contiguous().t()
    return _LiveNeurons(gate_and_up.weight, down.weight)


def _is_quick_by_columns(dtype: torch.dtype) -> bool:
    """Whether tokens that are not few can be multiplied by weights that lie by columns.

    On a CPU without bfloat16 of its own, torch takes up to 40 times as long for those as for rows.
    """
    # Wheels for Jetsons may be built without oneDNN, and have nothing to ask.
    return dtype != torch.bfloat16 or (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _cutoff(sparsity: float, dtype: torch.dtype) -> float | None:
    """Returns how many standard deviations above the mean a neuron must be to live; None where all do.

    Rounded to the model's dtype, as transformers does it.
    """
    if not sparsity:
        return None
    return torch.special.ndtri(torch.tensor(sparsity, dtype=torch.float64)).to(dtype).item()
