"""The study's list of runs, its data, and the runner."""

import json
import lzma
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from shared.scripts import BENCHMARKS

from benchmarks.study import data as inputs
from benchmarks.study import run as runner
from benchmarks.study.runs import Job, Runs
from pruneonce import recipe
from pruneonce.errors import Interrupted
from pruneonce.runs import pipeline, quickstart
from pruneonce.system import interruption

LISTS = ("study", "study-gpu")
LIST_OF = {"study": "study", "study-tokens": "study", "study-relations": "study", "study-gpu": "study-gpu"}


@pytest.fixture(scope="module")
def lists():
    return {name: Runs(BENCHMARKS / "study" / f"{name}.yaml") for name in LISTS}


def result(name):
    return json.loads((BENCHMARKS / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", LISTS)
def test_every_run_is_a_recipe_and_comes_after_what_it_needs(lists, name):
    runs = lists[name]
    before = set()
    for job in runs.jobs:
        made = runs.recipe(job)  # raises unless it is valid
        assert list(made.tasks) == ([job.task] if job.task else [])
        assert set(runs.needs(job)) <= before, job
        before.add(job)
    assert {job.run for job in runs.jobs if job.task} | {
        name for name, run in runs.runs.items() if "tasks" not in run
    } == {*runs.runs}


def test_the_runs_that_were_measured_are_listed(lists):
    for page, name in LIST_OF.items():
        runs, measured = lists[name], result(page)
        assert measured["list"] == f"{name}.yaml"
        for run, shown in measured["runs"].items():
            listed = runs.runs[run]
            assert shown["zeros"] == pytest.approx(100 * runs.recipe(Job(run)).prune.sparsity)
            for key in ("label", "table", "group", "arm"):
                assert shown.get(key) == listed.get(key), (page, run)
        for task, of_task in measured["results"].items():
            for run in of_task.keys() - {"dense"}:
                assert task in runs.runs[run]["tasks"], (page, run, task)


def test_no_two_runs_of_a_table_are_the_same(lists):
    for runs in lists.values():
        known = defaultdict(list)
        for job in runs.jobs:
            run = runs.runs[job.run]
            if (job.task is None) == (run.get("table") == "pretraining"):
                made = runs.recipe(job).model_dump(exclude={"name"})
                table = run.get("table"), run.get("group"), job.task
                assert made not in known[table], job
                known[table].append(made)


def test_the_recipe_has_the_settings_that_were_measured(lists):
    shipped, ours = recipe.load("minilm-90"), lists["study"].recipe(Job("sparse-90", "sst2", 1))
    for section in ("prune", "teacher", "transfer"):
        assert getattr(shipped, section) == getattr(ours, section), section
    assert shipped.quantize.int8 == ours.quantize.int8
    assert (shipped.corpus.block_length, shipped.corpus.max_tokens) == (64, 8_000_000)
    assert (ours.corpus.block_length, ours.corpus.max_tokens) == (64, 8_000_000)


def test_gradual_pruning_has_as_many_tokens_as_prune_once(lists):
    """Epochs are those of the transfer, times all tokens of prune-once for the task over those of its transfer."""
    runs, tokens = lists["study"], result("study-tokens")["training"]
    checked = 0
    for job in runs.jobs:
        if job.task and job.run.startswith("gradual-") and job.run.rpartition("-")[2] in ("90", "95"):
            sparse = runs.runs[job.run]["from"]
            made = runs.recipe(job)
            share = 6_144_000 / 6 + (1_638_400 if "long" in job.run else 0)
            transfer = tokens[job.task][sparse]["sparse"]["tokens"]
            expected = made.transfer_for(job.task).epochs * (1 + share / transfer)
            assert made.baselines.gradual.epochs == pytest.approx(expected, abs=0.006), job
            assert made.baselines.gradual.sparsity == made.prune.sparsity
            checked += 1
    assert checked == 42


def test_what_runs_begin_with(lists):
    runs = lists["study"]
    assert runs.pretraining("sparse-90-hidden-10") == Job("sparse-90")
    assert runs.pretraining("poor") == Job("base")
    assert runs.pretraining("gradual-95") == Job("sparse-95")
    assert runs.parents(Job("gradual-90", "sst2", 2)) == [Job("sparse-90"), Job("sparse-90", "sst2", 2)]
    assert runs.parents(Job("more-90", "sst2", 3)) == [Job("more-90"), Job("sparse-90", "sst2", 3)]
    assert runs.parents(Job("base-2e-3")) == [Job("base")]
    longer = runs.recipe(Job("long-95", "xquad-en", 1))
    assert (longer.sparse_model, longer.corpus.block_length) == ("sparse-95/pretraining/sparse", 256)
    assert longer.prune.sparsity == longer.prune.initial_sparsity == 0.95
    assert Job("sparse-95") in runs.needs(Job("long-95"))
    words = Job("masked-words-90", "sick", 3)
    assert runs.recipe(words).tasks["sick"].teacher_model == "sparse-90/sick-3/tasks/sick/seed-3/dense"
    assert Job("sparse-90", "sick", 3) in runs.needs(words)
    objectives = {name: runs.recipe(Job(name)).prune.objective for name in ("sparse-90", "masked-words-90", "both-90")}
    assert objectives == {"sparse-90": "hidden", "masked-words-90": "mlm", "both-90": "both"}


def test_jobs_are_chosen_by_name_with_what_they_need(lists):
    runs = lists["study"]
    names = list(map(str, runner.chosen(runs, ["gradual-90/sick-2"])))
    assert names == ["sparse-90/pretraining", "sparse-90/sick-2", "gradual-90/sick-2"]
    names = list(map(str, runner.chosen(runs, ["long-80/xquad-en-1", "base-end"])))
    assert names[-3:] == ["base/pretraining", "base-end-0.7/pretraining", "base-end-0.3/pretraining"]
    assert runner.chosen(runs, []) == runs.jobs


# -- data ---------------------------------------------------------------------------------------------------------


def test_new_pairs_are_the_nearest_that_are_not_known():
    known = [("a man plays a guitar", "a person makes music"), ("a dog runs", "the cat sleeps")]
    known += [("a man plays a guitar", "the guitar is played"), ("a puppy", "the dog is running")]
    found = inputs.neighbours(known, str(quickstart.packaged_model()), 1)
    assert len(found) == 3
    assert dict(found)["a dog runs"] == "the dog is running"
    assert not set(found) & set(known)


def test_new_passages_of_a_question_are_the_nearest_of_others_and_of_the_corpus(tmp_path):
    passages = {"Who wrote it?": "It was written by Ann.", "What do dogs eat?": "Dogs eat meat."}
    long, other = " ".join(["The dog is fed with meat."] * 10), " ".join(["A book was written."] * 15)
    lines = ["Dogs are fed.", long, other]  # the first is too short
    (tmp_path / "enwiki.txt.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    more = inputs.passages(tmp_path)
    assert more == [long, other]
    found = inputs.neighbours(list(passages.items()), str(quickstart.packaged_model()), 1, ["Does a dog eat?"], more)
    assert found == [("Who wrote it?", other), ("What do dogs eat?", long), ("Does a dog eat?", "Dogs eat meat.")]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A folder in which the study's data is prepared, of a few rows."""
    data = tmp_path / "data"
    pair = {"premise": "a dog runs", "sentence1": "a dog runs", "hypothesis": "it sleeps", "sentence2": "it sleeps"}
    for task in ("sst2", "sick", "mrpc", "trec", "qnli-xquad", "xquad-en"):
        (data / task).mkdir(parents=True)
        row = {**pair, "sentence": "it sleeps", "question": f"What is {task}?", "label": 0}
        second = {**row, "hypothesis": "a cat", "label": 1}
        for split in ("train", "dev", "test"):
            text = "".join(json.dumps(one) + "\n" for one in [row, second] * (300 if task == "trec" else 1))
            (data / task / f"{split}.jsonl").write_text(text)
    answers = [{"text": "Ann", "answer_start": 0}]
    article = {"paragraphs": [{"context": "Ann wrote.", "qas": [{"id": "1", "question": "Who?", "answers": answers}]}]}
    for split in ("train", "dev"):
        (data / "xquad-en" / f"{split}.json").write_text(json.dumps({"data": [article]}))
    (data / "corpus").mkdir()
    (data / "corpus" / "enwiki.txt.xz").write_bytes(lzma.compress(" ".join(["word"] * 60).encode()))
    inputs.prepare(data, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def test_the_data_is_prepared_once(prepared):
    lines = {
        split: len(Path(f"data/trec/{split}.jsonl").read_text().splitlines()) for split in ("train", "dev", "test")
    }
    assert lines == {"train": 100, "dev": 500, "test": 600}  # TREC has no dev split of its own
    rows = [json.loads(line) for line in Path("data/embedding/test.jsonl").read_text().splitlines()]
    assert rows == [{"question": "What is qnli-xquad?", "sentence": "it sleeps", "relevance": 0}]
    assert Path("model/config.json").is_file()
    inputs.prepare(prepared.parent / "data", prepared)  # finds all of it there


def test_new_pairs_are_written_as_the_task_reads_them(prepared, monkeypatch, lists):
    assert inputs.examples("sick", "dev") == [("a dog runs", "it sleeps"), ("a dog runs", "a cat")]
    assert inputs.examples("xquad-en", "train") == [("Who?", "Ann wrote.")]
    asked = []

    def neighbours(known, model, each, questions, more):
        asked.append((model, each, questions))
        return [(known[0][0], *more), *((question, "A.") for question in questions)]

    monkeypatch.setattr(inputs, "neighbours", neighbours)
    jobs = [Job("long-90", "xquad-en", 1), Job("long-90-base", "xquad-en", 1)]
    inputs.provide(lists["study"].recipe(job) for job in jobs)
    passage = {"question": "Who?", "context": " ".join(["word"] * 60)}
    four, two = (Path(f"data/xquad-en/pairs-{name}.jsonl").read_text().splitlines() for name in ("4", "2-trec"))
    assert [json.loads(line) for line in four] == [passage]
    assert [json.loads(line) for line in two] == [passage, *([{"question": "What is trec?", "context": "A."}] * 100)]
    assert {(model, each, len(questions)) for model, each, questions in asked} == {("model", 4, 0), ("model", 2, 100)}


def test_the_texts_of_tasks_come_to_the_corpus_without_labels(prepared, lists):
    inputs.provide([lists["study"].recipe(Job("base-tasks-texts"))])
    folder = Path("data/corpus-and-tasks-3")
    expected = ["it sleeps", "a dog runs", "a cat", "What is trec?", "What is qnli-xquad?"]
    assert (folder / "tasks.txt").read_text().splitlines() == expected * 3
    assert (folder / "enwiki.txt.xz").read_bytes() == Path("data/corpus/enwiki.txt.xz").read_bytes()


# -- the runner ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tiny_recipe, tmp_path, monkeypatch):
    """A list of three runs of a tiny recipe, and its folder."""
    values = tiny_recipe()
    del values["baselines"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    listed = {
        "recipe": "recipe.yaml",
        "teachers": ["ours"],
        "family": ["mood"],
        "runs": {
            "ours": {"label": "ours", "tasks": ["mood"], "set": {"quantize": {"int8_ptq": {"examples": 16}}}},
            "rate": {"from": "ours", "label": "half the rate", "table": "transfer", "group": "90 %"}
            | {"set": {"transfer": {"learning_rate": 5e-4}}},
            "denser": {"label": "ours", "tasks": ["mood"], "set": {"prune": {"sparsity": 0.8}}},
        },
    }
    (tmp_path / "list.yaml").write_text(yaml.safe_dump(listed, sort_keys=False))
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    return Runs(tmp_path / "list.yaml")


def test_runs_take_over_finished_stages_and_are_collected(tiny, capsys):
    finished = runner.run_all(tiny, tiny.jobs, 2, 1, 600)
    assert set(finished) == set(tiny.jobs)
    model = "model.safetensors"
    first, rate, denser = (Path(name, "mood-1") for name in ("ours", "rate", "denser"))
    for same in ("sparse", "tasks/mood/seed-1/dense"):
        assert (first / same / model).samefile(rate / same / model), same
    assert (first / "tasks/mood/seed-1/dense" / model).samefile(denser / "tasks/mood/seed-1/dense" / model)
    for other in ("sparse", "tasks/mood/seed-1/sparse"):
        assert not (first / other / model).samefile(denser / other / model), other
    assert not (first / "tasks/mood/seed-1/sparse" / model).samefile(rate / "tasks/mood/seed-1/sparse" / model)
    found = runner.collected(tiny)
    assert found["runs"]["rate"] == {"table": "transfer", "group": "90 %", "label": "half the rate", "zeros": 90}
    assert found["results"]["mood"].keys() == {"dense", "ours", "rate", "denser"}
    assert found["results"]["mood"]["ours"].keys() == {"sparse", "int8-ptq"}
    evaluated = json.loads((first / "tasks/mood/seed-1/sparse.json").read_text())
    assert found["results"]["mood"]["ours"]["sparse"]["1"] == evaluated
    assert found["training"]["mood"]["dense"]["dense"]["tokens"] > 0
    assert found["pretraining"].keys() == {"ours", "denser"}
    assert found["sizes"]["ours"]["sparse"]["dense"] > found["sizes"]["ours"]["sparse"]["bytes"]
    before = (first / "summary.json").stat().st_mtime_ns
    assert set(runner.run_all(tiny, tiny.jobs, 2, 1, 600)) == set(tiny.jobs)  # all is there
    assert (first / "summary.json").stat().st_mtime_ns == before


def test_what_is_collected_is_laid_over_what_was_known():
    known = {"results": {"sick": {"dense": {"dense": {"1": 0.5}}, "gradual-90": {"gradual": {"1": 0.4}}}}, "made": 1}
    runner.lay_over(known, {"results": {"sick": {"dense": {"dense": {"1": 0.8, "2": 0.7}}}}})
    assert known == {
        "results": {"sick": {"dense": {"dense": {"1": 0.8, "2": 0.7}}, "gradual-90": {"gradual": {"1": 0.4}}}},
        "made": 1,
    }


def test_runs_go_side_by_side_until_the_time_is_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def done(folder):
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text("{}")

    def meet(mine, other, folder):
        Path(mine).touch()
        while not Path(other).exists():
            time.sleep(0.01)
        done(folder)

    def count_threads(folder):
        Path("number").write_text(str(torch.get_num_threads()))
        done(folder)

    def fail(folder):
        raise ValueError("no such thing")

    def train(folder):
        with interruption.deferred() as asked:
            while not asked.number:
                time.sleep(0.01)
        Path("checkpoint").touch()
        raise Interrupted(asked.number)

    works = {
        "first": (partial(meet, "one", "two"), []),
        "second": (partial(meet, "two", "one"), []),
        "third": (done, ["first", "second"]),
        "threads": (count_threads, []),
        "fails": (fail, []),
        "after that": (done, ["fails"]),
        "hangs": (lambda folder: time.sleep(600), []),
        "trains": (train, []),
    }
    monkeypatch.setattr(pipeline, "run", lambda work, folder: work(folder))
    runs = SimpleNamespace(
        needs=lambda job: [Job(need) for need in works[job.run][1]],
        recipe=lambda job: works[job.run][0],
        begin=lambda job: None,
    )
    finished = runner.run_all(runs, [Job(name) for name in works], 2, 3, 4)
    assert sorted(job.run for job in finished) == ["first", "second", "third", "threads"]
    assert Path("number").read_text() == "3"
    assert Path("checkpoint").exists()
    said = capsys.readouterr().out
    assert "fails/pretraining: failed, see logs/fails-pretraining.txt (1)" in said
    assert "no such thing" in Path("logs/fails-pretraining.txt").read_text()
    assert "4 finished, 2 stopped, 1 not begun" in said
