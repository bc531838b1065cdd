"""The programs of `benchmarks/` are modules of a package."""

import sys

from shared.scripts import BENCHMARKS

FILES = sorted(BENCHMARKS.rglob("*.py"))


def test_no_program_hides_a_module_of_python():
    assert len(FILES) > 20
    assert {file.stem for file in FILES} & set(sys.stdlib_module_names) == set()
