"""Estimate of a run before it starts: steps, tokens, arithmetic, time on this machine, memory and disk.

Stages and formulas are in `corpus_work` and `task_work`; `jobs` builds the jobs to measure, `probe` measures them.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pruneonce.plan import probe
from pruneonce.plan.corpus_work import BYTES, Shape, Work, corpus_works
from pruneonce.plan.jobs import Probe, usual
from pruneonce.plan.task_work import SAMPLE, task_works
from pruneonce.recipe import Recipe, Training
from pruneonce.recipe.arms import arms_of
from pruneonce.runs import pipeline


@dataclass(frozen=True)
class Stage:
    """Line of the plan; None where the steps are not known."""

    name: str
    steps: int | None
    tokens: int | None
    flops: float | None
    seconds_per_step: float
    hours: float | None


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, and the stage that needs them."""

    bytes: int
    stage: str
    device: str


@dataclass(frozen=True)
class Disk:
    """Bytes on disk: checkpoints of one stage at a time, model folders, token blocks (None: not known), free space."""

    checkpoints: int
    models: int
    blocks: int | None
    free: int

    @property
    def needed(self) -> int:
        """Return the bytes that the run needs."""
        return self.checkpoints + self.models + (self.blocks or 0)


@dataclass(frozen=True)
class Plan:
    """Estimate of a run: its stages, memory and disk, and notes in sentences."""

    name: str
    stages: list[Stage]
    memory: Memory
    disk: Disk
    notes: list[str]

    @property
    def total(self) -> dict[str, float]:
        """Return sums over the stages whose steps are known."""
        return {key: sum(getattr(stage, key) or 0 for stage in self.stages) for key in ("tokens", "flops", "hours")}

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON, with totals."""
        return {**asdict(self), "total": self.total, "disk": {**asdict(self.disk), "needed": self.disk.needed}}

    def sentences(self) -> list[str]:
        """Return memory, disk and notes in sentences, which the table lacks."""
        disk = self.disk
        blocks = "an unknown number of token blocks" if disk.blocks is None else f"token blocks {_size(disk.blocks)}"
        return [
            f"Memory of the {self.memory.device} at the peak, in {self.memory.stage}: {_size(self.memory.bytes)}.",
            f"Disk: {_size(disk.needed)} (models {_size(disk.models)}, checkpoints {_size(disk.checkpoints)}, "
            f"{blocks}); {_size(disk.free)} are free here.",
            *self.notes,
        ]


def plan(recipe: Recipe, seconds: float = 30.0) -> Plan:
    """Estimate a run of `recipe` on one process of this machine. Nothing is written but temporary files.

    Args:
        recipe: the run to estimate.
        seconds: about how long steps are measured, shared out over the kinds of stages.

    Raises:
        UserError: a mistake in the recipe or its inputs that a run would find before it trains; there is not enough
            memory.
    """
    with pipeline.roles_of_recipe(recipe):
        return _plan(recipe, seconds)


def _plan(recipe: Recipe, seconds: float) -> Plan:
    notes: list[str] = []
    with TemporaryDirectory() as scratch:
        pipeline.check(recipe, Path(scratch))
        works, blocks = corpus_works(recipe, notes)
        for name in recipe.tasks:
            works += task_works(recipe, name, Path(scratch), notes)
    if len(recipe.task_seeds) > 1 and any(work.candidates > 1 for work in works):
        notes.append("With the seeds after the first, a sweep is planned as its longest candidate.")
    probes = _probes(works)
    kinds = list(dict.fromkeys(probes.values()))
    measured = dict(zip(kinds, probe.measure(kinds, seconds), strict=True))
    stages = []
    for work, kind in probes.items():
        if not measured[kind].steps:
            notes.append(f"A step of {work.name} takes longer than there was time to measure: one was, the first.")
        stages.append(_stage(work, kind, measured[kind]))
    if any(measurement.is_disturbed for measurement in measured.values()):
        disturbed = ", ".join(work.name for work, kind in probes.items() if measured[kind].is_disturbed)
        notes.append(
            f"NOT RELIABLE: other programs used the processors while steps of {disturbed} were measured, which can "
            "slow them tenfold. Plan again when the machine is idle."
        )
    highest = max(measurement.peak for measurement in measured.values())
    peak = next(work.name for work, kind in probes.items() if measured[kind].peak == highest)
    notes.append(
        "For one process. Not included: reading and packing the corpus, mask updates, loading and saving. Task texts "
        f"are as long as those of at most {SAMPLE} examples of each split."
    )
    device = "GPU" if torch.cuda.is_available() else "processor"
    return Plan(recipe.name, stages, Memory(highest, peak, device), _disk(recipe, works, blocks), notes)


def _probes(works: list[Work]) -> dict[Work, Probe]:
    """Return the probe of each work. Works that differ in length alone share one, of the longest."""
    alike: dict[Any, list[Work]] = {}
    for work in works:
        settings = work.settings and usual(work.settings)
        alike.setdefault((work.kind, work.model, settings, work.sample and work.sample.alike()), []).append(work)
    probe_of = {}
    for (kind, model, settings, _), group in alike.items():
        length, longest = max(work.length for work in group), max(work.longest for work in group)
        probe_of.update(dict.fromkeys(group, Probe(kind, model, length, longest, settings, group[0].sample)))
    return {work: probe_of[work] for work in works}


def _stage(work: Work, kind: Probe, measured: probe.Measured) -> Stage:
    """Return a line of the plan; time is proportional to tokens where there are fewer than the probe's."""
    accumulate = work.settings.accumulate if work.settings else 1
    share = (work.padded / work.steps if work.padded and work.steps else work.rows * work.length) / (
        work.rows * kind.length
    )
    step = measured.batch_seconds * accumulate * share + measured.update_seconds
    hours = None if work.steps is None else work.steps * step / 3600
    return Stage(work.name, work.steps, work.tokens, work.flops(), step, hours)


def _disk(recipe: Recipe, works: list[Work], blocks: int | None) -> Disk:
    models, checkpoints, beaten = 0, [0], [0]
    for work in works:
        if work.kind in ("head", "predict"):
            continue
        size = BYTES * work.shape().parameters
        models += size
        if work.candidates > 1:
            beaten.append(size)  # the best candidate so far stands beside the candidate in training
        assert work.settings is not None
        if work.settings.checkpoint_every:
            checkpoints.append(2 * 3 * size)  # two of them, each with weights and two moments
    arms = [settings for name in recipe.tasks for _, settings in arms_of(recipe, name)]
    untrained = sum(not isinstance(settings, Training) for settings in arms) * len(recipe.task_seeds)
    models += max(beaten) + (untrained + recipe.baselines.one_shot) * BYTES * Shape.of(recipe.model, False).parameters
    models += BYTES * Shape.of(recipe.model, False).parameters if recipe.sparse else 0
    tokens = None if blocks is None else BYTES * blocks * (recipe.corpus.block_length if recipe.corpus else 0)
    return Disk(max(checkpoints), models, tokens, shutil.disk_usage(Path.cwd()).free)


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
