"""Sparse pre-training, the step that is done once.

Gradual magnitude pruning, distillation from the dense model that it starts from, and learning-rate rewinding, together.

Source: Prune Once for All, https://arxiv.org/abs/2111.05754, section 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruneonce.config.pattern import Pattern
from pruneonce.console import console
from pruneonce.data.blocks import in_order, in_pieces, masked_collator, plain_collator
from pruneonce.data.corpus import corpus_key
from pruneonce.data.packing import frame_of
from pruneonce.errors import UserError
from pruneonce.losses.objectives import held_out_loss, likelihood_objective, pruning_objective
from pruneonce.models import (
    content_key,
    key_of,
    load_config,
    load_encoder,
    load_tokenizer,
    load_vocabulary_model,
    without_dropout,
)
from pruneonce.models.architectures import base_of, check_length, describe, prunable_weights
from pruneonce.plugins import make
from pruneonce.recipe import Corpus, Prune
from pruneonce.sparsity import PruningSchedule, apply_masks, magnitude_masks
from pruneonce.stages.common import begin, corpus_blocks, finish, freeze, is_made, tidy
from pruneonce.system import durable
from pruneonce.training import examples_of, train
from pruneonce.training.sparsifier import Gradual, Locked

SHORTEST = 8  # tokens of a text, special tokens included; as of `corpus.block_length`


@tidy
def prune(
    model: str | Path,
    corpus: Corpus,
    settings: Prune,
    output: Path,
    *,
    teacher: str | Path | None = None,
    seed: int = 42,
    cache: Path | None = None,
    report_to: list[str] | None = None,
) -> Path:
    """Make a sparse pre-trained model of the dense `model`, which is also the teacher.

    Args:
        teacher: the dense model, where `model` is one that was pruned before and is to go on from there. The zeros it
            keeps from the first step on are those of `settings.initial_sparsity`.
        cache: where token blocks are kept; inside the unfinished output, and so not kept, if None.

    Raises:
        UserError: a mistake in the model, the corpus or the settings.
    """
    check_settings(settings)
    check_pieces(settings, corpus)
    if teacher is not None:
        check_same_shape(model, teacher)
    check_length(corpus.block_length, model, "corpus.block_length")
    tokenizer = load_tokenizer(model)
    of_teacher = [] if teacher is None else [content_key(teacher)]
    key = key_of("prune", content_key(model), *of_teacher, corpus_key(corpus, tokenizer), settings.model_dump(), seed)
    device = begin(seed)
    if is_made(output, key):
        return output
    begun = durable.partial(output)
    student = load_dense(model, settings, settings.dropout)
    if teacher is not None:
        check_zeros_kept(model, student, settings)
    console.print("\n".join(f"  {line}" for line in describe(student).splitlines()))
    blocks, held_out, steps = corpus_blocks(corpus, settings, tokenizer, cache or begun / "cache", seed)
    teaching = freeze(load_dense(teacher or model, settings, None), device)
    student.to(device)
    if settings.objective == "hidden":
        # The teacher's own embeddings are the right ones for its hidden states, and they stay dense.
        base_of(student).embeddings.requires_grad_(False)
    weights = prunable_weights(student)
    objective = pruning_objective(teaching, settings)
    masked = settings.objective != "hidden"
    collate = masked_collator(tokenizer, settings.mlm_probability, seed) if masked else plain_collator
    method = make(settings.method)
    sparsifier = Gradual(weights, settings, PruningSchedule.of(settings, steps), method)
    trained = train(
        student,
        objective,
        in_order(blocks, examples_of(settings, steps), seed),
        in_pieces(collate, frame_of(tokenizer), settings.pieces, examples_of(settings, 1), seed),
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
    key = key_of("prune-one-shot", content_key(model), *asked, seed)
    if is_made(output, key):
        return output
    student = load_encoder(model)
    weights = prunable_weights(student)
    pattern = Pattern.parse(settings.pattern)
    apply_masks(weights, magnitude_masks(weights, settings.sparsity, settings.allocation, pattern=pattern))
    tokenizer = load_tokenizer(model)
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


def check_pieces(settings: Prune, corpus: Corpus) -> None:
    """Raise where blocks would be cut too short to say anything."""
    shortest = corpus.block_length // max(settings.pieces)
    if shortest < SHORTEST:
        raise UserError(
            f"`pieces: {settings.pieces}` cuts blocks of {corpus.block_length} tokens into texts of {shortest}; "
            f"{SHORTEST} are the least: cut into fewer, or raise `corpus.block_length`"
        )


def check_same_shape(model: str | Path, teacher: str | Path) -> None:
    """Raise unless a teacher's hidden states and words are those of the model."""
    ours, theirs = (
        f"a {config.model_type} of {config.num_hidden_layers} layers, width {config.hidden_size} and "
        f"{config.vocab_size} words"
        for config in map(load_config, (model, teacher))
    )
    if ours != theirs:
        raise UserError(
            f"the teacher {teacher} is {theirs}, the model {ours}; the teacher is the dense model that {model} was "
            "pruned from"
        )


def check_zeros_kept(source: str | Path, model: Any, settings: Prune) -> None:
    """Raise where a sparse model would lose its zeros before it gets more of them."""
    zeros = Locked(prunable_weights(model)).sparsity()
    if settings.initial_sparsity == 0 and zeros > 0.01:  # a dense model has some by chance
        raise UserError(
            f"with `initial_sparsity: 0` all zeros of {source} would grow back first; set it to the share to keep, of "
            f"{zeros:.3g}"
        )


def load_dense(model: str | Path, settings: Prune, dropout: float | None, *, head_may_be_new: bool = False) -> Any:
    """The dense model as `settings.objective` needs it: the bare encoder, or with its MLM head.

    Raises:
        UserError: the model has no MLM head, the objective needs one, and it may not be new.
    """
    overrides = without_dropout(load_config(model), dropout)
    if settings.objective == "hidden":
        return load_encoder(model, **overrides)
    loaded, new_head = load_vocabulary_model(model, **overrides)
    if new_head and not head_may_be_new:
        raise UserError(
            f"{model} has no MLM head, which `objective: {settings.objective}` needs; "
            "run the stage `prepare` first, or use `objective: hidden`"
        )
    return loaded
