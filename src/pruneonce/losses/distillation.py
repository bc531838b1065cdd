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
from torch.autograd.function import once_differentiable

# Numbers of the relations that are calculated together: as many as a processor core's cache holds; elsewhere, as keep a
# GPU busy.
AT_ONCE, ELSEWHERE = {"cpu": 2**18}, 2**26


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
    heads, real = student[0].shape[1], mask.bool()
    bias = torch.zeros_like(real, dtype=torch.float32).masked_fill_(~real, torch.finfo(torch.float32).min)
    share = real / (heads * real.sum())
    bias, share = (each.repeat_interleave(heads, 0) for each in (bias.unsqueeze(-2), share.unsqueeze(-1)))
    with torch.autocast(mask.device.type, enabled=False):
        losses = [
            _Divergence.apply(ours, theirs.detach(), bias, share) for ours, theirs in zip(student, teacher, strict=True)
        ]
    return torch.stack(losses).mean()


class _Divergence(torch.autograd.Function):
    """Of one `A`. Its gradient is made along with the loss, as autograd would keep several matrices [tokens, tokens]
    for every head of every layer: gigabytes, where texts are long."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, bias: Tensor, share: Tensor) -> Tensor:
        """
        Args:
            bias: [batch * heads, 1, tokens], added to the products: the lowest number where there is padding, else 0.
            share: [batch * heads, tokens, 1], of each row in the mean: 0 where there is padding.
        """
        tokens, width = student.shape[2:]
        # Each factor by the fourth root, so that their products are by the square root.
        ours, theirs = (width**-0.25 * vectors.float().flatten(0, 1) for vectors in (student, teacher))
        gradient = torch.empty_like(ours) if ctx.needs_input_grad[0] else None
        loss = ours.new_zeros(())
        at_once = max(1, AT_ONCE.get(ours.device.type, ELSEWHERE) // tokens**2)
        for start in range(0, len(ours), at_once):
            some = slice(start, start + at_once)
            log_p, log_q = (_log_relations(vectors[some], bias[some]) for vectors in (ours, theirs))
            q = log_q.exp()
            loss += (share[some] * q * (log_q - log_p)).sum()
            if gradient is not None:  # of the products it is p - q, and each vector is in a row and in a column
                of_products = log_p.exp_().sub_(q).mul_(share[some])
                torch.bmm(of_products + of_products.mT, ours[some], out=gradient[some])
        if gradient is not None:
            ctx.save_for_backward((width**-0.25 * gradient).view(student.shape).to(student.dtype))
        return loss

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return of_loss * gradient, None, None, None


def _log_relations(vectors: Tensor, bias: Tensor) -> Tensor:
    """[matrices, tokens, tokens], of vectors [matrices, tokens, width]"""
    return F.log_softmax(torch.baddbmm(bias, vectors, vectors.mT), dim=-1)


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
