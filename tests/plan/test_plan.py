"""The plan against a real run, its arithmetic by hand, and what it says where it cannot know."""

import gzip
import json
import math
import os
import signal

import pytest
import yaml
from datasets import Dataset
from shared.models import make_model

from pruneonce.cli import main
from pruneonce.config.pattern import Pattern
from pruneonce.data.corpus import token_blocks
from pruneonce.data.size import count_blocks
from pruneonce.errors import UserError
from pruneonce.plan import clock, plan, probe
from pruneonce.plan.corpus_work import corpus_works
from pruneonce.plan.jobs import usual
from pruneonce.plan.task_work import Lengths, task_works
from pruneonce.recipe import Classification, Corpus, Prune, Recipe, Training, validate
from pruneonce.runs import pipeline
from pruneonce.tasks import kind_of

PREPARE = {"epochs": 0.5, "batch_size": 8, "accumulate": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def values(tiny_recipe):
    """A recipe with every kind of stage."""
    made = tiny_recipe()
    made["prepare"] = PREPARE
    made["prune"]["objective"] = "both"
    made["transfer"] = {"epochs": 1.5, "batch_size": 20, "learning_rate": 1e-3}
    made["quantize"] = {"int8": {"epochs": 1, "batch_size": 32}, "int8_ptq": {"examples": 64}}
    made["baselines"]["dense_int8"] = True
    return made


@pytest.fixture(scope="module")
def planned(values):
    return plan(validate(Recipe, values), seconds=0)


def test_steps_and_tokens_are_those_of_the_run(values, planned, tmp_path):
    summary = pipeline.run(validate(Recipe, values), tmp_path / "run")
    estimated = {stage.name: stage for stage in planned.stages}
    trained = [stage for stage in summary["stages"] if stage["steps"]]
    assert len(trained) == 7
    for stage in trained:
        assert estimated[stage["name"]].steps == stage["steps"], stage["name"]
        assert estimated[stage["name"]].tokens == pytest.approx(stage["tokens"], rel=0.03), stage["name"]
    models = sum(file.stat().st_size for file in (tmp_path / "run").rglob("model.safetensors"))
    assert planned.disk.models == pytest.approx(models, rel=0.25)  # these are tiny, so their heads count


def test_every_stage_is_measured(planned):
    assert [stage.name for stage in planned.stages] == [
        "teacher: new MLM head",
        "teacher",
        "sparse",
        *(f"tasks/mood/{arm}" for arm in ("dense", "sparse", "one-shot", "gradual", "int8")),
        "tasks/mood/dense-int8: calibration",
        "tasks/mood/int8-ptq: calibration",
        "tasks/mood: evaluation",
    ]
    for stage in planned.stages:
        assert stage.hours == stage.steps * stage.seconds_per_step / 3600 > 0
    assert planned.total["hours"] == pytest.approx(sum(stage.hours for stage in planned.stages))
    assert 1e8 < planned.memory.bytes < 1e10
    assert planned.memory.stage in {stage.name for stage in planned.stages}


# Of the tiny BERT: two layers of 4 x 32^2 + 2 x 32 x 64 weights, an MLM head of 32^2, 53 words.
LAYERS, WORDS = 2 * (4 * 32**2 + 2 * 32 * 64), 53
PRUNE = {"hidden": (0, "all"), "mlm": (1, "all"), "both": (0.15, "masked")}


@pytest.mark.parametrize("objective", PRUNE)
def test_flops_by_hand(recipe_values, tokenizer, tmp_path, objective):
    share, kd_tokens = PRUNE[objective]
    recipe_values["model"] = str(make_model(tmp_path / "dense", tokenizer, head=True))
    recipe_values["prune"] |= {"objective": objective, "kd_tokens": kd_tokens}
    (work,), _ = corpus_works(validate(Recipe, recipe_values), [])
    tokens = 20 * 8 * 16
    transform = 0 if objective == "hidden" else 32 * 32
    forward = tokens * (2 * (LAYERS + transform) + 2 * (2 * 16 * 32 + 2 * 16 * 32))
    head = tokens * share * 2 * WORDS * 32
    assert work.tokens == tokens
    assert work.flops() == pytest.approx(3 * forward + 3 * head + forward + head)


def test_flops_of_a_task_count_its_padding(recipe_values, tmp_path):
    dense = task_works(validate(Recipe, recipe_values), "mood", tmp_path, [])[0]
    # 96 texts of 9 words and two special tokens, padded to 16; two passes
    assert (dense.steps, dense.tokens, dense.padded) == (12, 2 * 96 * 11, 2 * 96 * 16)
    assert dense.flops() == 3 * dense.padded * (2 * LAYERS + 2 * 4 * 16 * 32)


def test_a_given_teacher_is_not_trained(recipe_values, encoder, tmp_path):
    recipe_values["tasks"]["mood"]["teacher_model"] = str(encoder)
    recipe_values["baselines"] = {}
    works = task_works(validate(Recipe, recipe_values), "mood", tmp_path, [])
    assert [work.kind for work in works] == ["transfer", "predict"]


def test_texts_longer_than_what_the_model_is_pruned_on_are_said(recipe_values, tmp_path):
    for length, told in ((8, 1), (16, 0)):  # the texts have 11 tokens
        recipe_values["corpus"]["block_length"] = length
        notes = []
        task_works(validate(Recipe, recipe_values), "mood", tmp_path, notes)
        assert len(notes) == told
        assert all(note.startswith("100 % of the examples of mood are longer than the blocks of 8 ") for note in notes)


def test_lengths_are_those_of_a_sample(tokenizer, tmp_path):
    rows = [{"text": "the " * (1 + number % 7), "label": number % 2} for number in range(2100)]
    lengths = Lengths.of(kind_of(Classification(train="a", dev="b")), Dataset.from_list(rows), tokenizer, True)
    assert (lengths.examples, len(lengths.sample)) == (2100, 700)
    assert lengths.mean == pytest.approx(6, abs=0.1)


# -- measuring --------------------------------------------------------------------------------------------------


def test_what_differs_in_length_alone_is_measured_once(recipe_values, monkeypatch):
    mood = recipe_values["tasks"]["mood"]
    recipe_values["tasks"]["temper"] = {**mood, "transfer": {"epochs": 1, "learning_rate": 5e-4}}
    asked = []

    def measure(probes, seconds):
        asked.extend(probes)
        return [probe.Measured(2.0, 1.0, steps=0, peak=len(asked)) for _ in probes]

    monkeypatch.setattr(probe, "measure", measure)
    found = plan(validate(Recipe, recipe_values))
    assert [one.kind for one in asked] == ["prune", "finetune", "transfer", "transfer-gradual", "predict"]
    assert {stage.name: stage.seconds_per_step for stage in found.stages}["tasks/temper/sparse"] == 3.0
    assert "A step of sparse takes longer than there was time to measure: one was, the first." in found.notes


def test_accumulated_batches_are_counted(recipe_values, monkeypatch):
    recipe_values["prune"]["accumulate"] = 5
    monkeypatch.setattr(probe, "measure", lambda probes, seconds: [probe.Measured(2.0, 1.0, 3, 1) for _ in probes])
    assert plan(validate(Recipe, recipe_values)).stages[0].seconds_per_step == 5 * 2 + 1


@pytest.mark.parametrize(("others", "said"), [(0.1, False), (0.9, True)])
def test_a_busy_machine_is_said(recipe_values, monkeypatch, others, said):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(
        probe,
        "measure",
        lambda probes, seconds: [probe.Measured(1, 1, 3, 1, others * (p.kind == "prune")) for p in probes],
    )
    warned = [note for note in plan(validate(Recipe, recipe_values)).notes if note.startswith("NOT RELIABLE")]
    assert len(warned) == said
    assert all("while steps of sparse were measured" in note for note in warned)


@pytest.mark.parametrize(
    ("step", "share", "expected"),
    [
        (1.0, 2.5, 3),  # until the time is up
        (1.0, 1.5, 3),  # two after the first, though it is
        (2.0, 1.5, 1),  # the first alone
    ],
)
def test_a_clock_stops_in_time(monkeypatch, step, share, expected):
    one, now = clock.Clock(share), iter(range(1, 1000))
    monkeypatch.setattr(clock, "_now", lambda: next(now) * step / 2)
    one.begin()
    while one.stop_batches(1) or not one.stop_update():
        pass
    assert len(one.updates) == expected
    assert one.batches == one.updates == [step / 2] * expected


def test_a_probe_that_dies_is_said(monkeypatch):
    def dies(probes, seconds, roles):  # a function of this one: its process need not import this module
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(probe, "_measure_all", dies)
    with pytest.raises(UserError, match="was killed, most likely for want of memory"):
        probe.measure([], 1)


@pytest.mark.parametrize(("pattern", "sparsity"), [("6:64", 0.91), ("1:20", 0.95), ("2:4", 0.5)])
def test_usual_settings_fit_the_pattern(pattern, sparsity):
    settings = Prune(pattern=pattern, sparsity=sparsity, steps=10, learning_rate=1e-3)
    assert usual(settings).pattern == pattern
    assert usual(settings).sparsity == max(0.9, Pattern.parse(pattern).least_sparsity)


def test_usual_settings_keep_what_costs():
    one = Training(epochs=3, learning_rate=1e-3, batch_size=4, accumulate=8, checkpoint_every=5)
    assert usual(one) == usual(Training(steps=7, learning_rate=1.0, batch_size=4, accumulate=2))
    assert usual(one) != usual(Training(steps=7, learning_rate=1.0, batch_size=8, accumulate=2))
    assert usual(one) != usual(Training(steps=7, learning_rate=1.0, batch_size=4))


# -- the size of a corpus ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1000])
def test_a_small_corpus_is_counted(corpus_file, tokenizer, tmp_path, limit):
    corpus = Corpus(source=str(corpus_file), block_length=16, max_tokens=limit)
    blocks = sum(map(len, token_blocks(corpus, tokenizer, tmp_path)))
    assert count_blocks(corpus, tokenizer) == (blocks, "counted")


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("limit", [None, 1000, 3000])
def test_a_large_corpus_is_estimated(corpus_file, tokenizer, tmp_path, monkeypatch, files, limit):
    text = corpus_file.read_text()
    for number in range(files):
        (tmp_path / f"{number}.txt").write_text(text)
    monkeypatch.setattr("pruneonce.data.size.SAMPLE_BYTES", len(text) // 2)
    corpus = Corpus(source=str(tmp_path), block_length=16, max_tokens=limit)
    blocks = sum(map(len, token_blocks(corpus, tokenizer, tmp_path / "cache")))
    found, how = count_blocks(corpus, tokenizer)
    assert found == pytest.approx(blocks, rel=0.03)
    assert how.startswith("counted up to" if limit == 1000 else "estimated from")


def test_a_broken_line_is_named_in_its_own_file(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("pruneonce.data.size.SAMPLE_BYTES", 100)
    file = tmp_path / "text.jsonl"
    file.write_text(json.dumps({"text": "the river"}) + "\n" + "{broken\n" + "x" * 200)
    with pytest.raises(UserError) as caught:
        count_blocks(Corpus(source=str(file)), tokenizer)
    assert str(caught.value).startswith(f"{file}, line 2: broken JSON")


@pytest.mark.parametrize("limit", [None, 2800])
def test_an_unknown_corpus_is_said(recipe_values, corpus_file, tmp_path, monkeypatch, limit):
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(corpus_file.read_bytes()))
    monkeypatch.setattr("pruneonce.data.size.SAMPLE_BYTES", 100)
    recipe_values["corpus"] |= {"source": str(packed), "max_tokens": limit}
    recipe_values["prune"] |= {"epochs": 1}
    del recipe_values["prune"]["steps"]
    notes = []
    (work,), blocks = corpus_works(validate(Recipe, recipe_values), notes)
    if limit:
        assert (blocks, work.steps) == (200, math.ceil(180 / 8))
        assert notes == ["The corpus has 200 blocks if it has as many tokens as `corpus.max_tokens`."]
    else:
        assert (blocks, work.steps, work.tokens, work.flops()) == (None, None, None, None)
        assert "cannot be told without reading all of it: it is compressed" in notes[0]
        assert "`corpus.max_tokens`" in notes[1]


# -- the command line -------------------------------------------------------------------------------------------


@pytest.fixture
def small(recipe_values, tmp_path):
    """A recipe with one stage."""
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({**recipe_values, "tasks": {}, "baselines": {}}))
    return file


def test_json_has_everything(small, quick_probe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(small), "--seconds", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (stage,) = found["stages"]
    assert (stage["name"], stage["steps"], stage["tokens"]) == ("sparse", 20, 20 * 8 * 16)
    assert found["total"] == {key: stage[key] for key in ("tokens", "flops", "hours")}
    assert found["disk"]["needed"] == found["disk"]["models"] + found["disk"]["blocks"] > 0
    assert found["memory"]["stage"] == "sparse"
    assert [file.name for file in tmp_path.iterdir()] == ["small.yaml"]


def test_a_table_says_what_is_not_known(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(probe, "measure", lambda probes, seconds: [probe.Measured(2.0, 1.0, 3, 10**9) for _ in probes])
    monkeypatch.setattr("pruneonce.plan.corpus_work.count_blocks", lambda corpus, tokenizer: (None, "is a secret"))
    assert main(["plan", str(small), "--set", "prune.epochs=1"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].split() == ["sparse", "?", "?", "?", "3", "?"]
    assert "total of what is known" in shown
    assert "1.00 GB" in shown
    assert "secret" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("prune.end=100", "does not fit a run of 20 steps"),
        ("prune.sparsity=0", "prunes nothing"),
        ("prune.objective=mlm", "has no MLM head"),
        ("corpus.block_length=512", "`corpus.block_length` is 512, but"),
        ("corpus.source=./nowhere.txt", "no such file or folder"),
    ],
)
def test_mistakes_are_found_as_run_finds_them(small, capsys, change, message):
    assert main(["plan", str(small), "--set", change]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_probe_of_a_model_of_another_kind(recipe_values, quick_probe, tokenizer, tmp_path):
    recipe_values["model"] = str(make_model(tmp_path / "dense", tokenizer, "roberta", head=True))
    recipe_values |= {"tasks": {}, "baselines": {}}
    recipe_values["prune"]["objective"] = "mlm"
    assert plan(validate(Recipe, recipe_values), seconds=0).stages[0].seconds_per_step > 0
