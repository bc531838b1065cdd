"""Transfer of the sparse model to a task, its zeros locked, distilling from a dense task teacher.

Prune Once for All, https://arxiv.org/abs/2111.05754, section 3. `transfer_gradual` is the rival that starts from the
dense model and prunes during fine-tuning, for every task anew.
"""

from __future__ import annotations

from pathlib import Path

from pruneonce.errors import UserError
from pruneonce.models.architectures import prunable_weights
from pruneonce.recipe import Gradual, Task, Transfer
from pruneonce.sparsity import PruningSchedule
from pruneonce.stages.output import Build
from pruneonce.stages.task_training import TaskStage
from pruneonce.training import Job
from pruneonce.training.sparsifier import LockedZeros, Pruner


class TransferStage(TaskStage[Transfer]):
    """Distillation into a sparse model whose zeros stay zero."""

    name = "transfer"

    def sparsifier(self, job: Job, settings: Transfer, seed: int) -> LockedZeros:
        return LockedZeros(prunable_weights(job.model))

    def check(self, job: Job, source: str | Path) -> None:
        assert job.sparsifier is not None
        if job.sparsifier.sparsity() == 0:
            raise UserError(f"{source} has no zeros to lock: transfer starts from a model that `prune` made")


class GradualTransferStage(TaskStage[Gradual]):
    """Distillation into a dense model that is pruned meanwhile."""

    name = "transfer-gradual"

    def sparsifier(self, job: Job, settings: Gradual, seed: int) -> Pruner:
        return Pruner(prunable_weights(job.model), settings, PruningSchedule.of(settings, job.steps), job.method)


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
    """Fine-tune the sparse `model` on `task`; its zeros stay zeros.

    Args:
        model: made by `prune`.
        task: the task to learn.
        settings: those of the stage.
        output: folder to write.
        teacher: dense model fine-tuned on the same task.
        seed: of everything random.
        cache: folder that hub data is downloaded to; None: inside the unfinished output.
        report_to: transformers' logging integrations.

    Raises:
        UserError: the model has no zeros to lock, or a mistake in the models, the task or the settings.
    """
    return TransferStage().run(model, task, settings, Build(output, seed, cache, report_to), teacher)


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
    return GradualTransferStage().run(model, task, settings, Build(output, seed, cache, report_to), teacher)
