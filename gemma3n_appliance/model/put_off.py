"""Keeps what nothing here uses from being imported by those who only mention it.

transformers, timm and torchvision mark functions for torch's compiler, and take a name or two from it; and
transformers has at hand what shards a model over many machines. Together they are a quarter of what a
start takes of a CPU, and 80 MB of memory.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_COMPILER = "torch._dynamo"


@contextmanager
def compiler_put_off() -> Iterator[None]:
    """Has what is imported meanwhile do without; what asks for more of the compiler gets it.

    transformers asks once whether many machines can work together, and then remembers that they cannot.

    Raises:
        ImportError: a submodule of the compiler was imported; afterwards it can be.
    """
    sys.modules.update({name: _StandIn(name) for name in _KNOWN if name not in sys.modules})
    distributed = vars(torch.distributed)
    is_available = distributed["is_available"]
    # As in many of torch's wheels for Jetsons.
    distributed["is_available"] = lambda: False
    try:
        yield
    finally:
        distributed["is_available"] = is_available
        _take_away()


def _mark(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Callable[..., Any]:
    """Stands in for decorators that tell the compiler about a function, and change nothing else."""
    return _mark if function is None else function


def _called_later(module: str, name: str) -> Callable[..., Any]:
    """Stands in for what is called, if ever, when all is imported."""

    def call(*arguments: object, **named: object) -> object:
        return getattr(importlib.import_module(module), name)(*arguments, **named)

    return call


_KNOWN: dict[str, dict[str, Callable[..., Any]]] = {
    _COMPILER: dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _mark)
}
for _module, _name in (
    (f"{_COMPILER}.utils", "is_compile_supported"),
    (f"{_COMPILER}._trace_wrapped_higher_order_op", "TransformGetItemToIndex"),
):
    _KNOWN[_module] = {_name: _called_later(_module, _name)}


class _StandIn(ModuleType):
    """Is where a module will be, if it is asked for."""

    __path__ = ()  # it has submodules

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = _KNOWN[self.__name__]
        if name in known:
            return known[name]
        _take_away()
        return getattr(importlib.import_module(self.__name__), name)


def _take_away() -> None:
    for name in _KNOWN:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]
