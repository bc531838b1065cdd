"""Losses of fine-tuning on a task: by labels, or by distillation from a dense task teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pruneonce.losses.distillation import hidden_distillation, relation_distillation, states
from pruneonce.losses.relations import captured
from pruneonce.plugins.run import Batch, Objective
from pruneonce.recipe import Transfer
from pruneonce.system.distributed import unwrapped
from pruneonce.tasks.kind import Kind
from pruneonce.tasks.teachers import input_of_teacher


def task_objective(kind: Kind[Any]) -> Objective:
    """Return the objective with the labels alone."""

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        labels, _ = batch.pop("labels"), input_of_teacher(batch)
        return {"loss": kind.loss(kind.output(model(**batch), batch["attention_mask"]).float(), labels)}

    return objective


def distilled_objective(
    kind: Kind[Any], teacher: nn.Module, settings: Transfer, teacher_kind: Kind[Any] | None = None
) -> Objective:
    """Return the objective `a_task L_task + a_kd L_kd + a_hidden L_hidden + a_relation L_relation`.

    `L_kd` is the kind's distance of the outputs, for classes `T^2 KL(teacher || student)`
    (https://arxiv.org/abs/2111.05754, section 3). `L_hidden` is the distance of the hidden states of every layer
    (https://arxiv.org/abs/2310.06927, equation 1). `L_relation` is the distance of the relations among tokens in them
    (https://arxiv.org/abs/2012.15828, section 3.1).

    Args:
        kind: of the task.
        teacher: frozen, on the device of training.
        settings: those of a transfer complete, see `Task.completed`.
        teacher_kind: reads the teacher's outputs; None: as the student's.
    """
    teacher_kind = teacher_kind or kind
    hidden_weight, related = settings.hidden_weight or 0.0, settings.relation_weight > 0

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        labels, mask = batch.pop("labels", None), batch["attention_mask"]
        given = input_of_teacher(batch) or batch
        with captured(teacher, related) as teacher_vectors, torch.no_grad():
            teacher_outputs = teacher(**given, output_hidden_states=hidden_weight > 0)
        with captured(unwrapped(model), related) as student_vectors:
            student_outputs = model(**batch, output_hidden_states=hidden_weight > 0)
        output = kind.output(student_outputs, mask).float()
        parts: dict[str, Tensor] = {}
        if settings.kd_weight:
            teacher_output = teacher_kind.output(teacher_outputs, given["attention_mask"]).float()
            parts["kd"] = settings.kd_weight * kind.distillation(output, teacher_output, mask, settings.temperature)
        if settings.task_weight:
            assert labels is not None, "`check_settings` refuses a weight of what there is not"
            parts["task"] = settings.task_weight * kind.loss(output, labels)
        if hidden_weight:
            parts["hidden"] = hidden_weight * hidden_distillation(
                states(student_outputs, mask), states(teacher_outputs, mask)
            )
        if related:
            parts["relations"] = settings.relation_weight * relation_distillation(
                student_vectors, teacher_vectors, mask
            )
        return {
            "loss": torch.stack(list(parts.values())).sum(),
            **{name: part.detach() for name, part in parts.items()},
        }

    return objective
