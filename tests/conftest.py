"""Fixtures: a tiny encoder, tokenizer, corpus, task and recipe, and what the stages of shared/settings.py take."""

import gc
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from shared.models import WORDS, make_model, make_tokenizer
from shared.processes import ONE_THREAD, ForkedExecutor
from shared.settings import Inputs, make_inputs
from transformers import PreTrainedTokenizerFast

from pruneonce import stages
from pruneonce.plan import probe
from pruneonce.recipe import Classification, Prune, Training, Transfer

os.environ.update(ONE_THREAD)  # of the processes that the package starts


SLOW = pytest.StashKey[int]()  # the number of slow tests that were left out
BEGAN = time.monotonic()


def pytest_deselected(items: list[pytest.Item]) -> None:
    left_out = sum(item.get_closest_marker("slow") is not None for item in items)
    items[0].config.stash[SLOW] = left_out


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep what `make slow` took, and tell the first process of pytest-xdist what another one left out."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["slow"] = config.stash.get(SLOW, 0)
    elif config.option.markexpr == "slow" and session.testscollected > 20 and (cache := getattr(config, "cache", None)):
        cache.set("slow/minutes", (time.monotonic() - BEGAN) / 60)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[SLOW] = getattr(node, "workeroutput", {}).get("slow", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if number := config.stash.get(SLOW, 0):
        cache = getattr(config, "cache", None)  # there is none with `-p no:cacheprovider`
        minutes = cache and cache.get("slow/minutes", None)
        took = "not yet run here" if minutes is None else f"{minutes:.1f} min when last run here"
        terminalreporter.line(f"{number} slow tests were left out; `make slow` runs them ({took})")


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # tiny models: a second thread only waits


@pytest.fixture(scope="module", autouse=True)
def _imports_are_no_garbage() -> None:
    """Training collects garbage, and would look through all that PyTorch and transformers define: half of its time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A bare BERT encoder."""
    return make_model(tmp_path_factory.mktemp("models") / "encoder", tokenizer)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = random.Random(0)
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    weights = [1 / (rank + 1) ** 2 for rank in range(len(WORDS))]  # some words are far likelier: that can be learned
    file.write_text("".join(" ".join(chosen.choices(WORDS, weights, k=20)) + "\n" for _ in range(200)))
    return file


@pytest.fixture(scope="session")
def task_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train, dev and test.jsonl of a learnable task: the label is whether a good word occurs."""
    chosen = random.Random(1)
    folder = tmp_path_factory.mktemp("task")
    for split, size in (("train", 96), ("dev", 32), ("test", 40)):
        rows = []
        for index in range(size):
            words = [*chosen.choices(WORDS[:24], k=8), "great" if index % 2 else "awful"]
            chosen.shuffle(words)
            rows.append(json.dumps({"text": " ".join(words), "label": "positive" if index % 2 else "negative"}))
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def task(task_files: Path) -> Classification:
    return Classification(**{split: str(task_files / f"{split}.jsonl") for split in ("train", "dev", "test")})


@pytest.fixture(scope="session")
def models(encoder: Path, task: Classification, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dense teacher and a sparse task model."""
    folder = tmp_path_factory.mktemp("task")
    settings = {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3}
    dense = stages.finetune(encoder, task, Training(**settings), folder / "dense")
    one_shot = stages.prune_one_shot(encoder, Prune(steps=1, learning_rate=1, sparsity=0.8), folder / "pruned")
    return dense, stages.transfer(one_shot, task, Transfer(**settings), folder / "sparse", teacher=dense)


@pytest.fixture(scope="session")
def inputs(
    tokenizer: PreTrainedTokenizerFast, corpus_file: Path, task_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Inputs:
    """What every stage and method of shared/settings.py takes."""
    return make_inputs(tmp_path_factory.mktemp("inputs"), tokenizer, corpus_file, task_files)


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """`plan` measures in a process that is forked off one with all imports."""
    monkeypatch.setattr(probe, "ProcessPoolExecutor", ForkedExecutor)


@pytest.fixture(scope="session")
def tiny_recipe(encoder: Path, corpus_file: Path, task_files: Path) -> Callable[[], dict]:
    """Makes the values of a recipe that runs in seconds."""
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
    return lambda: {
        "name": "tiny",
        "model": str(encoder),
        "report_to": [],
        "corpus": {"source": str(corpus_file), "block_length": 16, "validation": 0.1},
        "prune": {
            "objective": "hidden",
            "steps": 20,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "every": 2,
            "rewind": False,
        },
        "teacher": training,
        "transfer": training,
        "tasks": {
            "mood": {f: str(task_files / f"{f}.jsonl") for f in ("train", "dev", "test")},
        },
        "baselines": {"one_shot": True, "gradual": {**training, "every": 2, "rewind": False}},
    }


@pytest.fixture
def recipe_values(tiny_recipe: Callable[[], dict]) -> dict:
    return tiny_recipe()
