"""The losses. Pure functions of tensors: they know nothing of training.

Source: Prune Once for All, https://arxiv.org/abs/2111.05754, section 3 (logit distillation, Hinton et al.,
https://arxiv.org/abs/1503.02531); hidden-state distillation after TinyBERT, https://arxiv.org/abs/1909.10351, with
each state's error relative to the teacher's norm, as SquareHead (https://arxiv.org/abs/2310.06927, equation 1) does.
Relations of attention: MiniLM v2, https://arxiv.org/abs/2012.15828, section 3.1.
Embeddings: the error of the vectors as https://arxiv.org/abs/2004.09813 has it, again relative to the teacher's norm;
that of the similarities within a batch as https://arxiv.org/abs/1907.09682, of vectors of length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def logit_distillation(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """`T^2 KL(softmax(z_t / T) || softmax(z_s / T))`, mean over rows ("batchmean").

    T^2 keeps the size of the gradient the same at every temperature.

    Args:
        student: logits [rows, classes].
        teacher: logits [rows, classes]; no gradient flows into it.
    """
    log_p = F.log_softmax(student / temperature, dim=-1)
    log_q = F.log_softmax(teacher.detach() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def hidden_distillation(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over layers and rows of `|h_s - h_t|^2 / |h_t|^2`: 0 for equal states, 1 for a student that says nothing.

    Args:
        student: hidden states [rows, width], one a layer, at the tokens that are not padding.
        teacher: the same of the teacher; no gradient flows into them.
    """
    losses = []
    for ours, theirs in zip(student, teacher, strict=True):
        target = theirs.detach().float()
        error = (ours.float() - target).square().sum(-1)
        losses.append((error / target.square().sum(-1).clamp_min(1e-6)).mean())
    return torch.stack(losses).mean()


def relation_distillation(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """`KL(softmax(A_t A_t^T / sqrt(d)) || softmax(A_s A_s^T / sqrt(d)))` of vectors `A` of width d: how tokens are
    related to each other, mean over heads, tokens and all `A`.

    Args:
        student: queries, keys and values [batch, heads, tokens, width], of each layer.
        teacher: the same of the teacher; no gradient flows into them.
        mask: [batch, tokens], 0 where there is padding, which is related to nothing.
    """
    real = mask.bool()
    hidden = ~real[:, None, None, :]
    losses = []
    with torch.autocast(mask.device.type, enabled=False):
        for ours, theirs in zip(student, teacher, strict=True):
            log_p, log_q = _log_relations(ours, hidden), _log_relations(theirs.detach(), hidden)
            divergence = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1).mean(1)
            losses.append(divergence[real].mean())
    return torch.stack(losses).mean()


def _log_relations(vectors: Tensor, hidden: Tensor) -> Tensor:
    """[batch, heads, tokens, tokens]"""
    vectors = vectors.float()
    scores = vectors @ vectors.transpose(-1, -2) / vectors.shape[-1] ** 0.5
    return F.log_softmax(scores.masked_fill(hidden, torch.finfo(scores.dtype).min), dim=-1)


def states(outputs: Any, mask: Tensor) -> list[Tensor]:
    """Every layer's output at the real tokens [rows, width], and the pooler's [batch, width] where the model gives it.

    Args:
        outputs: a model's, with its hidden states.
        mask: [batch, tokens], 0 where there is padding.
    """
    keep = mask.bool()
    found = [state[keep] for state in outputs.hidden_states[1:]]
    pooled = outputs.get("pooler_output")
    return found if pooled is None else [*found, pooled]


def embedding_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of `|s - t|^2 / |t|^2`; of vectors of length 1 that is `2 (1 - cos(s, t))`.

    Args:
        student: vectors [rows, width].
        teacher: the same of the teacher; no gradient flows into them.
    """
    return hidden_distillation([student], [teacher])


def similarity_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the pairs of different rows of `(cos(s_i, s_j) - cos(t_i, t_j))^2`; 0 for a single row.

    What a vector is with itself is 1 for every model, and is left out.

    Args:
        student: vectors [rows, width].
        teacher: vectors [rows, any width]; no gradient flows into them.
    """
    with torch.autocast(student.device.type, enabled=False):  # cosines in bf16 would be off by more than they differ
        ours, theirs = _cosines(student), _cosines(teacher.detach())
    rows = len(student)
    error = (ours - theirs).square().fill_diagonal_(0.0)
    return error.sum() / max(1, rows * (rows - 1))


def _cosines(vectors: Tensor) -> Tensor:
    """[rows, rows]"""
    unit = F.normalize(vectors.float(), dim=-1)
    return unit @ unit.T
