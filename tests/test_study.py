"""The study's table is that of the numbers that are kept beside it."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import benchmark_scripts

from pruneonce import quickstart

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TABLE = BENCHMARKS / "results" / "study.md"


@pytest.fixture
def study():
    """The study's modules that run nothing, and its settings."""
    with benchmark_scripts("study"):
        import collected
        import results

        yield collected, results, yaml.safe_load((BENCHMARKS / "study" / "study.yaml").read_text(encoding="utf-8"))


def test_the_table_is_that_of_the_numbers(study, tmp_path):
    collected, results, settings = study
    committed = TABLE.read_text(encoding="utf-8")
    heading = committed.split("\n## ")[0].splitlines()
    results.write(collected.read(TABLE.with_suffix(".json")), tmp_path / "study.md", settings, [*heading, ""])
    assert (tmp_path / "study.md").read_text(encoding="utf-8") == committed
    assert (tmp_path / "study.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_what_is_finished_is_laid_over_what_was_known(study, tmp_path):
    collected, results, settings = study
    kept = tmp_path / "study.json"
    known = {
        "tasks": {
            "sick": {"dense": {"1": {"test": {"accuracy": 0.5}}}, "gradual-0.9": {"1": {"test": {"accuracy": 0.4}}}}
        }
    }
    kept.write_text(json.dumps(known))
    folder = tmp_path / "run" / "tasks" / "sick" / "seed-1"
    for name, accuracy in (("dense", 0.8), ("sparse-0.9", 0.6)):
        (folder / name).mkdir(parents=True)
        (folder / f"{name}.json").write_text(json.dumps({"test": {"accuracy": accuracy}}))
        spent = {"training": {"tokens": 10, "seconds": 60.0, "steps": 1}}
        (folder / name / "pruneonce.json").write_text(json.dumps(spent))
    found = collected.update(kept, tmp_path / "run", settings)
    assert found == json.loads(kept.read_text())
    assert {name: seeds["1"]["test"]["accuracy"] for name, seeds in found["tasks"]["sick"].items()} == {
        "dense": 0.8,
        "gradual-0.9": 0.4,
        "sparse-0.9": 0.6,
    }
    assert found["spent"]["sick"]["sparse-0.9"] == {"tokens": 10, "minutes": 1.0}
    values = results.Values(found, settings)
    assert values.recoveries("sick", "sparse", "0.9") == [pytest.approx(75)]
    assert values.arms() == [("0.9", "sparse"), ("0.9", "gradual")]


def test_new_pairs_are_the_nearest_that_are_not_known(study, tmp_path):
    import pairs

    known = [("a man plays a guitar", "a person makes music"), ("a dog runs", "the cat sleeps")]
    known += [("a man plays a guitar", "the guitar is played"), ("a puppy", "the dog is running")]
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"one": one, "two": two}) + "\n" for one, two in known))
    found = pairs.neighbours(train, "one", "two", str(quickstart.packaged_model()), 1)
    made = {row["one"]: row["two"] for row in map(json.loads, found)}
    assert len(found) == 3
    assert made["a dog runs"] == "the dog is running"
    assert not set(made.items()) & set(known)
