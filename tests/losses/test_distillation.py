"""Losses against plain formulas in float64."""

import pytest
import torch

from pruneonce.losses.distillation import hidden_distillation, logit_distillation


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.5])
def test_logit_distillation_is_t_squared_kl(temperature):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 11, dtype=torch.float64)
    p = (teacher / temperature).softmax(-1)
    q = (student / temperature).softmax(-1)
    plain = temperature**2 * (p * (p / q).log()).sum() / len(student)
    assert logit_distillation(student, teacher, temperature).item() == pytest.approx(plain.item(), rel=1e-12)


def test_logit_distillation_by_hand():
    """Two classes, T = 2: p = (3/4, 1/4), q = (1/2, 1/2), so 4 (3/4 ln 3/2 + 1/4 ln 1/2) = 0.523248."""
    teacher = 2 * torch.tensor([[3.0, 1.0]]).log()
    assert logit_distillation(torch.zeros(1, 2), teacher, 2.0).item() == pytest.approx(0.523248, abs=1e-6)


def test_no_gradient_reaches_the_teacher():
    student, teacher = torch.randn(2, 4, 3).unbind()
    student.requires_grad_(), teacher.requires_grad_()
    logit_distillation(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_hidden_distillation_is_relative_to_the_teacher():
    torch.manual_seed(0)
    teacher = [torch.randn(5, 8), 100 * torch.randn(7, 8)]
    assert hidden_distillation(teacher, teacher).item() == 0.0
    assert hidden_distillation([torch.zeros_like(t) for t in teacher], teacher).item() == pytest.approx(1.0)
    student = [torch.randn(5, 8), torch.randn(7, 8)]
    plain = sum(((s - t) ** 2).sum(-1).div((t**2).sum(-1)).mean() for s, t in zip(student, teacher, strict=True)) / 2
    assert hidden_distillation(student, teacher).item() == pytest.approx(plain.item())
