"""The study's table is that of the numbers that are kept beside it."""

import json
import lzma
import re
import time
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from shared.scripts import benchmark_scripts

from pruneonce import recipe, stages, storage
from pruneonce.errors import Interrupted
from pruneonce.runs import quickstart
from pruneonce.system import interruption

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TABLES = ("study", "study-gpu", "study-tokens", "study-relations")
PRETRAINING, TRANSFER = 6_144_000, 700_000  # tokens


@pytest.fixture
def study():
    """The study's modules that run nothing, and its settings."""
    with benchmark_scripts("study"):
        import collected
        import results

        yield collected, results, yaml.safe_load((BENCHMARKS / "study" / "study.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TABLES)
def test_the_table_is_that_of_the_numbers(study, tmp_path, name):
    collected, results, settings = study
    kept = BENCHMARKS / "results" / f"{name}.json"
    results.write(collected.read(kept), tmp_path / f"{name}.md", settings)
    assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == kept.with_suffix(".md").read_text(encoding="utf-8")
    plot = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    assert plot.startswith("<?xml")
    _, _, width, _ = map(float, re.search(r'viewBox="(.*?)"', plot)[1].split())
    legend = [
        float(each) for each in re.findall(r"-?[\d.]+", re.search(r'id="legend_1">.*? d="(.*?)"', plot, re.DOTALL)[1])
    ]
    assert 0 <= min(legend[::2]) <= max(legend[::2]) <= width  # no name of an arm is cut off


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
    found = collected.update(kept, tmp_path / "run", settings, "by hand")
    assert found == json.loads(kept.read_text()) == collected.update(kept, tmp_path / "run", settings)
    assert found["how"] == "by hand"
    assert {name: seeds["1"]["test"]["accuracy"] for name, seeds in found["tasks"]["sick"].items()} == {
        "dense": 0.8,
        "gradual-0.9": 0.4,
        "sparse-0.9": 0.6,
    }
    assert found["spent"]["sick"]["sparse-0.9"] == {"tokens": 10, "minutes": 1.0}
    values = results.Values(found, settings)
    assert values.recoveries("sick", "sparse", "0.9") == {1: pytest.approx(75)}
    assert values.arms() == [("0.9", "sparse"), ("0.9", "gradual")]


def test_the_recipe_has_the_settings_that_were_measured(study):
    *_, settings = study
    shipped = recipe.load("minilm-90")
    measured = {
        "prune": recipe.validate(recipe.Prune, {**settings["prune"], "sparsity": 0.9}),
        "teacher": recipe.validate(recipe.Training, settings["teacher"]),
        "transfer": recipe.validate(recipe.Transfer, settings["transfer"]),
    }
    for section, said in measured.items():
        assert getattr(shipped, section).model_dump(exclude={"sweep"}) == said.model_dump(), section
    assert shipped.quantize.int8 == recipe.validate(recipe.Quantize, settings["quantize"])
    assert shipped.corpus.block_length == settings["corpus"]["block_length"]
    assert shipped.corpus.max_tokens == settings["corpus"]["max_tokens"]


def test_new_pairs_are_the_nearest_that_are_not_known(study):
    import pairs

    known = [("a man plays a guitar", "a person makes music"), ("a dog runs", "the cat sleeps")]
    known += [("a man plays a guitar", "the guitar is played"), ("a puppy", "the dog is running")]
    found = pairs.neighbours(known, str(quickstart.packaged_model()), 1)
    assert len(found) == 3
    assert dict(found)["a dog runs"] == "the dog is running"
    assert not set(found) & set(known)


def test_new_passages_of_a_question_are_the_nearest_of_others_and_of_the_corpus(study, tmp_path):
    import inputs
    import pairs

    passages = {"Who wrote it?": "It was written by Ann.", "What do dogs eat?": "Dogs eat meat."}
    long, other = " ".join(["The dog is fed with meat."] * 10), " ".join(["A book was written."] * 15)
    lines = ["Dogs are fed.", long, other]  # the first is too short
    (tmp_path / "enwiki.txt.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    more = inputs.passages(tmp_path)
    assert more == [long, other]
    found = pairs.neighbours(list(passages.items()), str(quickstart.packaged_model()), 1, ["Does a dog eat?"], more)
    assert found == [("Who wrote it?", other), ("What do dogs eat?", long), ("Does a dog eat?", "Dogs eat meat.")]


@pytest.fixture
def asked(study, monkeypatch, tmp_path):
    """(A study that trains nothing, its settings, by output the stage and what it was given)."""
    import models as script

    of = {}

    def noting(stage):
        def note(source, *of_stage, **how):
            given, output = of_stage[:-1], of_stage[-1]
            of[output.relative_to(tmp_path).as_posix()] = stage, source, *given
            output.mkdir(parents=True, exist_ok=True)
            tokens = PRETRAINING if stage == "prune" else TRANSFER
            (output / "pruneonce.json").write_text(json.dumps({"training": {"tokens": tokens}}))
            return output

        return note

    for stage in (
        "prune",
        "prune_one_shot",
        "finetune",
        "transfer",
        "transfer_gradual",
        "calibrate",
        "quantize",
        "prepare",
    ):
        monkeypatch.setattr(stages, stage, noting(stage))
    monkeypatch.setattr("pairs.neighbours", lambda *said: [])
    monkeypatch.setattr(script.Study, "examples", lambda *said: [])
    data = tmp_path / "data"
    for task, split in product(script.SETTINGS["tasks"], ("train", "dev", "test")):
        (data / task).mkdir(parents=True, exist_ok=True)
        (data / task / f"{split}.jsonl").write_text("")
    (data / "corpus").mkdir()
    (data / "corpus" / "enwiki.txt.xz").write_bytes(lzma.compress(b""))
    return script.Study(data, tmp_path), script.SETTINGS, of


def test_what_the_arms_are_made_of(asked):
    study, settings, of = asked
    starts = {"sparse": "sparse-0.95", "one-shot": "one-shot-0.95", "gradual": study.model}
    starts |= {"masked-words": "masked-words-0.95", "both": "both-0.95"}
    for task in settings["tasks"]:
        sparse = study.output / "tasks" / task / "seed-1" / "sparse-0.95"
        assert of_arm(study, of, "int8", task)[:2] == ("calibrate", sparse)
        assert of_arm(study, of, "int8-trained", task)[:2] == ("quantize", sparse)
        made = {arm: of_arm(study, of, arm, task) for arm in starts}
        own = {"sparse": f"{settings['tasks'][task].get('start', 'sparse')}-0.95"}
        assert {arm: Path(source).name for arm, (_, source, *_) in made.items()} == {
            arm: Path(start).name for arm, start in (starts | own).items()
        }
        _, _, data, transfer = made["sparse"]
        assert made["one-shot"][2:] == (data, transfer)
        assert made["gradual"][2] == data
        assert ("unlabelled" in data.data()) == ("neighbours" in settings["tasks"][task])
        tokens = made["gradual"][3].epochs * TRANSFER / transfer.epochs
        alone = PRETRAINING if "start" in settings["tasks"][task] else 0
        assert tokens == pytest.approx(TRANSFER + PRETRAINING / len(settings["family"]) + alone, rel=1e-3)
        assert made["gradual"][3].sparsity == 0.95
    assert of["pretrained/sparse-0.95"][3].sparsity == 0.95
    _, goes_on, corpus, longer = of["pretrained/long-blocks-0.95"]
    assert (goes_on.name, corpus.block_length) == ("sparse-0.95", 256)
    assert longer.sparsity == longer.initial_sparsity == 0.95
    objectives = {"sparse": "hidden", "masked-words": "mlm", "both": "both"}
    assert {arm: of[f"pretrained/{arm}-0.95"][3].objective for arm in objectives} == objectives
    assert of["pretrained/masked-words-0.95"][1].name == "words"


def test_the_texts_of_tasks_come_to_the_corpus_without_labels(asked, monkeypatch):
    study, *_ = asked
    assert study.with_tasks(0) == study.corpus
    of_tasks = {"sick": [("a dog runs", "it sleeps"), ("a dog runs", "a cat")], "sst2": [("fine",), ("fine",)]}
    monkeypatch.setattr(study, "examples", lambda task, split: of_tasks.get(task, []))
    (study.data / "corpus" / "one.txt.xz").write_bytes(b"xz")
    folder = Path(study.with_tasks(2).source)
    assert (folder / "tasks.txt").read_text().splitlines() == ["fine", "a dog runs", "it sleeps", "a cat"] * 2
    assert (folder / "one.txt.xz").read_bytes() == b"xz"


def test_examples_and_new_pairs_are_read_as_the_task_reads_them(study, monkeypatch, tmp_path):
    import models as script

    rows = [{"premise": "a dog runs", "hypothesis": "it sleeps", "label": 0}]
    rows.append({"premise": "a dog runs", "hypothesis": "a cat", "label": 1})
    paragraph = {
        "context": "Ann wrote.",
        "qas": [{"id": "1", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]}],
    }
    for split in ("train", "dev", "test"):
        for task in ("sick", "xquad-en"):
            (tmp_path / task).mkdir(exist_ok=True)
        (tmp_path / "sick" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "xquad-en" / f"{split}.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "enwiki.txt.xz").write_bytes(lzma.compress(" ".join(["word"] * 60).encode()))
    ours = script.Study(tmp_path, tmp_path / "run")
    assert ours.examples("sick", "dev") == [("a dog runs", "it sleeps"), ("a dog runs", "a cat")]
    assert ours.examples("xquad-en", "train") == [("Who?", "Ann wrote.")]
    monkeypatch.setattr("pairs.neighbours", lambda known, model, each, asked, more: [(known[0][0], *more)])
    passage = {"question": "Who?", "context": " ".join(["word"] * 60)}
    assert [json.loads(line) for line in ours.new_pairs("xquad-en", 1).read_text().splitlines()] == [passage]
    monkeypatch.setattr("pairs.neighbours", lambda known, model, each, asked, more: [(one, "") for one in asked])
    others = ours.new_pairs("xquad-en", 1, "sick").read_text().splitlines()
    assert [json.loads(line)["question"] for line in others] == ["a dog runs", "a dog runs"]


def of_arm(study, of, arm, task):
    return of[study.arm(arm, "0.95", task, 1).relative_to(study.output).as_posix()]


def test_no_two_variants_are_the_same(asked):
    study, settings, of = asked
    for title, ablation in settings["transfer_ablation"].items():
        for task in ablation["tasks"]:
            said = set()
            for name in ablation["variants"]:
                folder = study.variant(title, name, task, 1)
                _, source, data, own = of[folder.relative_to(study.output).as_posix()]
                said.add((source, *data.data().values(), own.model_dump_json()))
            assert len(said) == len(ablation["variants"])


def test_no_two_short_pretrainings_are_the_same(asked, monkeypatch):
    study, settings, _ = asked
    said = []

    def note(model, corpus, own, folder, *, seed, **how):
        said.append((str(model), corpus.model_dump_json(), own.model_dump_json(), seed))
        return folder

    monkeypatch.setattr(stages, "prune", note)
    for name in settings["pretraining"]:
        study.short(name)
    assert len(set(said)) == len(said) == len(settings["pretraining"])
    assert {seed for *_, seed in said} == {42, 1}


def test_the_family_is_packed_into_one_file_once_all_of_it_is_there(asked, monkeypatch):
    study, settings, _ = asked
    packed = []

    def pack(models, file, *said):
        names = [model.relative_to(study.output / "tasks").as_posix() for model in models]
        packed.append(names)
        return SimpleNamespace(to_json=lambda: {"models": names})

    monkeypatch.setattr(storage, "pack", pack)
    first, *others = settings["family"]
    for task in others:
        study.arm("int8", "0.95", task, 1)
    study.sizes("0.95", 1)
    assert packed == []
    study.arm("int8", "0.95", first, 1)
    study.sizes("0.95", 1)
    assert packed == [
        [f"{first}/seed-1/sparse-0.95"],
        [f"{first}/seed-1/int8-0.95"],
        [f"{task}/seed-1/int8-0.95" for task in settings["family"]],
    ]
    kept = json.loads((study.output / "sizes" / "0.95.json").read_text())
    assert [kept[name]["models"] for name in ("sparse", "int8", "all")] == packed
    study.sizes("0.95", 1)
    assert len(packed) == 3


def test_every_piece_has_what_it_needs_before_it(asked):
    study, _, of = asked
    import parallel

    jobs = parallel.jobs_of(study)
    assert {need for job in jobs.values() for need in job.needs} <= set(jobs)
    names = parallel.chosen(jobs, ["sick gradual-0.9 2"])
    assert {"corpus", "sparse-0.9", "sick dense 2", "sick sparse-0.9 2", "sick gradual-0.9 2"} <= set(names)
    assert not [name for name in names if "mrpc" in name]
    done = set()
    long = ("long-blocks-0.95", "xquad-en dense 1", "xquad-en sparse-0.95 1")
    more = ("more-0.95", "mrpc more-0.95 1", "more-long-blocks-0.95", "xquad-en more-0.95 1")
    for name in ("words", "sparse-0.95", "mrpc dense 1", "mrpc sparse-0.95 1", "mrpc int8-0.95 1", *long, *more):
        read = ("corpus", "long texts", "pairs of xquad-en 2 trec")  # are there
        assert set(jobs[name].needs) - set(read) <= done
        before = set(of)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(study), "measured", lambda *said: None)
            jobs[name].run()
        assert len(set(of) - before) == 1, name  # what it needs is not made in passing
        done.add(name)


def test_pieces_run_side_by_side_until_the_time_is_over(study, tmp_path, capsys):
    import parallel

    both = tmp_path / "first", tmp_path / "second"

    def meet(mine, other):
        mine.touch()
        while not other.exists():
            time.sleep(0.01)

    def count_threads():
        (tmp_path / "threads").write_text(str(torch.get_num_threads()))

    def train():
        with interruption.deferred() as asked:
            while not asked.number:
                time.sleep(0.01)
        (tmp_path / "checkpoint").touch()
        raise Interrupted(asked.number)

    jobs = {
        "first": parallel.Job(partial(meet, *both)),
        "second": parallel.Job(partial(meet, *reversed(both))),
        "third": parallel.Job((tmp_path / "third").touch, ["first", "second"]),
        "threads": parallel.Job(count_threads),
        "fails": parallel.Job((tmp_path / "no" / "folder").touch),
        "after that": parallel.Job((tmp_path / "never").touch, ["fails"]),
        "hangs": parallel.Job(partial(time.sleep, 600)),
        "trains": parallel.Job(train),
    }
    done = parallel.run(jobs, list(jobs), 2, 3, 3, tmp_path / "logs")
    assert sorted(done) == ["first", "second", "third", "threads"]
    assert (tmp_path / "threads").read_text() == "3"
    assert (tmp_path / "third").exists()
    assert (tmp_path / "checkpoint").exists()
    assert not (tmp_path / "never").exists()
    said = capsys.readouterr().out
    assert "fails: Traceback" in said
    assert "4 done, 2 broken off, 1 not begun" in said
