"""Everything of one task with one seed: the dense teacher, the sparse model, the rivals, the quantized models.

All are measured; with the first seed they are packed and exported too, and settings are swept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pruneonce import stages, storage
from pruneonce.console import console
from pruneonce.recipe import Calibrate, Quantizations, Recipe, Swept, Task
from pruneonce.runs.layout import (
    arms,
    evaluation_file,
    first_folder,
    given_teacher,
    packed_file,
    sizes_file,
    task_folder,
)
from pruneonce.runs.sweep import chosen, sweep
from pruneonce.sparsity import verify
from pruneonce.system import distributed, durable


@dataclass(frozen=True)
class Parents:
    """What all tasks start from."""

    dense: str | Path
    sparse: Path
    one_shot: Path | None


@dataclass(frozen=True)
class Arms:
    """The models of the task `name` with `seed`, in a run of `recipe` in `output`."""

    recipe: Recipe
    output: Path
    name: str
    seed: int

    @property
    def task(self) -> Task:
        return self.recipe.tasks[self.name]

    @property
    def folder(self) -> Path:
        return task_folder(self.recipe, self.output, self.name, self.seed)

    @property
    def is_first(self) -> bool:
        return self.seed == self.recipe.task_seeds[0]

    @property
    def quantizations(self) -> Quantizations:
        return self.recipe.quantize_for(self.name)

    def make(self, parents: Parents) -> None:
        """Train, quantize, measure; what is made already is skipped."""
        recipe, teacher = self.recipe, self._teacher(parents)
        settings = recipe.transfer_for(self.name)
        distilled = partial(stages.transfer, teacher=teacher)
        transferred = self._train("sparse", distilled, parents.sparse, settings)
        if parents.one_shot:
            self._train("one-shot", distilled, parents.one_shot, settings)
        if recipe.baselines.gradual:
            rival = partial(stages.transfer_gradual, teacher=teacher)
            self._train("gradual", rival, parents.dense, recipe.baselines.gradual)
        self._quantize(transferred, teacher)
        distributed.by_first(partial(self._measure, parents.sparse))

    def _common(self) -> dict[str, Any]:
        return {"seed": self.seed, "cache": self.output / "cache", "report_to": self.recipe.report_to}

    def _teacher(self, parents: Parents) -> str | Path:
        if given := given_teacher(self.recipe, self.output, self.name):
            return given
        settings = self.recipe.teacher_for(self.name)
        assert settings is not None
        return self._train("dense", stages.finetune, parents.dense, settings)

    def _train(self, arm: str, stage: Callable[..., Path], source: str | Path, settings: Swept) -> Path:
        """An arm by its settings or, where they are swept, by those that do best with the first seed."""

        def train(candidate: Any, output: Path) -> Path:
            return stage(source, self.task, candidate, output, **self._common())

        if settings.sweep and self.is_first:
            return sweep(settings, self.folder / arm, train, self._on_dev, self.task.metric)
        if settings.sweep:
            return train(chosen(settings, first_folder(self.recipe, self.output, self.name) / arm), self.folder / arm)
        return train(settings.candidates()[0], self.folder / arm)

    def _on_dev(self, model: Path) -> float:
        found = stages.evaluate(model, self.task, splits=["dev"], cache=self.output / "cache")
        return found["dev"][self.task.metric]

    def _quantize(self, transferred: Path, teacher: str | Path) -> None:
        """The quantized models of the sparse one, and their exports."""
        for arm, settings in self.quantizations.by_arm().items():
            target, common = self.folder / arm, self._common()
            if isinstance(settings, Calibrate):
                del common["report_to"]
                made = stages.calibrate(transferred, self.task, settings, target, **common)
            else:
                made = stages.quantize(transferred, self.task, settings, target, teacher=teacher, **common)
            for format in self.recipe.export if self.is_first else []:
                stages.export(made, self.folder / f"{arm}-{format}", format=format)

    def _measure(self, sparse: Path) -> None:
        """Evaluate every arm; verify that what comes of the sparse model kept its zeros, and pack it."""
        for arm, model in arms(self.recipe, self.output, self.name, self.seed):
            file = evaluation_file(self.folder, arm)
            measured = durable.read_json(file) or {}
            if not measured or any(self.task.metric not in found for found in measured.values()):
                durable.write_json(stages.evaluate(model, self.task, cache=self.output / "cache"), file)
        for arm in ("sparse", *self.quantizations.by_arm()):
            _verify(self.folder / arm, sparse)
            wanted = self.recipe.pack and self.is_first
            if wanted and durable.read_json(sizes_file(self.folder, arm)) is None:
                _pack(self.folder / arm, packed_file(self.folder, arm), sizes_file(self.folder, arm))


def _pack(model: Path, file: Path, report: Path) -> None:
    """Pack a model without rounding it further, so that what was measured is what is in the file."""
    file.unlink(missing_ok=True)  # of a run that ended before the report
    durable.write_json(storage.pack([model], file, "fp32").to_json(), report)


def _verify(child: Path, parent: Path) -> None:
    checked = verify(child, parent)
    if not checked.ok:
        raise RuntimeError(f"{child} lost zeros of {parent}")
    console.print(f"  all {checked.zeros:,} zeros of the sparse model are zeros in {child}", soft_wrap=True)
