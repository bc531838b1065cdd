"""Programs of `benchmarks/` as modules."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@contextmanager
def benchmark_scripts(folder: str) -> Iterator[None]:
    """Import from `benchmarks/FOLDER`, as its programs do: by the bare names of the files there.

    No two files of `benchmarks/` have the same name, so that none is taken for another one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS / folder)
        yield
