"""Recipe as a whole, and the demands of its sections on one another."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from pruneonce.recipe.merging import changed
from pruneonce.recipe.presets import with_presets
from pruneonce.recipe.quantization import Quantizations
from pruneonce.recipe.sections import Benchmark, Corpus, Format, Prepare, Prune, RolesOfModules, Section
from pruneonce.recipe.swept import Baselines, SweptTeacher, SweptTransfer
from pruneonce.recipe.tasks import AnyTask


class Recipe(Section):
    """A whole run: one sparse encoder, pruned on a corpus or taken as it is, and any number of tasks."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][\w.-]*$", description="Name: letters, digits, `.`, `-` and `_`.")
    description: str = Field("", description="Sentence for `pruneonce recipes list` and the report.")
    model: str = Field(description="Folder or hub id of the dense pre-trained encoder.")
    sparse: str | None = Field(
        None,
        description="Folder or hub id of a pruned encoder, taken as it is in the place of `corpus` and `prune`. "
        "`model` is the dense model that it was pruned from.",
    )
    sparse_model: str | None = Field(
        None,
        description="Sparse model that `prune` continues with, taught by `model`. Without it, `model`.",
    )
    roles: RolesOfModules | None = Field(
        None,
        exclude_if=lambda roles: roles is None,
        description="Modules to prune, where the type of `model` has several stacks of layers. Without it, those of "
        "the table of architectures, or those that the module tree shows.",
    )
    seed: int = Field(42, ge=0, description="Seed of everything random. With `seeds`, of everything before the tasks.")
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        min_length=1,
        description="Seeds of the tasks: everything of a task is done once for each. Without it, once with `seed`.",
    )
    report_to: list[str] = Field(
        ["tensorboard"], description="Logging integrations of transformers' Trainer; `[]` for none."
    )
    corpus: Corpus | None = Field(None, description="Unlabelled text. Needed without `sparse`.")
    prepare: Prepare | None = Field(
        None, description="Teacher preparation. Without it, the dense model itself is the teacher."
    )
    prune: Prune | None = Field(None, description="Sparse pre-training. Needed without `sparse`.")
    teacher: SweptTeacher | None = Field(
        None, description="Dense fine-tuning. Needed by tasks without a `teacher_model`, other than `embedding`."
    )
    transfer: SweptTransfer | None = Field(
        None, description="Fine-tuning with locked zeros. Needed as soon as there are tasks."
    )
    quantize: Quantizations = Field(
        Quantizations(), description="Quantized models of each task's sparse model. Without it, none is made."
    )
    tasks: dict[str, AnyTask] = Field(
        {}, description="Tasks by names of your own, or a list of names of known tasks, such as `[sst2, mnli]`."
    )
    baselines: Baselines = Field(Baselines(), description="Baselines to compare with. Without it, none is run.")
    pack: bool = Field(
        True, description="Also write each sparse and each quantized task model as a packed file, without rounding it."
    )
    export: list[Format] = Field(
        [], description="Formats of inference engines that each quantized task model is also written in."
    )
    benchmark: Benchmark | None = Field(
        None, description="Time the models of the first task, on its dev texts too. Without it, none is timed."
    )

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
    def _is_pruned_or_taken(self) -> Recipe:
        given = [name for name in ("corpus", "prune", "prepare", "sparse_model") if getattr(self, name) is not None]
        if self.sparse is None:
            missing = [f"`{name}`" for name in ("corpus", "prune") if name not in given]
            if missing:
                raise ValueError(
                    f"{' and '.join(missing)} missing: give `corpus` and `prune`, or `sparse`, a pruned encoder"
                )
            return self
        if given:
            raise ValueError(f"`sparse` is taken as it is, so `{given[0]}` changes nothing; drop one of the two")
        if self.baselines.one_shot:
            raise ValueError(
                "`baselines.one_shot` prunes to the sparsity of `prune`, which a recipe with `sparse` lacks; drop it"
            )
        if not self.tasks:
            raise ValueError("a recipe with `sparse` prunes nothing and needs `tasks`")
        return self

    @model_validator(mode="after")
    def _a_stream_has_no_length(self) -> Recipe:
        for name, stage in (("prepare", self.prepare), ("prune", self.prune)):
            if self.corpus and self.corpus.streaming and stage and stage.epochs is not None:
                raise ValueError(
                    f"`{name}.epochs` needs a corpus of known length; with `corpus.streaming` give `{name}.steps`"
                )
        return self

    @property
    def pretraining(self) -> tuple[Corpus, Prune] | None:
        """Return the text and the settings of sparse pre-training; None where the sparse encoder is taken as it is."""
        return (self.corpus, self.prune) if self.corpus and self.prune else None

    @property
    def task_seeds(self) -> list[int]:
        """Return the seeds of every task; the first is the seed of work that is done once."""
        return self.seeds or [self.seed]

    def section_for(self, task: str, name: str) -> Any:
        """Return the section `name` with the changes of `task` laid over it; None where the recipe leaves it out."""
        section, changes = getattr(self, name), getattr(self.tasks[task], name, {})
        return section if section is None else changed(section, changes, f"tasks.{task}.{name}")

    def transfer_for(self, task: str) -> SweptTransfer:
        """Return the settings of the transfer to `task`, its own changes included."""
        assert self.transfer is not None
        return self.section_for(task, "transfer")  # type: ignore[no-any-return]

    def teacher_for(self, task: str) -> SweptTeacher | None:
        """Return the settings of the dense teacher of `task`, its own changes included."""
        return self.section_for(task, "teacher")  # type: ignore[no-any-return]

    def quantize_for(self, task: str) -> Quantizations:
        """Return the quantized models to make of `task`'s sparse one, its own changes included."""
        return self.section_for(task, "quantize")  # type: ignore[no-any-return]
