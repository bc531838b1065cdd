"""A few real steps of each kind of work in a run, timed, and the memory that they take.

In a process of its own and in the order of the run: the memory of that process at its peak is the run's.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from joblib.externals.loky import ProcessPoolExecutor
from torch.utils.data import Dataset as TorchDataset

from pruneonce import quantization
from pruneonce.data.blocks import masked_collator, plain_collator
from pruneonce.errors import UserError
from pruneonce.losses.objectives import mlm_objective, pruning_objective
from pruneonce.models import load_config, load_tokenizer, load_vocabulary_model, without_dropout
from pruneonce.models.architectures import base_of, prunable_weights
from pruneonce.plan.clock import Clock, others, peak_memory
from pruneonce.plugins import make
from pruneonce.plugins.run import Objective
from pruneonce.recipe import Classification, Gradual, Prepare, Prune, Quantize, Training, Transfer, changed
from pruneonce.sparsity import PruningSchedule
from pruneonce.stages.common import begin, freeze
from pruneonce.stages.prepare import freeze_untrained
from pruneonce.stages.prune import load_dense
from pruneonce.tasks import kind_of
from pruneonce.tasks.objectives import distilled_objective, task_objective
from pruneonce.tasks.prediction import predict
from pruneonce.training import examples_of, sparsifier, train

Kind = Literal["head", "prepare", "prune", "finetune", "transfer", "gradual", "quantize", "predict"]

# In the place of every kind of task: their heads take no time beside the encoder's.
KIND = kind_of(Classification(train="", dev=""))

PREDICT_ROWS = 32  # of `prediction.predict`
MOST = 1000  # steps; time is up before
SPARE = 0.2  # processors that others may use: the system itself always does a little

# What says how a step is done stays, what says how many there are and when something happens does not.
USUAL = {"steps": MOST, "learning_rate": 1e-6, "warmup": 0.0, "checkpoint_every": None}
USUAL_SPARSIFICATION = {"sparsity": 0.9, "initial_sparsity": 0.0, "start": 0, "end": 0.5, "until": 0.8, "every": 0.5}


@dataclass(frozen=True)
class Probe:
    """A kind of work.

    Attributes:
        kind: `head` is the training of a new MLM head alone; `predict` asks a classifier, without training.
        length: tokens of a sequence, padding included.
        longest: the same in the first step, which is not timed: it takes the most memory.
        settings: how it trains, as `usual` gives them; None for `predict`.
    """

    kind: Kind
    model: str
    length: int
    longest: int
    settings: Training | None = None


@dataclass(frozen=True)
class Measured:
    """What a probe found.

    Attributes:
        batch_seconds: for each batch, of which a step has `accumulate`.
        update_seconds: for the optimizer and the masks, once a step.
        steps: how many were timed; 0 where the first alone took longer than there was time.
        peak: bytes of the process (of the GPU, where there is one) up to now.
        others: processors that other programs used meanwhile, on average.
    """

    batch_seconds: float
    update_seconds: float
    steps: int
    peak: int
    others: float = 0.0

    @property
    def is_disturbed(self) -> bool:
        """Whether there were not as many free processors as threads, which wait for one another many times a step.

        So one program beside them can slow a step tenfold.
        """
        return torch.get_num_threads() + self.others > (os.cpu_count() or 1) + SPARE


def usual(settings: Training) -> Training:
    """`settings` without what a step's time and memory do not depend on: equal ones are measured once."""
    same: dict[str, Any] = {**USUAL, "accumulate": min(2, settings.accumulate)}
    return changed(settings, {**same, **(USUAL_SPARSIFICATION if isinstance(settings, (Prune, Gradual)) else {})})  # type: ignore[no-any-return]


def measure(probes: Sequence[Probe], seconds: float) -> list[Measured]:
    """Run each probe for its share of `seconds`, in another process.

    A probe runs one step to warm up and two more at least, unless the first takes longer than the share.

    Raises:
        UserError: there is not enough memory.
    """
    alone = ProcessPoolExecutor(1)
    try:
        found: list[Measured] = alone.submit(_measure_all, list(probes), seconds).result()
        alone.shutdown()
    except BrokenProcessPool:
        raise UserError(
            "the process that measured was killed, most likely for want of memory; lower `batch_size` (and raise "
            "`accumulate`), or set `activation_checkpointing`"
        ) from None
    finally:
        alone.shutdown(kill_workers=True)
    return found


def _measure_all(probes: list[Probe], seconds: float) -> list[Measured]:
    warnings.simplefilter("ignore")
    found = []
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # progress
        for probe in probes:
            try:
                found.append(_measure(probe, seconds / len(probes)))
            except torch.OutOfMemoryError:
                raise UserError(
                    f"not enough memory on the GPU for the stage `{probe.kind}`; lower its `batch_size` (and raise "
                    "`accumulate`), or set `activation_checkpointing`"
                ) from None
    return found


def _measure(probe: Probe, share: float) -> Measured:
    device = begin(0)
    clock = Clock(share)
    began, before = perf_counter(), others()
    if probe.settings is None:
        _predict(probe, clock, device)
    else:
        with TemporaryDirectory() as folder:
            _train(probe, probe.settings, clock, device, Path(folder))
    batches, updates = clock.batches[1:] or clock.batches, clock.updates[1:] or clock.updates
    busy = (others() - before) / (perf_counter() - began)
    return Measured(median(batches), median(updates), len(clock.batches) - 1, peak_memory(), busy)


def _train(probe: Probe, settings: Training, clock: Clock, device: torch.device, folder: Path) -> None:
    corpus = isinstance(settings, (Prepare, Prune))
    student, objective = (_corpus_model if corpus else _task_model)(probe, settings, device)
    tokenizer = load_tokenizer(probe.model)
    collate: Any = KIND.collate(tokenizer)
    if isinstance(settings, (Prepare, Prune)):
        masked = isinstance(settings, Prepare) or settings.objective != "hidden"
        collate = masked_collator(tokenizer, settings.mlm_probability, 0) if masked else plain_collator
    masks: sparsifier.Locked | None = None
    method = make(settings.method)
    if isinstance(settings, (Prune, Gradual)):
        masks = sparsifier.Gradual(prunable_weights(student), settings, PruningSchedule.of(settings, MOST), method)
    elif isinstance(settings, Transfer):
        masks = sparsifier.Locked(prunable_weights(student))
    if isinstance(settings, Quantize):
        quantization.insert(student, settings, settings.averaging)
    train(
        student,
        objective,
        Rows(probe, settings, student.config, padded=not corpus),
        collate,
        settings,
        steps=MOST,
        length=probe.longest,
        folder=folder,
        title=probe.kind,
        sparsifier=masks,
        method=method,
        callbacks=[clock],
    )


def _corpus_model(probe: Probe, settings: Training, device: torch.device) -> tuple[Any, Objective]:
    """As the stages `prepare` and `prune` make them."""
    if isinstance(settings, Prune):
        student = load_dense(probe.model, settings, settings.dropout, head_may_be_new=True)
        teacher = freeze(load_dense(probe.model, settings, None, head_may_be_new=True), device)
        if settings.objective == "hidden":
            base_of(student).embeddings.requires_grad_(False)
        return student.to(device), pruning_objective(teacher, settings)
    overrides = without_dropout(load_config(probe.model), settings.dropout)
    student, _ = load_vocabulary_model(probe.model, **overrides)
    freeze_untrained(student)
    if probe.kind == "head":
        base_of(student).requires_grad_(False)
    return student.to(device), mlm_objective


def _task_model(probe: Probe, settings: Training, device: torch.device) -> tuple[Any, Objective]:
    """As `stages.finetune.run` makes them."""
    overrides = without_dropout(load_config(probe.model), settings.dropout)
    student = KIND.load_model(probe.model, **overrides).to(device)
    if not isinstance(settings, Transfer):
        return student, task_objective(KIND)
    teacher = freeze(KIND.load_model(probe.model), device)
    return student, distilled_objective(KIND, teacher, KIND.task.completed(settings))


def _predict(probe: Probe, clock: Clock, device: torch.device) -> None:
    model = KIND.load_model(probe.model).to(device)
    collate = KIND.collate(load_tokenizer(probe.model))
    length, done = probe.longest, False
    while not done:
        ids = _random_ids(0, model.config.vocab_size, PREDICT_ROWS * length).reshape(-1, length).tolist()
        batch = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * length] * PREDICT_ROWS})
        clock.begin()
        predict(model, KIND, batch, collate)
        clock.stop_batches(1)
        done = clock.stop_update() or len(clock.batches) == MOST
        length = probe.length


def _random_ids(seed: int, vocabulary: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocabulary, size)


class Rows(TorchDataset[dict[str, Any]]):
    """Random sequences, those of the first step `probe.longest` tokens long and the others `probe.length`.

    `padded` ones, which are a task's, are a token shorter but for the first of each batch: there is padding, and a
    label.
    """

    def __init__(self, probe: Probe, settings: Training, config: Any, *, padded: bool):
        self.probe, self.settings, self.padded = probe, settings, padded
        self.vocabulary, self.classes = config.vocab_size, config.num_labels

    def __len__(self) -> int:
        return examples_of(self.settings, MOST)

    def __getitem__(self, position: int) -> dict[str, Any]:
        first = position < examples_of(self.settings, 1)
        length = self.probe.longest if first else self.probe.length
        if not self.padded:
            return {"input_ids": _random_ids(position, self.vocabulary, length).tolist(), "position": position}
        length -= position % self.settings.batch_size > 0
        return {
            "input_ids": _random_ids(position, self.vocabulary, length).tolist(),
            "attention_mask": [1] * length,
            "labels": position % self.classes,
        }
