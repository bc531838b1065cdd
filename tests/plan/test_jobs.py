"""A plan trains what a run trains: for every shipped recipe and every kind of stage, with tiny models.

The run is a real one but for the training itself: in its place stands `Spy`, which notes the job that it was given.
"""

import json
import math
import random

import numpy as np
import pytest
import torch
from shared.models import WORDS, make_model

from pruneonce import recipe as recipes
from pruneonce import stages
from pruneonce.metrics.units import Units
from pruneonce.models import load_tokenizer
from pruneonce.plan.corpus_work import corpus_works
from pruneonce.plan.estimate import _probes
from pruneonce.plan.jobs import SEED, TASK_STAGES, Probe, TaskSample, job_of, usual
from pruneonce.plan.task_work import task_works
from pruneonce.recipe import ProductQuantize, Prune, Recipe, validate
from pruneonce.recipe.loading import shipped
from pruneonce.runs import pipeline
from pruneonce.sparsity import apply_masks, magnitude_masks
from pruneonce.stages.evaluate import Measured
from pruneonce.tasks import kind_of
from pruneonce.tasks.cuts import Cut
from pruneonce.training import Trained

ARCHITECTURES = {
    "google-bert/bert-base-uncased": "bert",
    "google-bert/bert-large-uncased": "bert",
    "distilbert/distilbert-base-uncased": "distilbert",
    "sentence-transformers/all-MiniLM-L6-v2": "bert",
    "inputs/model": "bert",
}
LONGEST = 64  # tokens that tiny models are given
STEPS = 400  # in the place of epochs over a corpus or task that is tiny
TASKS = {"classification", "regression", "question-answering", "token-classification", "embedding", "reranking"}


class Spy:
    """Stands for `training.train`."""

    def __init__(self):
        self.jobs = []

    def __call__(self, job, folder, title, **options):
        self.jobs.append(facts(job))
        if job.sparsifier and job.sparsifier.schedule:
            weights = job.sparsifier.weights
            apply_masks(weights, magnitude_masks(weights, 0.5))
        return Trained([], job.steps, 0, 0.0)


def facts(job):
    """Everything about a job that makes a step take its time and its memory, and the number of steps."""
    job.model.train()
    batches, size = [], job.settings.batch_size
    step = size * job.settings.accumulate
    for first in (0, step, 2 * step):
        batches.append(job.collate([job.examples[first + number] for number in range(size)]))
    masks = job.sparsifier
    return {
        "trained": {name: tuple(w.shape) for name, w in job.model.named_parameters() if w.requires_grad},
        "frozen": {name: tuple(w.shape) for name, w in job.model.named_parameters() if not w.requires_grad},
        "modules": {name: type(module).__name__ for name, module in job.model.named_modules()},
        "batches": [{name: tuple(value.shape) for name, value in batch.items()} for batch in batches],
        "loss": sorted(job.objective(job.model, dict(batches[0]))),
        "likelihood": sorted((job.likelihood or job.objective)(job.model, dict(batches[0]))),
        "judged by the objective": job.likelihood in (None, job.objective),
        "dropout": {name: module.p for name, module in job.model.named_modules() if hasattr(module, "p")},
        "masks": masks and (type(masks), sorted(masks.weights), masks.schedule is None),
        "zeros": masks and {name: getattr(masks, name, None) for name in ("pattern", "allocation", "nested")},
        "method": (type(job.method), job.method.options),
        "settings": usual(job.settings),
        "length": math.ceil(job.length / 8) * 8,
        "steps": job.steps,
    }


@pytest.fixture
def spy(monkeypatch):
    made = Spy()
    monkeypatch.setattr("pruneonce.training.train", made)
    rest = (Units({"score": np.zeros(2)}), "", Cut(2, 0, 20, 0, 10))
    monkeypatch.setattr(stages, "evaluate", lambda model, task, **_: {"dev": {task.metric: 0.5}})
    monkeypatch.setattr(stages, "measure", lambda model, task, **_: {"dev": Measured({task.metric: 0.5}, *rest)})
    monkeypatch.setattr(pipeline, "_conclude", lambda recipe, output: {})
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of rows for every kind of task. Texts, and pairs of `half`, have as many tokens: all batches are padded
    alike."""
    folder, chosen = tmp_path_factory.mktemp("tasks"), random.Random(0)
    rows = []
    for number in range(40):
        words, others = chosen.choices(WORDS, k=9), chosen.choices(WORDS, k=9)
        context = " ".join(others)
        rows.append(
            {
                "text": " ".join(words),
                "text_pair": context,
                "half": " ".join(words[:4]),
                "half_pair": " ".join(others[:4]),
                "label": number % 2,
                "id": str(number),
                "question": " ".join(words),
                "context": context,
                "answers": {"text": [others[0]], "answer_start": [0]},
                "tokens": words,
                "tags": ["O" if len(word) > 3 else "B-short" for word in words],
                "query": " ".join(words),
                "passage": context,
            }
        )
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "more.txt").write_text("".join(f"{row['text']}\n" for row in rows))
    return folder


@pytest.fixture
def tiny(tmp_path, tokenizer, corpus_file, files):
    """Gives a recipe over tiny models, texts and tasks, all its settings as they are."""

    def make(recipe):
        values = recipe.model_dump()
        has_head = bool(recipe.prune) and recipe.prune.objective != "hidden"
        model = make_model(tmp_path / "model", tokenizer, ARCHITECTURES[recipe.model], head=has_head)
        values |= {"model": str(model), "seed": SEED, "report_to": [], "benchmark": None, "pack": False}
        if recipe.sparse:
            sparse = stages.prune_one_shot(model, Prune(steps=1, learning_rate=1, sparsity=0.9), tmp_path / "given")
            values["sparse"] = str(sparse)
        else:
            values["corpus"] = {"source": str(corpus_file), "block_length": min(LONGEST, recipe.corpus.block_length)}
        for name, task in recipe.tasks.items():
            rows = {"kind": task.kind, "train": str(files / "rows.jsonl"), "dev": str(files / "rows.jsonl")}
            pair = {"text": "half", "text_pair": "half_pair"} if getattr(task, "text_pair", None) else {}
            windows = {"doc_stride": 8} if task.kind == "question-answering" else {}
            changes = {key: getattr(task, key) for key in ("metric", "teacher", "transfer", "quantize")}
            values["tasks"][name] = {**rows, **pair, **windows, **changes, "max_length": min(LONGEST, task.max_length)}
        return in_steps(values)

    return make


def in_steps(values):
    """With epochs of tiny data there would be too few steps for a schedule."""
    if not isinstance(values, dict):
        return values
    changed = {key: in_steps(value) for key, value in values.items()}
    if changed.get("epochs") is not None:
        changed |= {"epochs": None, "steps": STEPS}
    return changed


def planned(recipe, folder):
    """The works of a plan that train, and their jobs."""
    works, _ = corpus_works(recipe, [])
    for name in recipe.tasks:
        works += task_works(recipe, name, folder, [])
    trained = [(work, probe) for work, probe in _probes(works).items() if work.kind != "predict"]
    return [(work, facts(job_of(probe, torch.device("cpu")))) for work, probe in trained]


def assert_equal(ran, works):
    assert len(ran) == len(works)
    for run, (work, job) in zip(ran, works, strict=True):
        assert run["steps"] == work.steps, work.name
        for fact in run.keys() - {"steps"}:
            assert run[fact] == job[fact], (work.name, fact)


@pytest.mark.parametrize("name", shipped())
def test_a_plan_trains_what_a_run_of_a_shipped_recipe_trains(name, tiny, files, spy, tmp_path):
    loaded = recipes.load(name)
    values = tiny(loaded)
    if not loaded.tasks:  # those that its comments name
        rows = {"train": str(files / "rows.jsonl"), "dev": str(files / "rows.jsonl")}
        values["tasks"] = {"vectors": {"kind": "embedding", **rows}}
        if loaded.teacher:
            values["tasks"] |= {"mine": rows}
    recipe = validate(Recipe, values)
    pipeline.run(recipe, tmp_path / "run")
    works = planned(recipe, tmp_path)
    assert_equal(spy.jobs, works)
    assert {*(["prune"] if recipe.prune else []), "transfer"} <= {work.kind for work, _ in works}


def test_frozen_embeddings_are_frozen_in_a_plan(tiny, files, tmp_path):
    """minilm-90 trains less than half of the parameters of its model."""
    values = tiny(recipes.load("minilm-90"))
    values["tasks"] = {"mine": {"train": str(files / "rows.jsonl"), "dev": str(files / "rows.jsonl")}}
    for work, job in planned(validate(Recipe, values), tmp_path):
        frozen = any("embeddings" in name for name in job["frozen"])
        assert frozen == (work.kind != "finetune"), work.name


def test_a_plan_trains_what_every_kind_of_stage_trains(tiny_recipe, files, spy, tmp_path):
    """All stages that a recipe can have, on all kinds of tasks, with texts that have no label among them."""
    values, file = tiny_recipe(), str(files / "rows.jsonl")
    short = {"steps": 30, "batch_size": 4, "learning_rate": 1e-3, "dropout": 0.0}
    values |= {
        "seed": SEED,
        "prepare": {**short, "accumulate": 2},
        "transfer": {**short, "hidden_weight": 0.0},
        "quantize": {"int8": short, "int8_ptq": {}, "int4": {**short, "relation_weight": 1.0, "group_size": 32}},
        "pack": False,
    }
    values["prune"] |= {"objective": "both", "pieces": [1, 2], "pattern": "1x4", "dropout": 0.1}
    values["baselines"]["gradual"] |= {"method": {"name": "cram"}, "freeze_embeddings": True}
    values["tasks"] = {kind: {"kind": kind, "train": file, "dev": file} for kind in sorted(TASKS)}
    values["tasks"]["question-answering"] |= {"max_length": LONGEST, "doc_stride": 8}
    values["tasks"]["classification"]["unlabelled"] = str(files / "more.txt")
    values["tasks"]["regression"] |= {"text_pair": "text_pair", "unlabelled": file}
    recipe = validate(Recipe, values)
    pipeline.run(recipe, tmp_path / "run")
    works = planned(recipe, tmp_path)
    assert_equal(spy.jobs, works)
    kinds = {work.kind for work, _ in works}
    assert kinds == {"head", "prepare", "prune", *TASK_STAGES} - {"product-quantize"}


def test_a_probe_of_product_quantization(encoder, files, spy, tmp_path):
    """No recipe has this stage yet."""
    task = recipes.Classification(train=str(files / "rows.jsonl"), dev=str(files / "rows.jsonl"))
    dense = stages.finetune(encoder, task, recipes.Training(steps=3, learning_rate=1e-3), tmp_path / "dense")
    settings = ProductQuantize(steps=30, batch_size=4, centroids=16)
    stages.product_quantize(dense, task, settings, tmp_path / "coded", teacher=dense, seed=SEED)
    kind = kind_of(task)
    example = kind.encode(kind.load(tmp_path).splits["train"], load_tokenizer(encoder), training=True)[0]
    sample = TaskSample(task, ("0", "1"), str(encoder), example)
    probe = Probe("product-quantize", str(encoder), 16, 16, usual(task.completed(settings)), sample)
    job = facts(job_of(probe, torch.device("cpu")))
    assert {**job, "steps": 30} == spy.jobs[-1]


@pytest.mark.parametrize(
    ("example", "length", "expected"),
    [
        (
            {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "labels": 1},
            5,
            {"attention_mask": [1] * 5, "labels": 1},
        ),
        ({"input_ids": [1, 2, 3], "labels": [-100, 4, -100]}, 4, {"labels": [-100, 4, -100, -100]}),
        ({"input_ids": [1, 2, 3], "labels": [1, 2]}, 2, {"labels": [1, 1]}),
    ],
)
def test_an_example_of_another_length(example, length, expected, task):
    """Entries of tokens are repeated or cut, positions of tokens stay inside, labels of the whole stay."""
    sample = TaskSample(task, (), "teacher", example)
    assert sample.of_length(length, [7] * length) == {"input_ids": [7] * length, **expected}
