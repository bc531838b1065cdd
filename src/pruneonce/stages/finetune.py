"""Dense fine-tuning on a task by its labels, for the dense result and the task teacher."""

from __future__ import annotations

from pathlib import Path

from pruneonce.recipe import Task, Training
from pruneonce.stages.output import Build
from pruneonce.stages.task_training import TaskStage


class FinetuneStage(TaskStage[Training]):
    """Training by the labels alone, every weight free."""

    name = "finetune"


def finetune(
    model: str | Path,
    task: Task,
    settings: Training,
    output: Path,
    *,
    seed: int = 42,
    cache: Path | None = None,
    report_to: list[str] | None = None,
) -> Path:
    """Fine-tune `model` densely on `task`: the dense result, and the teacher of the sparse one.

    Raises:
        UserError: a mistake in the model, the task or the settings.
    """
    return FinetuneStage().run(model, task, settings, Build(output, seed, cache, report_to))
