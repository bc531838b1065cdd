"""Iterative product quantization of a task model: weights go onto codebooks group by group, by distillation.

Feed-forward weights are first, then embeddings, then attention. Weights without a codebook yet, and the centroids of
finished codebooks, learn on.

Source: Quant-Noise, https://arxiv.org/abs/2004.07320, sections 3 and 5.
"""

from __future__ import annotations

from pathlib import Path

from pruneonce.console import console
from pruneonce.models.architectures import prunable_weights
from pruneonce.quantization import codebooks
from pruneonce.quantization.iterative import OnCodebooks, describe, groups_of
from pruneonce.recipe import ProductQuantize, Task
from pruneonce.stages.output import Build
from pruneonce.stages.task_training import TaskStage
from pruneonce.system import distributed
from pruneonce.training import Job


class ProductQuantizeStage(TaskStage[ProductQuantize]):
    """Distillation into a model whose weights go onto codebooks meanwhile, its zeros locked."""

    name = "product-quantize"
    has_head = True

    def sparsifier(self, job: Job, settings: ProductQuantize, seed: int) -> OnCodebooks:
        groups = groups_of(job.model, settings)
        console.print("\n".join(f"  {line}" for line in describe(job.model, groups).splitlines()))
        return OnCodebooks(prunable_weights(job.model), groups, settings, job.steps, seed)

    def write(self, job: Job, folder: Path) -> None:
        assert isinstance(job.sparsifier, OnCodebooks)
        learned = job.sparsifier.codebooks()
        distributed.by_first(lambda: codebooks.save(learned, folder))


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
    """Put the weights of the task model `model` on codebooks, in one training run; its zeros stay zeros.

    The weights of the resulting plain model folder are those that the codes in `codebooks.safetensors` stand for
    (`quantization.codebooks`).

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
    return ProductQuantizeStage().run(model, task, settings, Build(output, seed, cache, report_to), teacher)
