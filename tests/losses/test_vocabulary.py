"""The chunked loss over the vocabulary equals the plain formula, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F
from shared.models import CONFIGS
from transformers import AutoModelForMaskedLM

from pruneonce.losses import vocabulary
from pruneonce.losses.vocabulary import IGNORED, Head, vocabulary_loss, without_decoder

ROWS, WIDTH, WORDS = 150, 12, 301
SETTINGS = {"temperature": 3.0, "task_weight": 0.3, "kd_weight": 0.6}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """So that rows, products and words are all cut into several pieces, the last of them shorter."""
    monkeypatch.setitem(vocabulary.CHUNK_BYTES, "cpu", 4 * WORDS * 23)
    monkeypatch.setattr(vocabulary, "CHUNKS_A_PRODUCT", 2)
    monkeypatch.setattr(vocabulary, "WORDS_A_PRODUCT", 128)


def heads(dtype=torch.float64, bias=True):
    made = torch.Generator().manual_seed(0)
    shapes = [(ROWS, WIDTH), (WORDS, WIDTH), (WORDS,)]
    parts = [[torch.randn(shape, generator=made, dtype=dtype) for shape in shapes] for _ in range(2)]
    student, teacher = (Head(*(part if bias else part[:2])) for part in parts)
    labels = torch.where(
        torch.rand(ROWS, generator=made) < 0.15, torch.randint(WORDS, (ROWS,), generator=made), IGNORED
    )
    return student, teacher, labels


def plain(student, labels, teacher=None, temperature=2.0, task_weight=1.0, kd_weight=1.0):
    """The formula as it is written down."""
    logits = F.linear(*student)
    mlm = task_weight * F.cross_entropy(logits, labels, ignore_index=IGNORED)
    if teacher is None:
        return {"loss": mlm, "mlm": mlm}
    log_q = F.log_softmax(logits / temperature, -1)
    p = F.softmax(F.linear(*teacher) / temperature, -1)
    kd = kd_weight * temperature**2 * (p * (p.log() - log_q)).sum(-1).mean()
    return {"loss": mlm + kd, "mlm": mlm, "kd": kd}


def loss_and_gradients(function, student, *args, **settings):
    leaves = [part.detach().clone().requires_grad_() for part in student if part is not None]
    found = function(Head(*leaves), *args, **settings)
    (7 * found["loss"]).backward()  # an upstream gradient other than 1
    return {name: value.item() for name, value in found.items()}, [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("distilled", [True, False])
def test_equals_the_plain_formula(bias, distilled):
    student, teacher, labels = heads(bias=bias)
    args = (labels, teacher) if distilled else (labels,)
    ours, ours_gradients = loss_and_gradients(vocabulary_loss, student, *args, **SETTINGS)
    theirs, their_gradients = loss_and_gradients(plain, student, *args, **SETTINGS)
    assert ours == pytest.approx(theirs, rel=1e-12)
    for one, other in zip(ours_gradients, their_gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-14)


def test_equals_the_plain_formula_to_bf16():
    student, teacher, labels = heads(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours, ours_gradients = loss_and_gradients(vocabulary_loss, student, labels, teacher, **SETTINGS)
    theirs, their_gradients = loss_and_gradients(plain, student, labels, teacher, **SETTINGS)
    assert ours == pytest.approx(theirs, rel=1e-2)
    for one, other in zip(ours_gradients, their_gradients, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 1e-2 * other.norm()


def test_batches_of_a_step_add_up_to_one():
    """With the step's mean number of targets, the mean over its batches is the loss of all their rows."""
    student, _, labels = heads()
    halves = [slice(0, 50), slice(50, 150)]
    targets = (labels != IGNORED).sum() / 2
    parts = [
        vocabulary_loss(Head(student.hidden[half], *student[1:]), labels[half], targets=targets)["loss"]
        for half in halves
    ]
    assert torch.stack(parts).mean().item() == pytest.approx(vocabulary_loss(student, labels)["loss"].item())


def test_no_labelled_row_is_no_loss():
    student, _, labels = heads()
    found, gradients = loss_and_gradients(vocabulary_loss, student, torch.full_like(labels, IGNORED))
    assert found == {"loss": 0.0, "mlm": 0.0}
    assert not any(gradient.any() for gradient in gradients)


def test_a_second_backward_pass_is_refused():
    student, _, labels = heads()
    loss = vocabulary_loss(student._replace(hidden=student.hidden.requires_grad_()), labels)["loss"]
    loss.backward(retain_graph=True)
    with pytest.raises(TypeError):
        loss.backward()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_decoder_is_left_out_and_put_back(architecture):
    model = AutoModelForMaskedLM.from_config(CONFIGS[architecture]).eval()
    ids = torch.randint(5, 40, (2, 9))
    with torch.no_grad():
        logits = model(ids).logits
        with without_decoder(model) as (weight, bias):
            hidden = model(ids).logits
        assert torch.allclose(F.linear(hidden, weight, bias), logits, atol=1e-6)
        assert torch.equal(model(ids).logits, logits)
