"""Arms of one task with one seed, made and measured as `pruneonce.recipe.arms` declares them.

With the first seed, arms are also packed and exported, and settings are swept.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pruneonce import stages, storage
from pruneonce.console import console
from pruneonce.recipe import Recipe, Swept, Task
from pruneonce.recipe.arms import DENSE, SPARSE, Arm, arms_of, comes_from
from pruneonce.runs.certificates import write_outcome
from pruneonce.runs.layout import (
    arm_models,
    evaluation_file,
    first_folder,
    given_teacher,
    outcome_file,
    packed_file,
    sizes_file,
    task_folder,
)
from pruneonce.runs.sweep import chosen, sweep
from pruneonce.sparsity import verify
from pruneonce.system import distributed, durable

Model = str | Path


@dataclass(frozen=True)
class TaskRun:
    """Arms of the task `name` with `seed`, in a run of `recipe` in `output`."""

    recipe: Recipe
    output: Path
    name: str
    seed: int

    @property
    def task(self) -> Task:
        """Return the task's section of the recipe."""
        return self.recipe.tasks[self.name]

    @property
    def folder(self) -> Path:
        """Return the folder of the task with the seed."""
        return task_folder(self.recipe, self.output, self.name, self.seed)

    @property
    def is_first(self) -> bool:
        """Return whether the seed is the first one."""
        return self.seed == self.recipe.task_seeds[0]

    def make(self, run_models: Mapping[str, Model]) -> None:
        """Make, export, measure and pack the arms; finished work is skipped.

        Args:
            run_models: the models of the run by their names in `Arm.from_run`.
        """
        teacher = given_teacher(self.recipe, self.output, self.name)
        models: dict[str, Model] = {} if teacher is None else {DENSE: teacher}
        for arm, settings in arms_of(self.recipe, self.name):
            source = models[arm.from_arm] if arm.from_arm else run_models[arm.from_run or DENSE]
            models[arm.name] = self._make(arm, source, settings, models.get(DENSE))
            for format in self.recipe.export if arm.exported and self.is_first else []:
                stages.export(models[arm.name], self.folder / f"{arm.name}-{format}", format=format)
        distributed.by_first(partial(self._measure, Path(run_models[SPARSE])))

    def _make(self, arm: Arm, source: Model, settings: Any, teacher: Model | None) -> Path:
        """Make an arm by its settings or, where they are swept, by those that do best with the first seed."""
        stage = getattr(stages, arm.stage)
        options = {
            "seed": self.seed,
            "cache": self.output / "cache",
            "report_to": self.recipe.report_to,
            "teacher": teacher,
        }
        accepted = {name: value for name, value in options.items() if name in inspect.signature(stage).parameters}

        def train(candidate: Any, output: Path) -> Path:
            return stage(source, self.task, candidate, output, **accepted)  # type: ignore[no-any-return]

        place = self.folder / arm.name
        if not isinstance(settings, Swept):
            return train(settings, place)
        if settings.sweep and self.is_first:
            return sweep(settings, place, train, self._on_dev, self.task.metric)
        if settings.sweep:
            return train(chosen(settings, first_folder(self.recipe, self.output, self.name) / arm.name), place)
        return train(settings.candidates()[0], place)

    def _on_dev(self, model: Path) -> float:
        measures = stages.evaluate(model, self.task, splits=["dev"], cache=self.output / "cache")
        return measures["dev"][self.task.metric]

    def _measure(self, sparse: Path) -> None:
        """Evaluate every arm; verify that arms made of the sparse model kept its zeros; write the packed files."""
        for name, model in arm_models(self.recipe, self.output, self.name, self.seed):
            file = evaluation_file(self.folder, name)
            measures, outcome = durable.read_json(file) or {}, outcome_file(self.folder, name)
            is_measured = measures and all(self.task.metric in values for values in measures.values())
            if not is_measured or not outcome.is_file():
                measured = stages.measure(model, self.task, cache=self.output / "cache")
                write_outcome(measured, outcome)
                durable.write_json({split: one.scores for split, one in measured.items()}, file)
        for arm, _ in arms_of(self.recipe, self.name):
            if comes_from(arm, SPARSE):
                _verify(self.folder / arm.name, sparse)
            is_to_pack = arm.packed and self.recipe.pack and self.is_first
            if is_to_pack and durable.read_json(sizes_file(self.folder, arm.name)) is None:
                _pack(self.folder / arm.name, packed_file(self.folder, arm.name), sizes_file(self.folder, arm.name))


def _pack(model: Path, file: Path, report: Path) -> None:
    """Pack a model without rounding it further, so that the file holds the measured model."""
    file.unlink(missing_ok=True)  # of a run that ended before the report
    durable.write_json(storage.pack([model], file, "fp32").to_json(), report)


def _verify(child: Path, parent: Path) -> None:
    checked = verify(child, parent)
    if not checked.ok:
        raise RuntimeError(f"{child} lost zeros of {parent}")
    console.print(f"  all {checked.zeros:,} zeros of the sparse model are zeros in {child}", soft_wrap=True)
