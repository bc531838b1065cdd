"""The sections of a recipe that train a task's model, which may be swept: several values are tried, the best is kept.

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
    """Values to try, each with each; the best on the task's dev split, by its metric, is the task's model."""

    learning_rate: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(None, description="peak learning rates")
    epochs: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(None, description="passes over the data")

    @model_validator(mode="after")
    def _is_a_choice(self) -> Sweep:
        for name, values in self.axes().items():
            if len(set(values)) < len(values):
                raise ValueError(f"`{name}` has a value twice")
        if not 2 <= len(self.points()) <= MOST:
            raise ValueError(f"2 to {MOST} candidates, all lists multiplied; these are {len(self.points())}")
        return self

    def axes(self) -> dict[str, tuple[float, ...]]:
        """The values by the key they stand for, of the keys that are swept."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: values for name, values in found.items() if values is not None}

    def points(self) -> list[dict[str, float]]:
        """Every combination, the last key changing fastest."""
        axes = self.axes()
        return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if axes else []


class Swept(Section):
    """What sections that may be swept have in common."""

    plain: ClassVar[type[Training]]

    sweep: Sweep | None = Field(None, description="try several values and keep the best on the dev split")

    def candidates(self) -> list[Training]:
        """The settings to try, in order; without a sweep the only ones."""
        own = self.model_dump(exclude={"sweep"})
        return [self.plain.model_validate(merge(own, point)) for point in (self.sweep.points() if self.sweep else [{}])]


class SweptTeacher(Training, Swept):
    """Dense fine-tuning of a task's teacher."""

    plain: ClassVar[type[Training]] = Training


class SweptTransfer(Transfer, Swept):
    """`Transfer`, for the sparse and the one-shot model, each of which is swept for itself."""

    plain: ClassVar[type[Training]] = Transfer


class SweptGradual(Gradual, Swept):
    """`Gradual`, the rival."""

    plain: ClassVar[type[Training]] = Gradual


class Baselines(Section):
    """Rivals of prune-once, run for contrast."""

    one_shot: bool = Field(False, description="magnitude pruning in one step, then the same transfer")
    gradual: SweptGradual | None = None
