"""Scripts of `benchmarks/` as modules."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def benchmark_scripts(folder: str) -> Iterator[None]:
    """Import from `benchmarks/FOLDER`; its modules are forgotten afterwards, since other folders have some of the same
    name."""
    place = Path(__file__).parents[2] / "benchmarks" / folder
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        yield
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "").parent == place:
                del sys.modules[name]
