"""Arms of a task: the models that a run makes of it, to compare them with each other.

`ARMS` declares each arm once. Folders and their order, training, staleness, the plan, exports, packed files, timing,
the summary, the report and the terminal's tables follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pruneonce.recipe.whole import Recipe

Role = Literal["reference", "baseline", "rival", "ours", "quantized"]


@dataclass(frozen=True)
class Arm:
    """An arm of every task of a run.

    Attributes:
        name: of the arm's folder in that of the task, in summary.json, in tables and in plots.
        title: in a sentence, as the subject of "keeps 98 % of the dense score".
        role: `reference` is the model that the others are measured against; `baseline` that model on a grid, without
            pruning; `rival` a baseline that prunes another way; `ours` the sparse model; `quantized` one on a grid.
        stage: name of the function in `pruneonce.stages` that makes it.
        settings: dotted key of the recipe that has the stage's settings; a task's changes to its first part are laid
            over it. Without a value there, the arm is not made.
        colors: of the arm in the report, on light and on dark paper.
        from_run: the model of the run that it starts from: `dense`, `sparse` or `one-shot`.
        from_arm: the arm of the same task and seed that it starts from instead.
        switch: dotted key of the recipe that has to be true besides, where the arm shares its settings.
        packed: also written as a packed file.
        exported: also written in the formats of `export`.
        timed: in the recipe's benchmark and, where it is quantized, in the report's verdict.
    """

    name: str
    title: str
    role: Role
    stage: str
    settings: str
    colors: tuple[str, str]
    from_run: str | None = None
    from_arm: str | None = None
    switch: str | None = None
    packed: bool = False
    exported: bool = False
    timed: bool = False

    @property
    def stage_name(self) -> str:
        """Return the stage's name in keys, in provenance and in the plan."""
        return self.stage.replace("_", "-")

    def settings_in(self, recipe: Recipe, task: str) -> Any:
        """Return the settings of the arm for a task, the task's own changes included; None where it is not made."""
        if self.switch is not None and not _value(recipe, self.switch):
            return None
        section, _, rest = self.settings.partition(".")
        return _value(recipe.section_for(task, section), rest)


# The two arms that others refer to: recovery is over the dense model, and prune-once makes the sparse one.
DENSE, SPARSE = "dense", "sparse"

# In the order in which they are shown.
ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(
            name=DENSE,
            title="the dense model",
            role="reference",
            stage="finetune",
            settings="teacher",
            colors=("#64748b", "#94a3b8"),
            from_run="dense",
            timed=True,
        ),
        Arm(
            name="dense-int8",
            title="dense int8",
            role="baseline",
            stage="calibrate",
            settings="quantize.calibration",
            colors=("#8a6d3b", "#c9a86a"),
            from_arm=DENSE,
            switch="baselines.dense_int8",
            packed=True,
            timed=True,
        ),
        Arm(
            name="one-shot",
            title="one-shot pruning",
            role="rival",
            stage="transfer",
            settings="transfer",
            colors=("#c2610c", "#ee9a45"),
            from_run="one-shot",
            switch="baselines.one_shot",
        ),
        Arm(
            name="gradual",
            title="gradual pruning during fine-tuning",
            role="rival",
            stage="transfer_gradual",
            settings="baselines.gradual",
            colors=("#7c4fc4", "#b095ea"),
            from_run="dense",
        ),
        Arm(
            name=SPARSE,
            title="the sparse model",
            role="ours",
            stage="transfer",
            settings="transfer",
            colors=("#0f766e", "#3fbfae"),
            from_run="sparse",
            packed=True,
            timed=True,
        ),
        Arm(
            name="int8",
            title="int8",
            role="quantized",
            stage="quantize",
            settings="quantize.int8",
            colors=("#1d5fa8", "#6aa9f0"),
            from_arm=SPARSE,
            packed=True,
            exported=True,
            timed=True,
        ),
        Arm(
            name="int8-ptq",
            title="int8 by calibration alone",
            role="quantized",
            stage="calibrate",
            settings="quantize.int8_ptq",
            colors=("#6d9bd1", "#3f6fa6"),
            from_arm=SPARSE,
            packed=True,
            exported=True,
        ),
        Arm(
            name="int4",
            title="int4",
            role="quantized",
            stage="quantize",
            settings="quantize.int4",
            colors=("#a3336b", "#e681b0"),
            from_arm=SPARSE,
            packed=True,
            exported=True,
            timed=True,
        ),
    )
}


def arms_of(recipe: Recipe, task: str) -> list[tuple[Arm, Any]]:
    """Return the arms that a recipe makes of a task, with their settings, in the order in which they are made.

    The dense arm teaches the others and is first. Then come the sparse arm, the rivals, and the arms that start from an
    arm. A dense model that is given is not made.
    """
    order = sorted(ARMS.values(), key=lambda arm: (arm.from_arm is not None, arm.role == "rival"))
    is_given = recipe.tasks[task].has_teacher
    declared = [(arm, arm.settings_in(recipe, task)) for arm in order if not (is_given and arm.name == DENSE)]
    return [(arm, settings) for arm, settings in declared if settings is not None]


def comes_from(arm: Arm, other: str) -> bool:
    """Return whether an arm is the arm `other`, or made of it."""
    return arm.name == other or (arm.from_arm is not None and comes_from(ARMS[arm.from_arm], other))


def _value(section: Any, key: str) -> Any:
    """Return the value at a dotted key; the section itself for the empty key."""
    for part in filter(None, key.split(".")):
        section = getattr(section, part)
    return section
