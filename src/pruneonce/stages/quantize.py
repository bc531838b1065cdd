"""Quantization of a task model by training on the grid with its zeros locked.

Source: Prune Once for All, https://arxiv.org/abs/2111.05754, section 4.3 (quantization-aware training from the
transferred model, with lock and distillation still on).
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pruneonce.models.architectures import prunable_weights
from pruneonce.recipe import Quantize, Task
from pruneonce.stages.grids import put_on_grid, start_learning
from pruneonce.stages.output import Build
from pruneonce.stages.task_training import TaskStage
from pruneonce.training import Job
from pruneonce.training.sparsifier import LockedZeros


class QuantizeStage(TaskStage[Quantize]):
    """Distillation with fake quantization; zeros stay zeros."""

    name = "quantize"
    has_head = True

    def change_model(self, model: nn.Module, settings: Quantize) -> None:
        start_learning(model, settings, settings.averaging)

    def sparsifier(self, job: Job, settings: Quantize, seed: int) -> LockedZeros:
        return LockedZeros(prunable_weights(job.model))

    def write(self, job: Job, folder: Path) -> None:
        put_on_grid(job.model, folder)


def quantize(
    model: str | Path,
    task: Task,
    settings: Quantize,
    output: Path,
    *,
    teacher: str | Path,
    seed: int = 42,
    cache: Path | None = None,
    report_to: list[str] | None = None,
) -> Path:
    """Train the task model `model` with fake quantization; its zeros stay zeros.

    The result is a plain model folder whose weights lie on the grid, with the scales in `quantization.safetensors`.

    Args:
        model: made by `transfer` or `finetune`.
        task: the task of the model.
        settings: those of the stage.
        output: folder to write.
        teacher: dense model fine-tuned on the same task.
        seed: of everything random.
        cache: folder that hub data is downloaded to; None: inside the unfinished output.
        report_to: transformers' logging integrations.

    Raises:
        UserError: a mistake in the models, the task or the settings.
    """
    return QuantizeStage().run(model, task, settings, Build(output, seed, cache, report_to), teacher)
