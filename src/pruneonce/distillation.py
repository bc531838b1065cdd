"""The losses. Pure functions of tensors: they know nothing of training.

Source: Prune Once for All, https://arxiv.org/abs/2111.05754, section 3 (logit distillation, Hinton et al.,
https://arxiv.org/abs/1503.02531); hidden-state distillation after TinyBERT, https://arxiv.org/abs/1909.10351, with
each state's error relative to the teacher's norm, as SquareHead (https://arxiv.org/abs/2310.06927, equation 1) does.
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
