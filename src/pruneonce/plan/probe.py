"""Measurement of a few real steps of each kind of work in a run: seconds and memory.

The steps run in a process of their own and in the order of the run, so that its peak memory is the run's.
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
from typing import Any

import torch
from datasets import Dataset
from joblib.externals.loky import ProcessPoolExecutor

from pruneonce import training
from pruneonce.errors import UserError
from pruneonce.models import load_tokenizer
from pruneonce.models.given_roles import giving, in_force
from pruneonce.plan.clock import Clock, peak_memory
from pruneonce.plan.jobs import MOST, SEED, Probe, job_of, random_ids
from pruneonce.recipe import Classification
from pruneonce.system import distributed
from pruneonce.system.machine import is_short_of_processors, seconds_of_others
from pruneonce.tasks import kind_of
from pruneonce.tasks.prediction import predict

# This kind stands for all kinds of tasks: beside the encoder, their heads take no time.
KIND = kind_of(Classification(train="", dev=""))

PREDICT_ROWS = 32  # of `prediction.predict`


@dataclass(frozen=True)
class Measured:
    """Result of a probe.

    Attributes:
        batch_seconds: seconds of a batch, of which a step has `accumulate`.
        update_seconds: seconds of the optimizer and the masks, once a step.
        steps: timed steps; 0 where the first alone took longer than its share of time.
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
        """Return whether there were fewer free processors than threads.

        Threads wait for one another many times a step, so that one program beside them can slow a step tenfold.
        """
        return is_short_of_processors(torch.get_num_threads(), self.others)


def measure(probes: Sequence[Probe], seconds: float) -> list[Measured]:
    """Run each probe for its share of `seconds`, in another process.

    A probe runs one step to warm up and two more at least, unless the first takes longer than the share.

    Raises:
        UserError: there is not enough memory.
    """
    alone = ProcessPoolExecutor(1)
    try:
        measured: list[Measured] = alone.submit(_measure_all, list(probes), seconds, in_force()).result()
        alone.shutdown()
    except BrokenProcessPool:
        raise UserError(
            "the process that measured was killed, most likely for want of memory; lower `batch_size` (and raise "
            "`accumulate`), or set `activation_checkpointing`"
        ) from None
    finally:
        alone.shutdown(kill_workers=True)
    return measured


def _measure_all(probes: list[Probe], seconds: float, roles: Any) -> list[Measured]:
    warnings.simplefilter("ignore")
    measured = []
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), giving(*roles):  # progress
        for probe in probes:
            try:
                measured.append(_measure(probe, seconds / len(probes)))
            except torch.OutOfMemoryError:
                raise UserError(
                    f"not enough memory on the GPU for the stage `{probe.kind}`; lower its `batch_size` (and raise "
                    "`accumulate`), or set `activation_checkpointing`"
                ) from None
    return measured


def _measure(probe: Probe, share: float) -> Measured:
    device = distributed.start(SEED)
    clock = Clock(share)
    began, before = perf_counter(), seconds_of_others()
    if probe.settings is None:
        _predict(probe, clock, device)
    else:
        with TemporaryDirectory() as folder:
            training.train(job_of(probe, device), Path(folder), probe.kind, seed=SEED, callbacks=[clock])
    batches, updates = clock.batches[1:] or clock.batches, clock.updates[1:] or clock.updates
    busy = (seconds_of_others() - before) / (perf_counter() - began)
    return Measured(median(batches), median(updates), len(clock.batches) - 1, peak_memory(), busy)


def _predict(probe: Probe, clock: Clock, device: torch.device) -> None:
    model = KIND.load_model(probe.model).to(device)
    collate = KIND.collate(load_tokenizer(probe.model))
    length, done = probe.longest, False
    while not done:
        ids = (
            random_ids(0, model.config.get_text_config().vocab_size, PREDICT_ROWS * length).reshape(-1, length).tolist()
        )
        batch = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * length] * PREDICT_ROWS})
        clock.begin()
        predict(model, KIND, batch, collate)
        clock.stop_batches(1)
        done = clock.stop_update() or len(clock.batches) == MOST
        length = probe.length
