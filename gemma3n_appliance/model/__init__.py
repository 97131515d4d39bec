"""The only torch code: loading, encoding, caching, decoding and sampling."""

import importlib
from contextlib import suppress

from .put_off import compiler_put_off
from .torchvision_ops import make_torchvision_importable

# Before any module here imports transformers, which imports timm, which imports torchvision. Where that is
# broken beyond this cure, `loader` asks again, says why, and serves text only.
with compiler_put_off(), suppress(RuntimeError):
    make_torchvision_importable()
    for _name in ("gemma3n", "timm_wrapper"):
        importlib.import_module(f"transformers.models.{_name}.modeling_{_name}")
