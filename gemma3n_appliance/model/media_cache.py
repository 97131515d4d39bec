"""Soft tokens of pictures and clips that were sent lately: a chat sends them again with every turn."""

from collections import OrderedDict

from torch import Tensor

from ..errors import EngineError
from .soft_tokens import MediaEncoder, SoftTokens

# Some sixty pictures of Google's models in bfloat16.
_MAX_BYTES = 64 * 2**20


class MediaCache:
    """Encodes what it does not have, and forgets what was not asked for longest."""

    def __init__(self, encoder: MediaEncoder, max_bytes: int = _MAX_BYTES) -> None:
        self._encoder = encoder
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._by_digest: OrderedDict[bytes, Tensor] = OrderedDict()

    def features(self, item: SoftTokens) -> Tensor:
        """Returns ``[num_soft_tokens, hidden_size]``.

        Raises:
            EngineError: the encoder computed no numbers, which would stay in a slot beyond its request.
        """
        features = self._by_digest.pop(item.digest, None)
        if features is None:
            features = self._encoder.encode(item.media)
            require_numbers(features)
            self._num_bytes += features.nbytes
        self._by_digest[item.digest] = features
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= self._by_digest.popitem(last=False)[1].nbytes
        return features


def require_numbers(computed: Tensor) -> None:
    """Raises EngineError for NaN and infinities, which broken media or weights can give."""
    if not computed.isfinite().all():
        raise EngineError("The model computed NaN for this request. Check its images and audio.")
