"""The only torch code: loading, encoding, caching, decoding and sampling."""

from contextlib import suppress

from .torchvision_ops import make_torchvision_importable

# Before any module here imports transformers, which imports timm, which imports torchvision. Where that is
# broken beyond this cure, `loader` asks again, says why, and serves text only.
with suppress(RuntimeError):
    make_torchvision_importable()
