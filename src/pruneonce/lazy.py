"""Lazy imports of the names of a package, so that light users of a package do not wait for PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str, *modules: str) -> Callable[[str], Any]:
    """Return a package's `__getattr__` (PEP 562), which looks a name of its `__all__` up in `modules`, in their order.

    Args:
        package: the package's dotted name.
        modules: dotted names, those that import the least first. A module is imported only when a name needs it.
    """

    def get(name: str) -> Any:
        here = sys.modules[package]
        if name in here.__all__:
            for module in modules:
                names = vars(import_module(module))
                if name in names:
                    setattr(here, name, names[name])
                    return names[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
