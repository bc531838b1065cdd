"""Tables of a run in a terminal of 80 columns."""

from rich.console import Console

from pruneonce.cli import tables
from pruneonce.engines import ENGINES

ARMS = ("dense", "dense-int8", "one-shot", "sparse", "int8", "int8-ptq")


def test_the_table_of_the_quickstart_breaks_no_name_in_80_columns():
    shared = {"task": "sentiment", "metric": "accuracy", "split": "test", "size": {"bytes": 90.9e6}}
    results = [{**shared, "arm": arm, "value": 0.891, "recovery": 0.983} for arm in ARMS]
    cell = {"batch": 1, "length": "real", "milliseconds": 7.6, "busy": False}
    rows = [{**cell, "model": arm, "engine": engine} for engine in ENGINES for arm in ARMS]
    console = Console(width=80)
    with console.capture() as captured:
        for table in tables.results({"results": results, "benchmark": {"rows": rows}}):
            console.print(table)
    lines = captured.get().splitlines()
    assert [line.removeprefix("sentiment").split()[0] for line in lines[-len(ARMS) :]] == list(ARMS)
    assert lines[-1].split() == ["int8-ptq", "0.8910", "98.3", "90.9", "1.0x", *["7.6"] * len(ENGINES)]
