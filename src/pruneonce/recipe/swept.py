"""Sections of a recipe that train a task's model, which may be swept: several values are tried, the best is kept.

A stage never sees a sweep: it gets one of the `candidates`, which has the plain section's keys and no more.
"""

from __future__ import annotations

from itertools import product
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from pruneonce.recipe.merging import merge
from pruneonce.recipe.sections import Gradual, Section, Training, Transfer

MOST = 16  # candidates of a sweep


class Sweep(Section):
    """Values to try, each of one list with each of the other: 2 to 16 candidates. The best on the dev split is kept."""

    learning_rate: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="Peak learning rates to try. Without it, the section's own."
    )
    epochs: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="Numbers of passes over the data to try. Without it, the section's own length."
    )

    @model_validator(mode="after")
    def _is_a_choice(self) -> Sweep:
        for name, values in self.axes().items():
            if len(set(values)) < len(values):
                raise ValueError(f"`{name}` has a value twice")
        if not 2 <= len(self.points()) <= MOST:
            raise ValueError(f"2 to {MOST} candidates, all lists multiplied; these are {len(self.points())}")
        return self

    def axes(self) -> dict[str, tuple[float, ...]]:
        """Return the values to try by key, of the keys that are swept."""
        values_by_key = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: values for name, values in values_by_key.items() if values is not None}

    def points(self) -> list[dict[str, float]]:
        """Return every combination, the last key changing fastest."""
        axes = self.axes()
        return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if axes else []


class Swept(Section):
    """Sections that may try several values."""

    plain: ClassVar[type[Training]]

    sweep: Sweep | None = Field(
        None, description="Values to try; the model that is best on the task's dev split by its metric is kept."
    )

    def candidates(self) -> list[Training]:
        """Return the settings to try, in order; without a sweep, the section's own."""
        values = self.model_dump(exclude={"sweep"})
        points = self.sweep.points() if self.sweep else [{}]
        return [self.plain.model_validate(merge(values, point)) for point in points]


class SweptTeacher(Training, Swept):
    """Dense fine-tuning on each task: the baseline, and the teacher of the sparse model."""

    plain: ClassVar[type[Training]] = Training


class SweptTransfer(Transfer, Swept):
    """Fine-tuning of the sparse model, and of the one-shot model, on each task with its zeros locked."""

    plain: ClassVar[type[Training]] = Transfer


class SweptGradual(Gradual, Swept):
    """Baseline: prune the dense model gradually during fine-tuning, for each task anew."""

    plain: ClassVar[type[Training]] = Gradual


class Baselines(Section):
    """Models to compare with, made for each task: other ways to a sparse model, and int8 without pruning."""

    dense_int8: bool = Field(
        False,
        description="The dense task model in 8 bits by calibration alone, which shows the gain of pruning over int8. "
        "It has the settings of `quantize.int8_ptq`, or else the grid of `quantize.int8`.",
    )
    one_shot: bool = Field(False, description="Magnitude pruning in one step, then the same transfer.")
    gradual: SweptGradual | None = Field(
        None, description="Gradual pruning during fine-tuning, for each task anew. Without it, not run."
    )
