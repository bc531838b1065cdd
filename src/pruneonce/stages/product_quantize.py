"""Iterative product quantization of a task model: feed-forward weights, then embeddings, then attention go onto
codebooks; what is not there yet, and the centroids, learn on by distillation.

Source: Quant-Noise, https://arxiv.org/abs/2004.07320, sections 3 and 5.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from pruneonce.console import console
from pruneonce.plugins import Method
from pruneonce.quantization import codebooks
from pruneonce.quantization.iterative import Group, OnCodebooks, describe, groups_of
from pruneonce.recipe import ProductQuantize, Task
from pruneonce.stages.finetune import run
from pruneonce.system import distributed
from pruneonce.training.sparsifier import Locked


def product_quantize(
    model: str | Path,
    task: Task,
    settings: ProductQuantize,
    output: Path,
    *,
    teacher: str | Path,
    seed: int = 42,
    cache: Path | None = None,
    report_to: list[str] | None = None,
) -> Path:
    """Put the weights of the task model `model` on codebooks, in one training run; what is zero in it is zero in the
    result.

    The result is a plain model folder whose weights are what the codes in `codebooks.safetensors` stand for
    (`quantization.codebooks`).

    Args:
        model: what `transfer` or `finetune` made.
        teacher: dense model fine-tuned on the same task.

    Raises:
        UserError: a mistake in the models, the task or the settings.
    """
    groups: dict[str, Group] = {}
    tied: list[OnCodebooks] = []  # the one that the run has

    @contextmanager
    def on_codebooks(student: nn.Module, folder: Path) -> Generator[None, None, None]:
        groups.update(groups_of(student, settings))
        console.print("\n".join(f"  {line}" for line in describe(student, groups).splitlines()))
        yield
        found = tied[0].codebooks()
        distributed.by_first(lambda: codebooks.save(found, folder))

    def tie(weights: Mapping[str, Tensor], steps: int, method: Method) -> Locked:
        tied.append(OnCodebooks(weights, groups, settings, steps, seed))
        return tied[0]

    return run(
        "product-quantize",
        model,
        task,
        settings,
        output,
        seed=seed,
        cache=cache,
        report_to=report_to,
        teacher=teacher,
        make_sparsifier=tie,
        during=on_codebooks,
    )
