"""Training on a task: the one body of `finetune`, `transfer`, `transfer_gradual`, `quantize` and `product_quantize`.

Each is a `TaskStage` with its own changes to the model, its masks, and its files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from datasets import Dataset
from torch import nn

from pruneonce.console import console
from pruneonce.data.blocks import PassesByLength
from pruneonce.data.keys import task_key
from pruneonce.errors import UserError
from pruneonce.models import content_key, load_config, load_tokenizer, without_dropout
from pruneonce.models.architectures import check_length, freeze_embeddings
from pruneonce.plugins import make
from pruneonce.recipe import Task, Training, Transfer
from pruneonce.stages import keys
from pruneonce.stages.output import Build, Origin, is_finished, unfinished
from pruneonce.system import distributed
from pruneonce.tasks import Kind, TaskData, kind_of, loaded
from pruneonce.tasks.labels import corresponding, first_few, names_of
from pruneonce.tasks.objectives import distilled_objective, task_objective
from pruneonce.tasks.teachers import Reader, with_input_of_teacher, with_teacher
from pruneonce.training import Job, examples_of, frozen_teacher, total_steps
from pruneonce.training.sparsifier import Sparsifier

S = TypeVar("S", bound=Training)


@dataclass(frozen=True)
class TaskExamples:
    """Examples of a task, encoded for training.

    Attributes:
        kind: of the task, for the model that learns.
        data: the task's data, of which the head takes its labels.
        examples: model input, as `Kind.encode` makes it.
        tokenizer: the tokenizer of the examples.
        teacher_tokenizer: the teacher's, where the examples have input of its own.
    """

    kind: Kind[Any]
    data: TaskData
    examples: Dataset
    tokenizer: Any
    teacher_tokenizer: Any = None


class TaskStage(Generic[S]):
    """A stage that trains a model on a task. A subclass adds its changes to the model, its masks, and its files."""

    name: ClassVar[str]  # in keys, provenance and progress lines
    has_head: ClassVar[bool] = False  # the model to start from was trained on the task, and keeps its head

    def change_model(self, model: nn.Module, settings: S) -> None:
        """Change the model before it is trained, in place."""

    def sparsifier(self, job: Job, settings: S, seed: int) -> Sparsifier | None:
        """Return the masks of the run; None trains densely.

        Args:
            job: complete but for the masks.
            settings: those of the stage.
            seed: of the stage.
        """
        return None

    def check(self, job: Job, source: str | Path) -> None:
        """Check that this stage can start from the model `source`.

        Raises:
            UserError: it cannot.
        """

    def write(self, job: Job, folder: Path) -> None:
        """Make the trained model a plain one again, and write files that belong beside it into `folder`."""

    def job(
        self,
        model: str | Path,
        inputs: TaskExamples,
        settings: S,
        device: torch.device,
        seed: int,
        *,
        teacher: str | Path | None = None,
        head_may_be_new: bool = False,
    ) -> Job:
        """Return the training run of this stage, from `model`.

        Args:
            model: the model to start from.
            inputs: the examples.
            settings: those of a `Transfer` complete, see `Task.completed`.
            device: of the training.
            seed: of everything random.
            teacher: dense model fine-tuned on the same task; None: the labels teach.
            head_may_be_new: the teacher need not have been fine-tuned on the task, as a plan has no such teacher.
        """
        kind, examples = inputs.kind, inputs.examples
        head = kind.config(inputs.data)
        student = kind.load_model(model, **head, **without_dropout(load_config(model), settings.dropout)).to(device)
        if isinstance(settings, Transfer) and settings.freeze_embeddings:
            freeze_embeddings(student)
        by_labels = objective = task_objective(kind)
        if teacher is not None:
            teaching = kind.load_model(teacher, **head) if head_may_be_new else kind.load_finished(teacher)
            assert isinstance(settings, Transfer)
            _freeze_what_is_not_taught(kind, student, settings)
            reader = kind.for_model(teacher)
            if not head_may_be_new:
                reader = reader.reading(load_config(teacher), inputs.data, f"the teacher {teacher}")
            objective = distilled_objective(kind, frozen_teacher(teaching, device), settings, reader)
        self.change_model(student, settings)
        steps = total_steps(settings, len(examples))
        job = Job(
            model=student,
            objective=objective,
            examples=PassesByLength(examples, examples_of(settings, steps), seed, examples_of(settings, 1)),
            collate=with_teacher(kind.collate(inputs.tokenizer), inputs.teacher_tokenizer, examples),
            settings=settings,
            steps=steps,
            length=max(map(len, examples["input_ids"])),
            method=make(settings.method),
            likelihood=by_labels if "labels" in examples.column_names else objective,
        )
        return replace(job, sparsifier=self.sparsifier(job, settings, seed))

    def run(self, model: str | Path, task: Task, settings: S, build: Build, teacher: str | Path | None = None) -> Path:
        """Train `model` on `task`: by distillation with a `teacher` (`settings` are a `Transfer` then), else by labels.

        Raises:
            UserError: a mistake in the models, the task or the settings.
        """
        if isinstance(settings, Transfer):
            settings = task.completed(settings)  # type: ignore[assignment]
        data, of_teacher = task_key(task, taught=teacher is not None), None if teacher is None else content_key(teacher)
        key = keys.train_on_task(self.name, content_key(model), data, settings, build.seed, of_teacher)
        device = distributed.start(build.seed)
        if is_finished(build.output, key, model, teacher):
            return build.output
        with unfinished(build.output, key, model, teacher) as begun:
            check_length(task.max_length, model, "max_length")
            kind = kind_of(task).for_model(model)
            kind.check_settings(settings)
            student, cache = Reader(kind, load_tokenizer(model), str(model)), build.cache_in(begun)
            inputs = _read(student, cache, teacher, settings)
            if self.has_head:
                _check_order(inputs, model)
            if teacher is not None:
                assert isinstance(settings, Transfer)
                check_teacher(kind, teacher, inputs.data, load_config(model), settings)
            job = self.job(model, inputs, settings, device, build.seed, teacher=teacher)
            self.check(job, model)
            trained = build.train(job, begun, f"{self.name} {build.output.parent.name}")
            self.write(job, begun)
            return build.save(job.model, Origin(self.name, model, key, settings), trained)


def _read(student: Reader, cache: Path, teacher: str | Path | None, settings: Training) -> TaskExamples:
    """Return the examples to train on; with a teacher, unlabelled examples are among them."""
    kind, tokenizer = student.kind, student.tokenizer
    task = distributed.first_then_all(lambda: loaded.load(kind, cache))
    if task.data.classes is not None and task.is_new:
        console.print(f"  {task.data.classes.line()}", soft_wrap=True)
    examples = task.examples("train" if teacher is None else loaded.TAUGHT, tokenizer, training=True)
    if teacher is None:
        return TaskExamples(kind, task.data, examples, tokenizer)
    assert isinstance(settings, Transfer)
    other = Reader.of(kind, teacher)
    if not other.like(student):
        theirs = task.examples(loaded.TAUGHT, other.tokenizer, training=True, reader=other.kind)
        examples = with_input_of_teacher(examples, theirs, student, other, settings)
        check_length(max(map(len, theirs["input_ids"])), teacher, "max_length")
    return TaskExamples(kind, task.data, examples, tokenizer, other.tokenizer)


def _check_order(inputs: TaskExamples, model: str | Path) -> None:
    """Refuse a model whose head has other classes than the task, or has them in another order.

    Raises:
        UserError: the number or the order differs.
    """
    classes, config = inputs.data.classes, load_config(model)
    if classes is None:
        return
    names = names_of(config, str(model))
    if len(names) != len(classes.names):
        raise UserError(
            f"{model} has the labels {first_few(names)}, the task has {first_few(classes.names)}; give its own task"
        )
    if not corresponding(classes.names, names):
        return
    if classes.order_in(names, str(model)):
        raise UserError(
            f"{model} has the labels in the order {first_few(names)}, the task in the order "
            f"{first_few(classes.names)}; give `labels` of the task the model's order"
        )


def _freeze_what_is_not_taught(kind: Kind[Any], student: nn.Module, settings: Transfer) -> None:
    if not settings.hidden_weight:
        kind.freeze_unused(student)  # several processes would wait for its gradients


def check_teacher(kind: Kind[Any], teacher: str | Path, data: TaskData, student: Any, settings: Transfer) -> None:
    """Refuse a teacher whose outputs, or hidden states as far as they are distilled, are not like the student's.

    Args:
        kind: of the task.
        teacher: folder or hub id of the teacher.
        data: the task's data, with its labels.
        student: configuration of the model that it teaches.
        settings: the weights of the losses.

    Raises:
        UserError: the teacher is for other labels, or its outputs or hidden states are not like the student's.
    """
    config = load_config(teacher)
    kind.check_model(config, data, f"the teacher {teacher}")
    kind.check_teacher(kind.for_model(teacher), student, config, f"the teacher {teacher}")
    shapes = [each.get_text_config() for each in (student, config)]
    sizes = [(each.num_hidden_layers, each.hidden_size) for each in shapes]
    if settings.hidden_weight and sizes[0] != sizes[1]:
        raise UserError(
            f"the teacher {teacher} has {sizes[1][0]} layers of width {sizes[1][1]}, the model {sizes[0][0]} of "
            f"{sizes[0][1]}, so there are no hidden states to distil; set `hidden_weight: 0`"
        )
    heads = [(each.num_hidden_layers, each.num_attention_heads) for each in shapes]
    if settings.relation_weight and heads[0] != heads[1]:
        raise UserError(
            f"the teacher {teacher} has {heads[1][0]} layers of {heads[1][1]} heads, the model {heads[0][0]} of "
            f"{heads[0][1]}, so there are no relations to distil; leave `relation_weight` out"
        )
