"""Transfer of the sparse model to a task, its zeros locked, distilling from a dense task teacher.

Prune Once for All, https://arxiv.org/abs/2111.05754, section 3. `transfer_gradual` is the rival that starts from the
dense model and prunes during fine-tuning, for every task anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pruneonce.errors import UserError
from pruneonce.plugins import Method
from pruneonce.recipe import Gradual, Task, Transfer
from pruneonce.sparsity import PruningSchedule
from pruneonce.stages.finetune import run
from pruneonce.training import sparsifier


def transfer(
    model: str | Path,
    task: Task,
    settings: Transfer,
    output: Path,
    *,
    teacher: str | Path,
    seed: int = 42,
    cache: Path | None = None,
    report_to: list[str] | None = None,
) -> Path:
    """Fine-tune the sparse `model` on `task`; every weight that is zero in it is zero in the result.

    Args:
        teacher: dense model fine-tuned on the same task.

    Raises:
        UserError: the model has no zeros to lock, or a mistake in the models, the task or the settings.
    """

    def lock(weights: Mapping[str, Tensor], steps: int, method: Method) -> sparsifier.Locked:
        locked = sparsifier.Locked(weights)
        if locked.sparsity() == 0:
            raise UserError(f"{model} has no zeros to lock: transfer starts from a model that `prune` made")
        return locked

    return run(
        "transfer",
        model,
        task,
        settings,
        output,
        seed=seed,
        cache=cache,
        report_to=report_to,
        teacher=teacher,
        make_sparsifier=lock,
    )


def transfer_gradual(
    model: str | Path,
    task: Task,
    settings: Gradual,
    output: Path,
    *,
    teacher: str | Path,
    seed: int = 42,
    cache: Path | None = None,
    report_to: list[str] | None = None,
) -> Path:
    """Fine-tune the dense `model` on `task` and prune it gradually meanwhile, with the same distillation."""

    def prune_meanwhile(weights: Mapping[str, Tensor], steps: int, method: Method) -> sparsifier.Locked:
        return sparsifier.Gradual(weights, settings, PruningSchedule.of(settings, steps), method)

    return run(
        "transfer-gradual",
        model,
        task,
        settings,
        output,
        seed=seed,
        cache=cache,
        report_to=report_to,
        teacher=teacher,
        make_sparsifier=prune_meanwhile,
    )
