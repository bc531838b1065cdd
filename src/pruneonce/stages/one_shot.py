"""One-shot pruning of a fine-tuned task model, without training it: by magnitude, or by a method that uses gradients.

The one-shot baseline of pre-training, which tasks start from, is the stage `prune_one_shot`.

Source: the Optimal BERT Surgeon, https://arxiv.org/abs/2203.07259. With the method oBERT, this is its one-shot setting
with several recomputations.
"""

from __future__ import annotations

from pathlib import Path

from pruneonce.data.blocks import PassesByLength
from pruneonce.data.keys import task_key
from pruneonce.errors import UserError
from pruneonce.models import content_key, key_of, load_tokenizer
from pruneonce.models.architectures import check_length, prunable_weights
from pruneonce.plugins import make
from pruneonce.plugins.run import Run
from pruneonce.recipe import OneShot, Task
from pruneonce.sparsity import locked_masks, sparsity_of
from pruneonce.stages.output import Build, Origin, is_finished, unfinished
from pruneonce.system import distributed
from pruneonce.system.machine import keep_freed_memory
from pruneonce.tasks import kind_of, loaded
from pruneonce.tasks.objectives import task_objective
from pruneonce.training.attention import fast_attention
from pruneonce.training.sparsifier import Pruner


def one_shot(
    model: str | Path, task: Task, settings: OneShot, output: Path, *, seed: int = 42, cache: Path | None = None
) -> Path:
    """Prune the task model `model`, which `finetune` or `transfer` made; its zeros stay zeros.

    In each of `settings.rounds` the sparsity rises by as much, from that of the model to `settings.sparsity`.

    Raises:
        UserError: the model has as many zeros already, or a mistake in the model, the task or the settings.
    """
    key = key_of("one-shot", content_key(model), task_key(task), settings.model_dump(), seed)
    if is_finished(output, key, model):
        return output
    build = Build(output, seed, cache)
    with unfinished(output, key, model) as begun:
        check_length(task.max_length, model, "max_length")
        if settings.method and not task.trains_teacher:
            raise UserError(
                f"{settings.method.name} judges weights by labels, and `kind: {task.kind}` has none to learn"
            )
        device = distributed.start(seed)
        tokenizer = load_tokenizer(model)
        kind = kind_of(task).for_model(model)
        pruned = kind.load_finished(model).to(device)
        data = distributed.first_then_all(lambda: loaded.load(kind, build.cache_in(begun)))
        kind = kind.reading(pruned.config, data.data, str(model))
        examples = data.examples("train", tokenizer, training=True)
        order = PassesByLength(examples, len(examples), seed, settings.batch_size)
        weights = prunable_weights(pruned)
        run = Run(
            pruned, weights, settings.rounds, seed, task_objective(kind), order, kind.collate(tokenizer), settings
        )
        with fast_attention(pruned, max(map(len, examples["input_ids"]))):
            _prune(run, settings, str(model))
        return build.save(pruned, Origin("one-shot", model, key, settings))


def _prune(run: Run, settings: OneShot, name: str) -> None:
    """Prune the model of `run` round by round; errors call it `name`."""
    before = sparsity_of(locked_masks(run.weights))
    if settings.sparsity <= before:
        raise UserError(
            f"{name} has {before:.1%} of zeros already; `sparsity` is to be above that, not {settings.sparsity}"
        )
    keep_freed_memory()
    method = make(settings.method)
    method.begin(run)
    sparsifier = Pruner(run.weights, settings, None, method)
    for done in range(1, settings.rounds + 1):
        sparsifier.prune(done - 1, before + (settings.sparsity - before) * done / settings.rounds)
    _check(sparsifier, before, settings)


def _check(sparsifier: Pruner, before: float, settings: OneShot) -> None:
    """Raise unless the pruned weights are zero, and more of them than before."""
    for name, mask in sparsifier.masks.items():
        if sparsifier.weights[name][~mask].any():
            raise RuntimeError(f"{name} is not zero where it was pruned")
    if sparsifier.sparsity() <= before:
        raise UserError(
            f"a sparsity of {settings.sparsity} by `pattern: {settings.pattern}` prunes nothing here; raise it"
        )
