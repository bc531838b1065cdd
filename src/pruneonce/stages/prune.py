"""Sparse pre-training, the step that is done once.

Gradual magnitude pruning, distillation from the dense model that it starts from, and learning-rate rewinding, together.

Source: Prune Once for All, https://arxiv.org/abs/2111.05754, section 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruneonce import modelfolder
from pruneonce.console import console
from pruneonce.data.blocks import in_order, masked_collator, plain_collator
from pruneonce.data.corpus import corpus_key
from pruneonce.errors import UserError
from pruneonce.methods import make
from pruneonce.recipe import Corpus, Prune
from pruneonce.recipe.pattern import Pattern
from pruneonce.sparsity import (
    PruningSchedule,
    apply_masks,
    base_of,
    describe,
    magnitude_masks,
    prunable_weights,
)
from pruneonce.sparsity.sparsifier import Gradual
from pruneonce.stages.common import begin, check_length, corpus_blocks, finish, freeze, is_made, tidy
from pruneonce.stages.objectives import held_out_loss, likelihood_objective, load_vocabulary_model, pruning_objective
from pruneonce.training import examples_of, train


@tidy
def prune(
    model: str | Path,
    corpus: Corpus,
    settings: Prune,
    output: Path,
    *,
    seed: int = 42,
    cache: Path | None = None,
    report_to: list[str] | None = None,
) -> Path:
    """Make a sparse pre-trained model of the dense `model`, which is also the teacher.

    Args:
        cache: where token blocks are kept; inside the unfinished output, and so not kept, if None.

    Raises:
        UserError: a mistake in the model, the corpus or the settings.
    """
    check_settings(settings)
    check_length(corpus.block_length, model, "corpus.block_length")
    tokenizer = modelfolder.load_tokenizer(model)
    key = modelfolder.key_of(
        "prune", modelfolder.content_key(model), corpus_key(corpus, tokenizer), settings.model_dump(), seed
    )
    device = begin(seed)
    if is_made(output, key):
        return output
    begun = modelfolder.partial(output)
    student = load_dense(model, settings, settings.dropout)
    console.print("\n".join(f"  {line}" for line in describe(student).splitlines()))
    blocks, held_out, steps = corpus_blocks(corpus, settings, tokenizer, cache or begun / "cache", seed)
    teacher = freeze(load_dense(model, settings, None), device)
    student.to(device)
    if settings.objective == "hidden":
        # The teacher's own embeddings are the right ones for its hidden states, and they stay dense.
        base_of(student).embeddings.requires_grad_(False)
    weights = prunable_weights(student)
    objective = pruning_objective(teacher, settings)
    masked = settings.objective != "hidden"
    collate = masked_collator(tokenizer, settings.mlm_probability, seed) if masked else plain_collator
    method = make(settings.method)
    sparsifier = Gradual(weights, settings, PruningSchedule.of(settings, steps), method)
    trained = train(
        student,
        objective,
        in_order(blocks, examples_of(settings, steps), seed),
        collate,
        settings,
        steps=steps,
        length=corpus.block_length,
        folder=begun,
        title="prune",
        seed=seed,
        report_to=report_to,
        sparsifier=sparsifier,
        method=method,
        likelihood=likelihood_objective(settings),
    )
    final = held_out_loss(student, objective, held_out, collate)
    student.requires_grad_(True)
    return finish(
        student,
        tokenizer,
        output,
        stage="prune",
        source=model,
        key=key,
        settings=settings,
        seed=seed,
        trained=trained,
        final=final,
    )


@tidy
def prune_one_shot(model: str | Path, settings: Prune, output: Path, *, seed: int = 42) -> Path:
    """The contrast: magnitude pruning to the same sparsity in one step, without any training."""
    check_settings(settings)
    begin(seed)
    asked = [
        settings.sparsity,
        settings.allocation,
        *([settings.pattern] if "pattern" in settings.model_dump() else []),
    ]
    key = modelfolder.key_of("prune-one-shot", modelfolder.content_key(model), *asked, seed)
    if is_made(output, key):
        return output
    student = modelfolder.load_encoder(model)
    weights = prunable_weights(student)
    pattern = Pattern.parse(settings.pattern)
    apply_masks(weights, magnitude_masks(weights, settings.sparsity, settings.allocation, pattern=pattern))
    tokenizer = modelfolder.load_tokenizer(model)
    return finish(
        student,
        tokenizer,
        output,
        stage="prune-one-shot",
        source=model,
        key=key,
        settings=settings,
        seed=seed,
    )


def check_settings(settings: Prune) -> None:
    """Raise unless there is something to prune."""
    if settings.sparsity == 0:
        raise UserError("`sparsity: 0` prunes nothing; give the share of zeros to reach, such as 0.9")


def load_dense(model: str | Path, settings: Prune, dropout: float | None, *, head_may_be_new: bool = False) -> Any:
    """The dense model as `settings.objective` needs it: the bare encoder, or with its MLM head.

    Raises:
        UserError: the model has no MLM head, the objective needs one, and it may not be new.
    """
    overrides = modelfolder.without_dropout(modelfolder.load_config(model), dropout)
    if settings.objective == "hidden":
        return modelfolder.load_encoder(model, **overrides)
    loaded, new_head = load_vocabulary_model(model, **overrides)
    if new_head and not head_may_be_new:
        raise UserError(
            f"{model} has no MLM head, which `objective: {settings.objective}` needs; "
            "run the stage `prepare` first, or use `objective: hidden`"
        )
    return loaded
