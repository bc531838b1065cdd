"""Fine-tuning on a task. `finetune` does it densely, for the task teacher; `transfer` builds on the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruneonce import distributed, modelfolder
from pruneonce.data.blocks import PassesByLength
from pruneonce.data.keys import task_key
from pruneonce.distillation import hidden_distillation, relation_distillation, states
from pruneonce.errors import UserError
from pruneonce.methods import Method, make
from pruneonce.recipe import Task, Training, Transfer
from pruneonce.relations import captured
from pruneonce.sparsity import base_of, prunable_weights
from pruneonce.sparsity.sparsifier import Locked
from pruneonce.stages.common import begin, check_length, finish, freeze, is_made, tidy
from pruneonce.tasks import Kind, TaskData, kind_of
from pruneonce.training import Batch, Objective, examples_of, total_steps, train, unwrapped

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


def task_objective(kind: Kind[Any]) -> Objective:
    """The loss with the labels."""

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        labels = batch.pop("labels")
        return {"loss": kind.loss(kind.output(model(**batch), batch["attention_mask"]).float(), labels)}

    return objective


def distilled_objective(
    kind: Kind[Any], teacher: nn.Module, settings: Transfer, teacher_kind: Kind[Any] | None = None
) -> Objective:
    """`a_task L_task + a_kd L_kd + a_hidden L_hidden + a_relation L_relation`.

    `L_kd` is the kind's distance of the outputs, for classes `T^2 KL(teacher || student)`
    (https://arxiv.org/abs/2111.05754, section 3); `L_hidden` that of the hidden states of every layer
    (https://arxiv.org/abs/2310.06927, equation 1); `L_relation` that of how tokens are related to each other in them
    (https://arxiv.org/abs/2012.15828, section 3.1).

    Args:
        teacher: frozen, on the device of training.
        settings: none left to the kind of task, see `Task.completed`.
        teacher_kind: reads the teacher's outputs; None: as the student's.
    """
    teacher_kind = teacher_kind or kind
    hidden_weight, related = settings.hidden_weight or 0.0, settings.relation_weight > 0

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        labels, mask = batch.pop("labels", None), batch["attention_mask"]
        with captured(teacher, related) as their_vectors, torch.no_grad():
            theirs = teacher(**batch, output_hidden_states=hidden_weight > 0)
        with captured(unwrapped(model), related) as our_vectors:
            ours = model(**batch, output_hidden_states=hidden_weight > 0)
        output = kind.output(ours, mask).float()
        parts: dict[str, Tensor] = {}
        if settings.kd_weight:
            wanted = teacher_kind.output(theirs, mask).float()
            parts["kd"] = settings.kd_weight * kind.distillation(output, wanted, mask, settings.temperature)
        if settings.task_weight:
            assert labels is not None, "`check_settings` refuses a weight of what there is not"
            parts["task"] = settings.task_weight * kind.loss(output, labels)
        if hidden_weight:
            parts["hidden"] = hidden_weight * hidden_distillation(states(ours, mask), states(theirs, mask))
        if related:
            parts["relations"] = settings.relation_weight * relation_distillation(our_vectors, their_vectors, mask)
        return {
            "loss": torch.stack(list(parts.values())).sum(),
            **{name: part.detach() for name, part in parts.items()},
        }

    return objective


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
    parents = [modelfolder.content_key(folder) for folder in (model, teacher) if folder is not None]
    key = modelfolder.key_of(stage, parents, task_key(task, taught=teacher is not None), settings.model_dump(), seed)
    device = begin(seed)
    if is_made(output, key):
        return output
    check_length(task.max_length, model, "max_length")
    begun = modelfolder.partial(output)
    cache = cache or begun / "cache"
    tokenizer = modelfolder.load_tokenizer(model)
    kind = kind_of(task).for_model(model)
    kind.check_settings(settings)
    data = distributed.first_then_all(lambda: kind.load(cache))
    rows = data.splits["train"] if teacher is None else data.taught
    examples = kind.encode(rows, tokenizer, training=True)
    config = modelfolder.load_config(model)
    student = kind.load_model(model, **kind.config(data), **modelfolder.without_dropout(config, settings.dropout)).to(
        device
    )
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
    config = modelfolder.load_config(teacher)
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
