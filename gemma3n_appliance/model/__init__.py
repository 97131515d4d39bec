"""The only torch code: loading, encoding, caching, decoding and sampling."""

import importlib
from contextlib import suppress

from .put_off import compiler_put_off
from .torchvision_ops import make_torchvision_importable

# What mentions the compiler is imported here, before any module imports transformers, which imports timm,
# which imports torchvision. Where one of these is broken beyond this cure, `loader` asks again, says why,
# and serves text only; where one cannot do without the compiler, it is imported again with it.
with compiler_put_off(), suppress(ImportError, RuntimeError):
    make_torchvision_importable()
    for _name in ("gemma3n", "timm_wrapper"):
        importlib.import_module(f"transformers.models.{_name}.modeling_{_name}")
