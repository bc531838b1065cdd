"""The loss over the vocabulary: MLM cross-entropy and distillation, without ever holding tokens x vocabulary.

The plain formula wants the logits of every token for every word, the student's and the teacher's, and their gradients:
for 4 096 tokens and 30 522 words, 500 MB each. Here a few rows of them exist at a time. The gradient of these rows is
made at once and goes into those of the hidden states and of the vocabulary weight, so that nothing is computed twice:
the way of Liger Kernel (https://arxiv.org/abs/2410.10989, section 3.2), with distillation in the same pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED = -100  # the label of a position that is not predicted
# Bytes of a chunk's logits in fp32. A processor wants them in its cache and from memory that it has touched before
# (fresh pages cost more than the arithmetic); a GPU wants products that fill it.
CHUNK_BYTES = {"cpu": 8 << 20}
CHUNK_BYTES_GPU = 512 << 20
CHUNKS_A_PRODUCT = 4  # whose gradients go into the weight's together: each time all of it is read and written
TILE = 64  # rows that products like whole
WORDS_A_PRODUCT = 4096  # of the vocabulary weight's gradient, which is made in fp32 out of products in bf16


class Head(NamedTuple):
    """Logits that are not computed yet: `hidden @ weight.T + bias`.

    Shapes: hidden [rows, width], weight [vocabulary, width], bias [vocabulary] or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Head:
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        return Head(self.hidden.detach().to(dtype), self.weight.detach().to(dtype), bias)

    def rows(self, rows: Any) -> Head:
        return self._replace(hidden=self.hidden[rows])

    def logits(self, rows: slice, out: Tensor) -> Tensor:
        """The logits of some rows, [rows, vocabulary], in the memory of `out`."""
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
    """`task_weight` times the cross-entropy of the labelled rows, plus `kd_weight` times the distillation of all rows.

    Prune Once for All, https://arxiv.org/abs/2111.05754, section 3: the mean of `-log softmax(z_s)[label]` over rows
    that have a label, and the mean of `T^2 KL(softmax(z_t / T) || softmax(z_s / T))` over all rows.

    Products are done in the precision of autocast where that is on; everything else in fp32 (fp64 for fp64 inputs).

    Args:
        labels: word of each row [rows], -100 for a row that has none.
        teacher: the same rows; no gradient flows into it. None: cross-entropy alone.
        targets: divides the sum of cross-entropies, where a step has more batches than this one: the mean number of
            labelled rows of these batches. Default: the number of them here, at least 1.

    Returns:
        `loss`, which alone has a gradient, and its parts `mlm` and (with a teacher) `kd`.
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
            None if x is None or not needed else made.to(x.dtype)
            for x, made, needed in zip(inputs, pieces.gradients, ctx.needs_input_grad[:3], strict=True)
        ]
        ctx.mark_non_differentiable(pieces.mlm, pieces.kd)
        return pieces.mlm + pieces.kd, pieces.mlm, pieces.kd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> Any:
        gradients, ctx.gradients = ctx.gradients, None  # changed in place, so good for one backward pass
        return (*(None if made is None else made.mul_(upstream) for made in gradients), None, None, None)


class _Pass:
    """One pass over the rows, which are filled up with zeros to whole groups: every product has the same shape, for
    oneDNN compiles, and keeps, a kernel for each new one.

    Args:
        student, teacher: in the precision of the products.
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
        self.size = min(_up(rows, TILE), max(1, most // TILE * TILE or most))
        self.group = self.size * min(CHUNKS_A_PRODUCT, _up(rows, self.size) // self.size)
        whole = _up(rows, self.group)
        self.student = student._replace(hidden=F.pad(student.hidden, (0, 0, 0, whole - rows)))
        self.teacher = teacher and teacher._replace(hidden=F.pad(teacher.hidden, (0, 0, 0, whole - rows)))
        new = student.weight.new_zeros
        self.mlm, self.kd = new((), dtype=self.exact), new((), dtype=self.exact)
        self.to_hidden = new(whole, width)
        self.to_weight = new(self.vocabulary, width, dtype=self.exact)
        self.to_bias = new(self.vocabulary, dtype=self.exact)

    @property
    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of hidden states [rows, width], weight [vocabulary, width] and bias [vocabulary]."""
        return self.to_hidden[: len(self.labels)], self.to_weight, self.to_bias

    def run(self) -> None:
        new = self.student.weight.new_empty
        self.products = new(self.size, self.vocabulary)
        self.work = [new(self.size, self.vocabulary, dtype=self.exact) for _ in range(3)]
        waiting = new(self.group, self.vocabulary)
        rows, whole = len(self.labels), len(self.to_hidden)
        labelled = (self.labels != IGNORED).nonzero().flatten()
        bounds = torch.arange(0, whole + self.size, self.size, device=labelled.device)
        ends = torch.searchsorted(labelled, bounds).tolist()
        for first in range(0, whole, self.group):
            for start in range(first, first + self.group, self.size):
                number, size = start // self.size, min(max(0, rows - start), self.size)
                place = waiting[start - first : start - first + self.size]
                if size:
                    place[:size] = self._chunk(start, size, labelled[ends[number] : ends[number + 1]])
                place[size:] = 0
            together = slice(first, first + self.group)
            torch.mm(waiting, self.student.weight, out=self.to_hidden[together])
            for word in range(0, self.vocabulary, WORDS_A_PRODUCT):
                words = slice(word, word + WORDS_A_PRODUCT)
                self.to_weight[words] += waiting[:, words].T @ self.student.hidden[together]

    def _chunk(self, start: int, size: int, labelled: Tensor) -> Tensor:
        """Adds the losses of `size` rows, `labelled` among them, and gives the gradient of their logits."""
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
        """Adds `T^2 KL(p || q)` and gives its gradient `T (q - p)`; the logits given are overwritten."""
        t = self.temperature
        log_q = torch.log_softmax(ours.div_(t), dim=-1, out=spare)
        log_p = torch.log_softmax(theirs.div_(t), dim=-1, out=ours)
        p = torch.exp(log_p, out=theirs)
        self.kd += t * t * self.kd_scale * torch.dot(p.view(-1), log_p.sub_(log_q).view(-1))
        return log_q.exp_().sub_(p).mul_(t * self.kd_scale)


def _up(number: int, to: int) -> int:
    """The next multiple of `to`, which is at least `to`."""
    return max(1, -(-number // to)) * to


@contextmanager
def without_decoder(model: Any) -> Iterator[nn.Linear]:
    """Within it, the model's logits are what goes into its last layer [batch, tokens, width]; gives that layer.

    The layer (`get_output_embeddings()`, tied to the word embeddings or not) stays in its place in the model, whose
    parameters and their names do not change.
    """
    decoder: nn.Linear = model.get_output_embeddings()
    decoder.forward = lambda input: input  # type: ignore[method-assign]
    try:
        yield decoder
    finally:
        del decoder.forward
