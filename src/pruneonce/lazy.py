"""Packages whose names are imported when they are asked for, so that what needs no PyTorch does not wait for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str, *modules: str) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562): a name of its `__all__` is looked up in `modules`, in their order.

    Args:
        modules: dotted names, those that import the least first. One that is not needed for a name is not imported.
    """

    def get(name: str) -> Any:
        here = sys.modules[package]
        if name in here.__all__:
            for module in modules:
                found = vars(import_module(module))
                if name in found:
                    setattr(here, name, found[name])
                    return found[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
