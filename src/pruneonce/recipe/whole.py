"""The recipe as a whole, and what its sections ask of one another."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from pruneonce.recipe.merging import changed
from pruneonce.recipe.presets import with_presets
from pruneonce.recipe.quantization import Quantizations
from pruneonce.recipe.sections import Benchmark, Corpus, Format, Prepare, Prune, Section
from pruneonce.recipe.swept import Baselines, SweptTeacher, SweptTransfer
from pruneonce.recipe.tasks import AnyTask


class Recipe(Section):
    """A whole run: one dense model, one corpus, any number of tasks."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][\w.-]*$")
    description: str = ""
    model: str = Field(description="folder or hub id of the dense pre-trained encoder")
    seed: int = Field(42, ge=0)
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="do all of every task once for each; left out, once for `seed`"
    )
    report_to: list[str] = Field(["tensorboard"], description="transformers' logging integrations")
    corpus: Corpus
    prepare: Prepare | None = None
    prune: Prune
    teacher: SweptTeacher | None = None
    transfer: SweptTransfer | None = None
    quantize: Quantizations = Quantizations()
    tasks: dict[str, AnyTask] = Field({}, description="a task by its name, or names of known ones")
    baselines: Baselines = Baselines()
    pack: bool = Field(True, description="also write each sparse and each quantized task model as a packed file")
    export: list[Format] = Field([], description="also write each quantized task model in these formats")
    benchmark: Benchmark | None = Field(None, description="time the first task's models")

    @field_validator("tasks", mode="before")
    @classmethod
    def _known_tasks(cls, tasks: Any) -> Any:
        return with_presets(tasks)

    @model_validator(mode="after")
    def _seeds_differ(self) -> Recipe:
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise ValueError("`seeds` has one twice")
        return self

    @model_validator(mode="after")
    def _tasks_have_settings(self) -> Recipe:
        for name, task in self.tasks.items():
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"task name {name!r}: use letters, digits, - and _")
            if self.transfer is None:
                raise ValueError("a recipe with tasks needs `transfer`")
            if task.trains_teacher and self.teacher is None and task.teacher_model is None:
                raise ValueError(f"task {name!r} needs `teacher` settings or a `teacher_model`")
            if task.teacher_model and task.teacher:
                raise ValueError(f"task {name!r} has a `teacher_model`, so its `teacher` changes nothing; drop one")
            if task.teacher and not task.trains_teacher:
                raise ValueError(f"task {name!r} trains no teacher, so its `teacher` changes nothing; drop it")
            self.transfer_for(name), self.teacher_for(name), self.quantize_for(name)
        return self

    @model_validator(mode="after")
    def _a_stream_has_no_length(self) -> Recipe:
        for name, stage in (("prepare", self.prepare), ("prune", self.prune)):
            if self.corpus.streaming and stage and stage.epochs is not None:
                raise ValueError(
                    f"`{name}.epochs` needs a corpus of known length; with `corpus.streaming` give `{name}.steps`"
                )
        return self

    @property
    def task_seeds(self) -> list[int]:
        """The seeds with which everything of a task is done; the first makes what is made once."""
        return self.seeds or [self.seed]

    def section_for(self, task: str, name: str) -> Any:
        """The section `name` with the changes of `task` laid over it; None where the recipe leaves it out."""
        section, changes = getattr(self, name), getattr(self.tasks[task], name, {})
        return section if section is None else changed(section, changes, f"tasks.{task}.{name}")

    def transfer_for(self, task: str) -> SweptTransfer:
        """The settings of the transfer to `task`, its own changes included."""
        assert self.transfer is not None
        return self.section_for(task, "transfer")  # type: ignore[no-any-return]

    def teacher_for(self, task: str) -> SweptTeacher | None:
        """The settings of the dense teacher of `task`, its own changes included."""
        return self.section_for(task, "teacher")  # type: ignore[no-any-return]

    def quantize_for(self, task: str) -> Quantizations:
        """The quantized models to make of `task`'s sparse one, its own changes included."""
        return self.section_for(task, "quantize")  # type: ignore[no-any-return]
