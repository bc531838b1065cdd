"""Fine-tuning on a task. `finetune` does it densely, for the task teacher; `transfer` builds on the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruneonce.data.blocks import PassesByLength
from pruneonce.data.keys import task_key
from pruneonce.errors import UserError
from pruneonce.models import content_key, key_of, load_config, load_tokenizer, without_dropout
from pruneonce.models.architectures import base_of, check_length, prunable_weights
from pruneonce.plugins import Method, make
from pruneonce.plugins.run import Objective
from pruneonce.recipe import Task, Training, Transfer
from pruneonce.stages.common import begin, finish, freeze, is_made, tidy
from pruneonce.system import distributed, durable
from pruneonce.tasks import Kind, TaskData, kind_of
from pruneonce.tasks.objectives import distilled_objective, task_objective
from pruneonce.training import examples_of, total_steps, train
from pruneonce.training.sparsifier import Locked

# Makes the sparsifier from the prunable weights, the number of steps and the method.
MakeSparsifier = Callable[[Mapping[str, Tensor], int, Method], Locked]
# Changes the model for the time of training. What belongs beside the weights it writes to the folder.
During = Callable[[nn.Module, Path], AbstractContextManager[None]]


def finetune(
    model: str | Path,
    task: Task,
    settings: Training,
    output: Path,
    *,
    seed: int = 42,
    cache: Path | None = None,
    report_to: list[str] | None = None,
) -> Path:
    """Fine-tune `model` densely on `task`: the dense result, and the teacher of the sparse one.

    Raises:
        UserError: a mistake in the model, the task or the settings.
    """
    return run(
        "finetune",
        model,
        task,
        settings,
        output,
        seed=seed,
        cache=cache,
        report_to=report_to,
    )


@tidy
def run(
    stage: str,
    model: str | Path,
    task: Task,
    settings: Training,
    output: Path,
    *,
    seed: int,
    cache: Path | None,
    report_to: list[str] | None,
    teacher: str | Path | None = None,
    make_sparsifier: MakeSparsifier | None = None,
    during: During = lambda model, folder: nullcontext(),
) -> Path:
    """One fine-tuning run: by distillation with a `teacher` (`settings` are a `Transfer` then), else by labels."""
    if isinstance(settings, Transfer):
        settings = task.completed(settings)
    parents = [content_key(folder) for folder in (model, teacher) if folder is not None]
    key = key_of(stage, parents, task_key(task, taught=teacher is not None), settings.model_dump(), seed)
    device = begin(seed)
    if is_made(output, key):
        return output
    check_length(task.max_length, model, "max_length")
    begun = durable.partial(output)
    cache = cache or begun / "cache"
    tokenizer = load_tokenizer(model)
    kind = kind_of(task).for_model(model)
    kind.check_settings(settings)
    data = distributed.first_then_all(lambda: kind.load(cache))
    rows = data.splits["train"] if teacher is None else data.taught
    examples = kind.encode(rows, tokenizer, training=True)
    config = load_config(model)
    student = kind.load_model(model, **kind.config(data), **without_dropout(config, settings.dropout)).to(device)
    objective = task_objective(kind)
    if teacher is not None:
        assert isinstance(settings, Transfer)
        objective = _taught(kind, student, teacher, data, settings, device)
    steps = total_steps(settings, len(examples))
    weights, method = prunable_weights(student), make(settings.method)
    with during(student, begun):
        trained = train(
            student,
            objective,
            PassesByLength(examples, examples_of(settings, steps), seed, examples_of(settings, 1)),
            kind.collate(tokenizer),
            settings,
            steps=steps,
            length=max(map(len, examples["input_ids"])),
            folder=begun,
            title=f"{stage} {output.parent.name}",
            seed=seed,
            report_to=report_to,
            sparsifier=make_sparsifier(weights, steps, method) if make_sparsifier else None,
            method=method,
            likelihood=task_objective(kind) if "labels" in examples.column_names else objective,
        )
    return finish(
        student,
        tokenizer,
        output,
        stage=stage,
        source=model,
        key=key,
        settings=settings,
        seed=seed,
        trained=trained,
    )


def _taught(
    kind: Kind[Any], student: nn.Module, teacher: str | Path, data: TaskData, settings: Transfer, device: torch.device
) -> Objective:
    """The objective with its teacher; what of the student is not to learn is frozen."""
    if not settings.hidden_weight:
        kind.freeze_unused(student)  # several processes would wait for its gradients
    check_teacher(kind, teacher, data, student.config, settings)
    teaching = freeze(kind.load_finished(teacher), device)
    if settings.freeze_embeddings:
        base_of(student).embeddings.requires_grad_(False)
    return distilled_objective(kind, teaching, settings, kind.for_model(teacher))


def check_teacher(kind: Kind[Any], teacher: str | Path, data: TaskData, student: Any, settings: Transfer) -> None:
    """
    Args:
        student: configuration of the model that it teaches.

    Raises:
        UserError: the teacher is for other labels, or its outputs or hidden states are not like the student's.
    """
    config = load_config(teacher)
    kind.check_model(config, data, f"the teacher {teacher}")
    kind.check_teacher(student, config, f"the teacher {teacher}")
    sizes = [(each.num_hidden_layers, each.hidden_size) for each in (student, config)]
    if settings.hidden_weight and sizes[0] != sizes[1]:
        raise UserError(
            f"the teacher {teacher} has {sizes[1][0]} layers of width {sizes[1][1]}, the model {sizes[0][0]} of "
            f"{sizes[0][1]}, so there are no hidden states to distil; set `hidden_weight: 0`"
        )
    heads = [(each.num_hidden_layers, each.num_attention_heads) for each in (student, config)]
    if settings.relation_weight and heads[0] != heads[1]:
        raise UserError(
            f"the teacher {teacher} has {heads[1][0]} layers of {heads[1][1]} heads, the model {heads[0][0]} of "
            f"{heads[0][1]}, so there are no relations to distil; leave `relation_weight` out"
        )
