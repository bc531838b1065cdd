"""Loss over the vocabulary: MLM cross-entropy and distillation, without a tensor of tokens x vocabulary.

The plain formula needs the logits of every token for every word, of student and teacher, and their gradients: for 4 096
tokens and 30 522 words, 500 MB each. Here a few rows exist at a time. Their gradient is computed at once and added to
the gradients of the hidden states and of the vocabulary weight, so nothing is computed twice. Source: Liger Kernel,
https://arxiv.org/abs/2410.10989, section 3.2; here distillation takes place in the same pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pruneonce.errors import UserError
from pruneonce.models.architectures import ARCHITECTURES

IGNORED = -100  # the label of a position that is not predicted
# Bytes of a chunk's logits in fp32. A CPU is fastest with logits in its cache, in memory touched before (fresh pages
# cost more than the arithmetic); a GPU is fastest with products that fill it.
CHUNK_BYTES = {"cpu": 8 << 20}
CHUNK_BYTES_GPU = 512 << 20
CHUNKS_A_PRODUCT = 4  # chunks in a product for the weight's gradient, which is read and written in full each time
TILE = 64  # rows; products are fastest with multiples of it
WORDS_A_PRODUCT = 4096  # rows of the vocabulary weight's gradient, summed in fp32 from products in bf16


class Head(NamedTuple):
    """Logits that are not computed yet: `hidden @ weight.T + bias`.

    Shapes: hidden [rows, width], weight [vocabulary, width], bias [vocabulary] or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Head:
        """Convert to `dtype`, detached from the graph."""
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        return Head(self.hidden.detach().to(dtype), self.weight.detach().to(dtype), bias)

    def rows(self, rows: Any) -> Head:
        """Select some rows of the hidden states."""
        return self._replace(hidden=self.hidden[rows])

    def logits(self, rows: slice, out: Tensor) -> Tensor:
        """Compute the logits [rows, vocabulary] of some rows in the memory of `out`."""
        if self.bias is None:
            return torch.mm(self.hidden[rows], self.weight.T, out=out)
        return torch.addmm(self.bias, self.hidden[rows], self.weight.T, out=out)


def vocabulary_loss(
    student: Head,
    labels: Tensor,
    teacher: Head | None = None,
    *,
    temperature: float = 2.0,
    task_weight: float = 1.0,
    kd_weight: float = 1.0,
    targets: Tensor | None = None,
) -> dict[str, Tensor]:
    """Weighted sum of the cross-entropy of the labelled rows and the distillation of all rows.

    Prune Once for All, https://arxiv.org/abs/2111.05754, section 3: the mean of `-log softmax(z_s)[label]` over the
    labelled rows, and the mean of `T^2 KL(softmax(z_t / T) || softmax(z_s / T))` over all rows.

    Products are computed in the precision of autocast if it is on, everything else in fp32 (fp64 for fp64 inputs).

    Args:
        student: the student's head.
        labels: word of each row [rows], -100 for a row without a label.
        teacher: the teacher's head at the same rows; no gradient flows into it. None: cross-entropy alone.
        temperature: T.
        task_weight: weight of the cross-entropy.
        kd_weight: weight of the distillation.
        targets: divisor of the sum of cross-entropies: the mean number of labelled rows over all batches of a step.
            Default: the number of labelled rows of this batch, at least 1.

    Returns:
        `loss`, and its parts `mlm` and (with a teacher) `kd`, which have no gradient.
    """
    if teacher is None:
        labelled = labels != IGNORED
        student, labels = student.rows(labelled), labels[labelled]
    if targets is None:
        targets = (labels != IGNORED).sum().clamp_min(1)
    settings = temperature, task_weight, targets, kd_weight / max(1, len(labels))
    loss, mlm, kd = _VocabularyLoss.apply(*student, labels, teacher, settings)
    return {"loss": loss, "mlm": mlm} if teacher is None else {"loss": loss, "mlm": mlm, "kd": kd}


class _VocabularyLoss(torch.autograd.Function):
    """Loss and gradients in one pass over chunks of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        teacher: Head | None,
        settings: tuple[float, float, Tensor, float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            pieces = _Pass(Head(hidden, weight, bias).to(dtype), labels, teacher and teacher.to(dtype), *settings)
            pieces.run()
        inputs = hidden, weight, bias
        ctx.gradients = [
            None if x is None or not needed else gradient.to(x.dtype)
            for x, gradient, needed in zip(inputs, pieces.gradients, ctx.needs_input_grad[:3], strict=True)
        ]
        ctx.mark_non_differentiable(pieces.mlm, pieces.kd)
        return pieces.mlm + pieces.kd, pieces.mlm, pieces.kd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> Any:
        gradients, ctx.gradients = ctx.gradients, None  # changed in place, so valid for one backward pass
        return (*(None if gradient is None else gradient.mul_(upstream) for gradient in gradients), None, None, None)


class _Pass:
    """One pass over the rows, padded with zeros to whole groups.

    Every product then has the same shape; oneDNN compiles and keeps a kernel for each new shape. The heads of student
    and teacher come in the precision of the products.
    """

    def __init__(
        self,
        student: Head,
        labels: Tensor,
        teacher: Head | None,
        temperature: float,
        task_weight: float,
        targets: Tensor,
        kd_scale: float,
    ):
        self.vocabulary, width = student.weight.shape
        self.exact = torch.float64 if student.weight.dtype == torch.float64 else torch.float32
        self.temperature, self.task_scale, self.kd_scale = temperature, task_weight / targets.to(self.exact), kd_scale
        self.labels, rows = labels, len(labels)
        most = CHUNK_BYTES.get(labels.device.type, CHUNK_BYTES_GPU) // (4 * self.vocabulary)
        self.size = min(_round_up(rows, TILE), max(1, most // TILE * TILE or most))
        self.group = self.size * min(CHUNKS_A_PRODUCT, _round_up(rows, self.size) // self.size)
        padded_rows = _round_up(rows, self.group)
        self.student = student._replace(hidden=F.pad(student.hidden, (0, 0, 0, padded_rows - rows)))
        self.teacher = teacher and teacher._replace(hidden=F.pad(teacher.hidden, (0, 0, 0, padded_rows - rows)))
        zeros = student.weight.new_zeros
        self.mlm, self.kd = zeros((), dtype=self.exact), zeros((), dtype=self.exact)
        self.to_hidden = zeros(padded_rows, width)
        self.to_weight = zeros(self.vocabulary, width, dtype=self.exact)
        self.to_bias = zeros(self.vocabulary, dtype=self.exact)

    @property
    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients by hidden states [rows, width], weight [vocabulary, width] and bias [vocabulary]."""
        return self.to_hidden[: len(self.labels)], self.to_weight, self.to_bias

    def run(self) -> None:
        """Compute the losses and the gradients of all rows."""
        empty = self.student.weight.new_empty
        self.products = empty(self.size, self.vocabulary)
        self.work = [empty(self.size, self.vocabulary, dtype=self.exact) for _ in range(3)]
        waiting = empty(self.group, self.vocabulary)
        rows, padded_rows = len(self.labels), len(self.to_hidden)
        labelled = (self.labels != IGNORED).nonzero().flatten()
        bounds = torch.arange(0, padded_rows + self.size, self.size, device=labelled.device)
        ends = torch.searchsorted(labelled, bounds).tolist()
        for first in range(0, padded_rows, self.group):
            for start in range(first, first + self.group, self.size):
                number, size = start // self.size, min(max(0, rows - start), self.size)
                place = waiting[start - first : start - first + self.size]
                if size:
                    place[:size] = self._chunk(start, size, labelled[ends[number] : ends[number + 1]])
                place[size:] = 0
            group_rows = slice(first, first + self.group)
            torch.mm(waiting, self.student.weight, out=self.to_hidden[group_rows])
            for word in range(0, self.vocabulary, WORDS_A_PRODUCT):
                words = slice(word, word + WORDS_A_PRODUCT)
                self.to_weight[words] += waiting[:, words].T @ self.student.hidden[group_rows]

    def _chunk(self, start: int, size: int, labelled: Tensor) -> Tensor:
        """Add the losses of `size` rows, `labelled` among them; return the gradient by their logits."""
        rows = slice(start, start + self.size)
        ours, theirs, spare = (work[:size] for work in self.work)
        ours.copy_(self.student.logits(rows, self.products)[:size])
        here, words = labelled - start, self.labels[labelled]
        log_q = torch.log_softmax(ours[here], dim=-1)
        self.mlm -= self.task_scale * log_q.gather(1, words[:, None]).sum()
        to_labelled = log_q.exp_()  # d(-log q[word]) / dz = q - onehot(word)
        to_labelled[torch.arange(len(words), device=words.device), words] -= 1
        to_labelled *= self.task_scale
        if self.teacher is None:
            gradient = ours.zero_()
        else:
            gradient = self._distill(ours, theirs.copy_(self.teacher.logits(rows, self.products)[:size]), spare)
        gradient.index_add_(0, here, to_labelled)
        self.to_bias.add_(gradient.sum(0))
        return gradient

    def _distill(self, ours: Tensor, theirs: Tensor, spare: Tensor) -> Tensor:
        """Add `T^2 KL(p || q)`; return its gradient `T (q - p)`, computed in place of the logits."""
        t = self.temperature
        log_q = torch.log_softmax(ours.div_(t), dim=-1, out=spare)
        log_p = torch.log_softmax(theirs.div_(t), dim=-1, out=ours)
        p = torch.exp(log_p, out=theirs)
        self.kd += t * t * self.kd_scale * torch.dot(p.view(-1), log_p.sub_(log_q).view(-1))
        return log_q.exp_().sub_(p).mul_(t * self.kd_scale)


def _round_up(number: int, to: int) -> int:
    """Round up to a multiple of `to`, at least `to` itself."""
    return max(1, -(-number // to)) * to


@contextmanager
def without_decoder(model: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Context in which the vocabulary head stops before its last product: logits are hidden states.

    The context's value is weight [vocabulary, width] and bias of that product, the last layer's
    (`get_output_embeddings()`, tied to the word embeddings or not). It stays in its place in the model, and the
    parameters keep their names.
    """
    roles = ARCHITECTURES.get(model.config.model_type)
    decoder: Any = model.get_output_embeddings()
    if roles and roles.wide_head:
        head = model.get_submodule(roles.wide_head)
        head.forward = head.transform.forward
        try:
            yield torch.cat([decoder.weight, head.dense.weight.T], dim=1), decoder.bias
        finally:
            del head.forward
        return
    bias, biased = decoder.bias, model.get_submodule(roles.head_bias) if roles and roles.head_bias else None
    if biased is not None:  # the head adds it to what the Linear passes on
        bias, biased._parameters["bias"] = biased.bias, torch.zeros((), device=decoder.weight.device)
    decoder.forward = lambda input: input
    try:
        yield decoder.weight, bias
    finally:
        del decoder.forward
        if biased is not None:
            biased._parameters["bias"] = bias


@torch.no_grad()
def check_head(model: Any, source: Any) -> None:
    """Refuse a model of a type beside the table whose logits are not the product of its last Linear.

    Raises:
        UserError: the losses over the vocabulary do not know the head.
    """
    if model.config.model_type in ARCHITECTURES:
        return
    was_training, tokens = model.training, torch.arange(4)[None] % model.config.get_text_config().vocab_size
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    model.eval()
    try:
        logits = model(**batch).logits
        with without_decoder(model) as (weight, bias):
            known = torch.allclose(F.linear(model(**batch).logits, weight, bias), logits, rtol=1e-3, atol=1e-4)
    except Exception:  # another head fails anywhere, in any way
        known = False
    finally:
        model.train(was_training)
    if not known:
        raise UserError(
            f"the vocabulary head of {source}, a {model.config.model_type}, is not one Linear over hidden states, "
            "which the losses over the vocabulary need; use `objective: hidden`"
        )
