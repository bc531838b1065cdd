"""The programs of `benchmarks/` import each other by bare names."""

import sys
from collections import Counter

from shared.scripts import BENCHMARKS

FILES = sorted(BENCHMARKS.rglob("*.py"))


def test_no_two_programs_have_the_same_name():
    assert len(FILES) > 20
    assert [name for name, number in Counter(file.stem for file in FILES).items() if number > 1] == []


def test_no_program_hides_a_module_of_python():
    assert {file.stem for file in FILES} & set(sys.stdlib_module_names) == set()
