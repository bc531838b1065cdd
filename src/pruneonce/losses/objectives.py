"""Objectives of the corpus stages: masked language modelling, and distillation of logits and hidden states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pruneonce.data.blocks import Collate
from pruneonce.losses.distillation import hidden_distillation, logit_distillation, relation_distillation, states
from pruneonce.losses.relations import captured
from pruneonce.losses.vocabulary import IGNORED, Head, vocabulary_loss, without_decoder
from pruneonce.models.architectures import trains_in_bf16
from pruneonce.plugins.run import Batch, Objective
from pruneonce.recipe import Prune
from pruneonce.system.distributed import unwrapped
from pruneonce.system.machine import autocast


def mlm_objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Masked language modelling: cross-entropy at the masked positions."""
    labels, targets = batch.pop("labels").flatten(), batch.pop("targets", None)
    _, head = _forward(model, batch)
    return vocabulary_loss(head, labels, targets=targets)


def likelihood_objective(settings: Prune) -> Objective:
    """The loss whose gradients score weights in sparse pre-training: MLM, or the hidden states along random noise.

    The distance from the teacher has no gradient as long as the student equals the teacher. For hidden states, the loss
    is `<e, h> / |h|` with random normal e. The second moment of its gradient is the Fisher information of states h that
    are normally distributed around the model's, with an error relative to their norm.
    """
    return mlm_objective if settings.objective != "hidden" else _states_along_noise


def _states_along_noise(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    hidden = states(model(**batch, output_hidden_states=True), batch["attention_mask"])
    projections = [((torch.randn_like(h) * h).sum(-1) / h.detach().norm(dim=-1).clamp_min(1e-6)).mean() for h in hidden]
    return {"loss": torch.stack(projections).mean()}


def pruning_objective(teacher: nn.Module, settings: Prune) -> Objective:
    """The loss of sparse pre-training for `settings.objective`.

    Args:
        teacher: a frozen model on the device of training; with an MLM head unless the objective is "hidden".
        settings: the stage's objective, weights and temperature.
    """
    mlm, hidden, related = settings.objective != "hidden", settings.objective != "mlm", settings.relation_weight > 0

    def objective(student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        labels, targets = batch.pop("labels", None), batch.pop("targets", None)
        forward = _forward if mlm else _forward_encoder
        with captured(teacher, related) as their_vectors, torch.no_grad():
            theirs, their_head = forward(teacher, batch, output_hidden_states=hidden)
        with captured(unwrapped(student), related) as our_vectors:
            ours, our_head = forward(student, batch, output_hidden_states=hidden)
        parts: dict[str, Tensor] = {}
        if mlm:
            assert labels is not None
            assert our_head is not None
            assert their_head is not None
            parts = _vocabulary_loss(our_head, their_head, labels, batch["attention_mask"], targets, settings)
            if "seq_relationship_logits" in ours:  # keeps BERT's pooler in training without sentence pairs
                pairs = settings.kd_weight * logit_distillation(
                    ours.seq_relationship_logits, theirs.seq_relationship_logits, settings.temperature
                )
                parts = {**parts, "loss": parts["loss"] + pairs, "kd": parts["kd"] + pairs.detach()}
        if hidden:
            mask = batch["attention_mask"]
            loss = settings.hidden_weight * hidden_distillation(states(ours, mask), states(theirs, mask))
            parts = {**parts, "loss": parts["loss"] + loss if mlm else loss, "hidden": loss.detach()}
        if related:
            loss = settings.relation_weight * relation_distillation(our_vectors, their_vectors, batch["attention_mask"])
            parts = {**parts, "loss": parts["loss"] + loss, "relations": loss.detach()}
        return parts

    return objective


def _vocabulary_loss(
    student: Head, teacher: Head, labels: Tensor, attention_mask: Tensor, targets: Tensor | None, settings: Prune
) -> dict[str, Tensor]:
    """MLM, and distillation over all tokens but padding, or over the masked tokens alone."""
    labels = labels.flatten()
    keep = labels != IGNORED if settings.kd_tokens == "masked" else attention_mask.flatten().bool()
    if not keep.all():
        student, teacher, labels = student.rows(keep), teacher.rows(keep), labels[keep]
    return vocabulary_loss(
        student,
        labels,
        teacher,
        temperature=settings.temperature,
        task_weight=settings.task_weight,
        kd_weight=settings.kd_weight,
        targets=targets,
    )


def _forward(model: nn.Module, batch: Batch, **options: Any) -> tuple[Any, Head]:
    """Outputs of a model with an MLM head, and the head at every token before its logits are computed."""
    with without_decoder(unwrapped(model)) as (weight, bias):
        outputs = model(**batch, **options)
    hidden = outputs.prediction_logits if "prediction_logits" in outputs else outputs.logits
    return outputs, Head(hidden.flatten(0, 1), weight, bias)


def _forward_encoder(model: nn.Module, batch: Batch, **options: Any) -> tuple[Any, None]:
    return model(**batch, **options), None


@torch.no_grad()
def held_out_loss(
    model: nn.Module, objective: Objective, blocks: Any, collate: Collate, most: int = 64
) -> dict[str, float]:
    """Mean of the objective and its parts over at most `most` held-out blocks, with the same masking at every call."""
    model.eval()
    device = next(model.parameters()).device
    size = min(most, len(blocks))
    sums: dict[str, float] = {}
    for first in range(0, size, 16):
        chosen = [{**blocks[i], "position": i} for i in range(first, min(first + 16, size))]
        batch = {name: value.to(device) for name, value in collate(chosen).items()}
        with autocast(device, trains_in_bf16(model)):
            losses = objective(model, batch)
        for name, part in losses.items():
            sums[name] = sums.get(name, 0.0) + part.item() * len(chosen) / size
    return sums
