"""Lets timm import torchvision where torchvision's compiled operators cannot be loaded.

timm imports torchvision unconditionally, for image transforms that nothing here uses. The registry's
torchvision wheel is built against CUDA torch: beside a CPU torch its operators do not load and the import
dies with ``operator torchvision::nms does not exist``. Declaring the two schemas it asks for is enough.
On a Jetson torchvision comes from the same index as torch, imports at once, and nothing is declared.
"""

import importlib
import importlib.util
import sys

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []


def make_torchvision_importable() -> None:
    """Imports torchvision, declaring its missing operators if that is what it takes.

    Without torchvision nothing happens: the loader says what cannot be loaded then.

    Raises:
        RuntimeError: torchvision is broken in another way.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _declared or "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")
