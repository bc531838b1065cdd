"""Sparse pre-training, the step that is done once.

Three techniques work together: gradual magnitude pruning, distillation from the dense model that it starts from, and
learning-rate rewinding.

Source: Prune Once for All, https://arxiv.org/abs/2111.05754, section 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pruneonce.console import console
from pruneonce.data import vocabularies
from pruneonce.data.blocks import Collate, in_pieces, masked_collator, plain_collator
from pruneonce.data.corpus import corpus_key
from pruneonce.data.packing import frame_of
from pruneonce.errors import UserError
from pruneonce.losses.objectives import held_out_loss, likelihood_objective, pruning_objective
from pruneonce.losses.vocabulary import check_head
from pruneonce.models import (
    content_key,
    load_config,
    load_encoder,
    load_tokenizer,
    load_vocabulary_model,
    without_dropout,
)
from pruneonce.models.architectures import check_length, describe, freeze_embeddings, prunable_weights
from pruneonce.plugins import make
from pruneonce.recipe import Corpus, Prune
from pruneonce.sparsity import PruningSchedule, locked_masks, sparsity_of
from pruneonce.stages import keys
from pruneonce.stages.corpus_blocks import CorpusBlocks
from pruneonce.stages.output import Build, Origin, is_finished, unfinished
from pruneonce.system import distributed
from pruneonce.training import Job, examples_of, frozen_teacher
from pruneonce.training.sparsifier import Pruner

SHORTEST = 8  # tokens of a text, special tokens included; as of `corpus.block_length`


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
        model: dense model, a folder or hub id; with a `teacher`, a sparse model to go on from. The zeros it keeps from
            the first step on are those of `settings.initial_sparsity`.
        corpus: the text.
        settings: those of the stage.
        output: folder to write.
        teacher: the dense model, where `model` was pruned before.
        seed: of everything random.
        cache: folder for token blocks; None: inside the unfinished output, and so not kept.
        report_to: transformers' logging integrations.

    Raises:
        UserError: a mistake in the model, the corpus or the settings.
    """
    check_settings(settings)
    check_pieces(settings, corpus)
    if teacher is not None:
        check_same_shape(model, teacher)
        check_same_tokens(model, teacher)
    check_length(corpus.block_length, model, "corpus.block_length")
    tokenizer = load_tokenizer(model)
    text, of_teacher = corpus_key(corpus, tokenizer), None if teacher is None else content_key(teacher)
    key = keys.prune(content_key(model), text, settings, seed, teacher=of_teacher)
    device = distributed.start(seed)
    if is_finished(output, key, model, teacher):
        return output
    build = Build(output, seed, cache, report_to)
    with unfinished(output, key, model, teacher) as begun:
        student = load_dense(model, settings, settings.dropout)
        if teacher is not None:
            check_zeros_kept(model, student, settings)
        console.print("\n".join(f"  {line}" for line in describe(student).splitlines()))
        blocks = CorpusBlocks.read(corpus, settings, tokenizer, build.cache_in(begun), seed)
        dense = load_dense(teacher or model, settings, None)
        job = pruning_job(student, dense, blocks, settings, device, seed)
        trained = build.train(job, begun, "prune")
        final = held_out_loss(student, job.objective, blocks.held_out, _collator(blocks, settings, seed))
        student.requires_grad_(True)
        return build.save(student, Origin("prune", model, key, settings), trained, final)


def pruning_job(
    student: Any, teacher: Any, blocks: CorpusBlocks, settings: Prune, device: torch.device, seed: int
) -> Job:
    """Return the job that prunes `student` by distillation from the dense `teacher`; `load_dense` gives both."""
    teacher, steps = frozen_teacher(teacher, device), blocks.steps(settings)
    if settings.objective == "hidden":
        # The embeddings stay dense, and equal to the teacher's, from which its hidden states follow.
        freeze_embeddings(student)
    step_blocks, frame = examples_of(settings, 1), frame_of(blocks.tokenizer)
    method = make(settings.method)
    student.to(device)
    return Job(
        model=student,
        objective=pruning_objective(teacher, settings),
        examples=blocks.in_order(settings, steps, seed),
        collate=in_pieces(_collator(blocks, settings, seed), frame, settings.pieces, step_blocks, seed),
        settings=settings,
        steps=steps,
        length=blocks.length,
        sparsifier=Pruner(prunable_weights(student), settings, PruningSchedule.of(settings, steps), method),
        method=method,
        likelihood=likelihood_objective(settings),
    )


def _collator(blocks: CorpusBlocks, settings: Prune, seed: int) -> Collate:
    """Return the maker of batches of whole blocks, with masked tokens where the objective predicts them."""
    if settings.objective == "hidden":
        return plain_collator
    return masked_collator(blocks.tokenizer, settings.mlm_probability, seed)


def check_settings(settings: Prune) -> None:
    """Raise unless there is something to prune."""
    if settings.sparsity == 0:
        raise UserError("`sparsity: 0` prunes nothing; give the share of zeros to reach, such as 0.9")


def check_pieces(settings: Prune, corpus: Corpus) -> None:
    """Raise where blocks would be cut into pieces that are too short to learn from."""
    shortest = corpus.block_length // max(settings.pieces)
    if shortest < SHORTEST:
        raise UserError(
            f"`pieces: {settings.pieces}` cuts blocks of {corpus.block_length} tokens into texts of {shortest}; "
            f"{SHORTEST} are the least: cut into fewer, or raise `corpus.block_length`"
        )


def check_same_shape(model: str | Path, teacher: str | Path) -> None:
    """Raise unless a teacher's hidden states and vocabulary are like those of the model."""
    ours, theirs = (
        f"a {config.model_type} of {config.num_hidden_layers} layers, width {config.hidden_size} and "
        f"{config.vocab_size} words"
        for config in (load_config(source).get_text_config() for source in (model, teacher))
    )
    if ours != theirs:
        raise UserError(
            f"the teacher {teacher} is {theirs}, the model {ours}; the teacher is the dense model that {model} was "
            "pruned from"
        )


def check_same_tokens(model: str | Path, teacher: str | Path) -> None:
    """Raise unless a teacher reads the tokens of the model, which it is compared with at every token."""
    if which := vocabularies.difference(load_tokenizer(model), load_tokenizer(teacher)):
        raise UserError(
            f"the teacher {teacher} has {which}, but it is compared with {model} at every token; the teacher is the "
            "dense model that the sparse one was pruned from"
        )


def check_zeros_kept(source: str | Path, model: Any, settings: Prune) -> None:
    """Raise where a sparse model would lose its zeros before it gets more of them."""
    zeros = sparsity_of(locked_masks(prunable_weights(model)))
    if settings.initial_sparsity == 0 and zeros > 0.01:  # a dense model has some zeros by chance
        raise UserError(
            f"with `initial_sparsity: 0` all zeros of {source} would grow back first; set it to the share to keep, of "
            f"{zeros:.3g}"
        )


def load_dense(model: str | Path, settings: Prune, dropout: float | None, *, head_may_be_new: bool = False) -> Any:
    """Return the dense model as `settings.objective` needs it: the bare encoder, or with its MLM head.

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
    check_head(loaded, model)
    return loaded
