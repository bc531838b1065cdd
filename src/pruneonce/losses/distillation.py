"""Distillation losses: pure functions of tensors, independent of training.

Logits: Prune Once for All, https://arxiv.org/abs/2111.05754, section 3, after Hinton et al.,
https://arxiv.org/abs/1503.02531.
Hidden states: TinyBERT, https://arxiv.org/abs/1909.10351, with each state's error relative to the teacher's norm as in
SquareHead, https://arxiv.org/abs/2310.06927, equation 1.
Relations of attention: MiniLM v2, https://arxiv.org/abs/2012.15828, section 3.1.
Embeddings: the error of the vectors, https://arxiv.org/abs/2004.09813, relative to the teacher's norm; the error of the
similarities within a batch, https://arxiv.org/abs/1907.09682, for vectors of length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of the relation matrices computed in one chunk: as many as fit a CPU core's cache; elsewhere, enough to keep
# a GPU busy.
AT_ONCE, ELSEWHERE = {"cpu": 2**18}, 2**26


def logit_distillation(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Logit distillation `T^2 KL(softmax(z_t / T) || softmax(z_s / T))`, mean over rows ("batchmean").

    The factor T^2 keeps the size of the gradient the same at every temperature.

    Args:
        student: logits [rows, classes].
        teacher: logits [rows, classes]; no gradient flows into them.
        temperature: T.
    """
    log_p = F.log_softmax(student / temperature, dim=-1)
    log_q = F.log_softmax(teacher.detach() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def hidden_distillation(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Hidden-state distillation: mean over layers and rows of `|h_s - h_t|^2 / |h_t|^2`.

    The loss is 0 for equal states, and 1 for student states of 0.

    Args:
        student: hidden states [rows, width] of each layer, at the tokens that are not padding.
        teacher: the teacher's hidden states, likewise; no gradient flows into them.
    """
    losses = []
    for ours, theirs in zip(student, teacher, strict=True):
        target = theirs.detach().float()
        error = (ours.float() - target).square().sum(-1)
        losses.append((error / target.square().sum(-1).clamp_min(1e-6)).mean())
    return torch.stack(losses).mean()


def relation_distillation(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Distillation of the relations between tokens within queries, keys and values.

    `KL(softmax(A_t A_t^T / sqrt(d)) || softmax(A_s A_s^T / sqrt(d)))` for vectors `A` of width d; mean over heads,
    tokens and all `A`.

    Args:
        student: queries, keys and values [batch, heads, tokens, width] of each layer.
        teacher: the teacher's vectors, likewise; no gradient flows into them.
        mask: [batch, tokens], 0 at padding, which has no relations.
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
    """Divergence of the relations of one `A`, with the gradient computed along with the loss.

    Autograd would keep several matrices [tokens, tokens] for every head of every layer: gigabytes for long texts.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, bias: Tensor, share: Tensor) -> Tensor:
        """Compute the divergence, and its gradient by `student`.

        Args:
            ctx: keeps the gradient.
            student: [batch, heads, tokens, width].
            teacher: [batch, heads, tokens, width].
            bias: [batch * heads, 1, tokens], added to the products: the lowest number at padding, else 0.
            share: [batch * heads, tokens, 1], weight of each row in the mean: 0 at padding.
        """
        tokens, width = student.shape[2:]
        # Dividing each factor by the fourth root of d divides their products by the square root.
        ours, theirs = (width**-0.25 * vectors.float().flatten(0, 1) for vectors in (student, teacher))
        gradient = torch.empty_like(ours) if ctx.needs_input_grad[0] else None
        loss = ours.new_zeros(())
        chunk_size = max(1, AT_ONCE.get(ours.device.type, ELSEWHERE) // tokens**2)
        for start in range(0, len(ours), chunk_size):
            chunk = slice(start, start + chunk_size)
            log_p, log_q = (_log_relations(vectors[chunk], bias[chunk]) for vectors in (ours, theirs))
            q = log_q.exp()
            loss += (share[chunk] * q * (log_q - log_p)).sum()
            if gradient is not None:  # by the products it is p - q, and each vector is in a row and in a column
                product_gradient = log_p.exp_().sub_(q).mul_(share[chunk])
                torch.bmm(product_gradient + product_gradient.mT, ours[chunk], out=gradient[chunk])
        if gradient is not None:
            ctx.save_for_backward((width**-0.25 * gradient).view(student.shape).to(student.dtype))
        return loss

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, loss_gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return loss_gradient * gradient, None, None, None


def _log_relations(vectors: Tensor, bias: Tensor) -> Tensor:
    """Log-softmax of the products [matrices, tokens, tokens] of vectors [matrices, tokens, width]."""
    return F.log_softmax(torch.baddbmm(bias, vectors, vectors.mT), dim=-1)


def states(outputs: Any, mask: Tensor) -> list[Tensor]:
    """Each layer's output at the real tokens [rows, width], and the pooler's [batch, width] if the model has one.

    Args:
        outputs: a model's outputs with hidden states.
        mask: [batch, tokens], 0 at padding.
    """
    keep = mask.bool()
    layers = [state[keep] for state in outputs.hidden_states[1:]]
    pooled = outputs.get("pooler_output")
    return layers if pooled is None else [*layers, pooled]


def embedding_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Embedding distillation: mean over rows of `|s - t|^2 / |t|^2`, which is `2 (1 - cos(s, t))` at length 1.

    Args:
        student: vectors [rows, width].
        teacher: vectors [rows, width]; no gradient flows into them.
    """
    return hidden_distillation([student], [teacher])


def similarity_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity distillation: mean of `(cos(s_i, s_j) - cos(t_i, t_j))^2` over pairs of different rows.

    A vector's similarity to itself is 1 in every model and is left out. The loss of a single row is 0.

    Args:
        student: vectors [rows, width].
        teacher: vectors [rows, any width]; no gradient flows into them.
    """
    with torch.autocast(student.device.type, enabled=False):  # the error of bf16 exceeds the difference of the cosines
        ours, theirs = _cosines(student), _cosines(teacher.detach())
    rows = len(student)
    error = (ours - theirs).square().fill_diagonal_(0.0)
    return error.sum() / max(1, rows * (rows - 1))


def _cosines(vectors: Tensor) -> Tensor:
    """Cosine similarities [rows, rows] of vectors [rows, width]."""
    unit = F.normalize(vectors.float(), dim=-1)
    return unit @ unit.T
