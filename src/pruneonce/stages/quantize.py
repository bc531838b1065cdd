"""Quantization of a task model: by training on the grid with the zeros locked, or by calibration alone.

Source: Prune Once for All, https://arxiv.org/abs/2111.05754, section 4.3 (quantization-aware training from the
transferred model, with lock and distillation still on).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from pruneonce import quantization
from pruneonce.console import console
from pruneonce.data.keys import task_key
from pruneonce.models import content_key, key_of, load_tokenizer
from pruneonce.models.architectures import check_length
from pruneonce.plugins import Method
from pruneonce.recipe import Calibrate, Quantization, Quantize, Task
from pruneonce.stages.common import begin, finish, is_made, tidy
from pruneonce.stages.finetune import run
from pruneonce.system import distributed, durable
from pruneonce.tasks import kind_of
from pruneonce.training.sparsifier import Locked


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
    """Train the task model `model` with fake quantization; what is zero in it is zero in the result.

    The result is a plain model folder whose weights lie on the grid, with the scales in `quantization.safetensors`.

    Args:
        model: what `transfer` or `finetune` made.
        teacher: dense model fine-tuned on the same task.

    Raises:
        UserError: a mistake in the models, the task or the settings.
    """

    @contextmanager
    def quantized(student: nn.Module, folder: Path) -> Generator[None, None, None]:
        _insert(student, settings, settings.averaging)
        yield
        _fold(student, folder)

    def lock(weights: Mapping[str, Tensor], steps: int, method: Method) -> Locked:
        return Locked(weights)

    return run(
        "quantize",
        model,
        task,
        settings,
        output,
        seed=seed,
        cache=cache,
        report_to=report_to,
        teacher=teacher,
        make_sparsifier=lock,
        during=quantized,
    )


@tidy
def calibrate(
    model: str | Path, task: Task, settings: Calibrate, output: Path, *, seed: int = 42, cache: Path | None = None
) -> Path:
    """Quantize the task model `model` without training it; the cheap alternative to `quantize`.

    The range of each layer's inputs is the mean of the extremes of batches of training examples. With 4 bits there is
    no range to learn, and the weights are rounded at once.

    Raises:
        UserError: a mistake in the model, the task or the settings.
    """
    key = key_of("calibrate", content_key(model), task_key(task), settings.model_dump(), seed)
    if is_made(output, key):
        return output
    check_length(task.max_length, model, "max_length")
    device = begin(seed)
    begun = durable.partial(output)
    tokenizer = load_tokenizer(model)
    kind = kind_of(task)
    calibrated = kind.load_finished(model).to(device).eval()
    learning = _insert(calibrated, settings)
    if settings.quantizes_inputs:
        data = distributed.first_then_all(lambda: kind.load(cache or begun / "cache"))
        rows = data.splits["train"]
        chosen = rows.shuffle(seed=seed).select(range(min(settings.examples, len(rows))))
        examples = kind.encode(chosen, tokenizer, training=True)
        collate = kind.collate(tokenizer)
        for count, first in enumerate(range(0, len(examples), settings.batch_size), start=1):
            for layer in learning.values():
                layer.averaging = 1 / count  # the mean of all batches so far
                layer.train()
            end = min(first + settings.batch_size, len(examples))
            batch = collate([examples[index] for index in range(first, end)])
            batch.pop("labels", None)
            with torch.no_grad():
                calibrated(**{name: value.to(device) for name, value in batch.items()})
    _fold(calibrated.eval(), begun)
    return finish(calibrated, tokenizer, output, stage="calibrate", source=model, key=key, settings=settings, seed=seed)


def _insert(model: nn.Module, settings: Quantization, averaging: float = 1.0) -> dict[str, quantization.LearningLinear]:
    said = quantization.describe(model, settings)
    console.print("\n".join(f"  {line}" for line in said.splitlines()))
    return quantization.insert(model, settings, averaging)


def _fold(model: nn.Module, folder: Path) -> None:
    """Plain modules with weights on the grid, and the scales in the folder."""
    fixed = quantization.freeze(model)
    distributed.by_first(lambda: quantization.save(fixed, folder))
    quantization.unwrap(model)
