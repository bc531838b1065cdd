"""Teacher preparation: masked language modelling of the dense model on the corpus that it will be pruned on.

Prune Once for All (https://arxiv.org/abs/2111.05754), section 4. Needed only when the starting model was not trained on
just that text, or has no MLM head: it then gets a head, tied to its embeddings, which is trained alone first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pruneonce import training
from pruneonce.config.lengths import as_steps
from pruneonce.console import console
from pruneonce.data.blocks import masked_collator
from pruneonce.data.corpus import corpus_key
from pruneonce.losses.objectives import held_out_loss, mlm_objective
from pruneonce.losses.vocabulary import check_head
from pruneonce.models import content_key, load_config, load_tokenizer, load_vocabulary_model, without_dropout
from pruneonce.models.architectures import base_of, check_length
from pruneonce.recipe import Corpus, Prepare, changed
from pruneonce.stages import keys
from pruneonce.stages.corpus_blocks import CorpusBlocks
from pruneonce.stages.output import Build, Origin, is_finished, unfinished
from pruneonce.system import distributed
from pruneonce.training import Job, checkpoints


def prepare(
    model: str | Path,
    corpus: Corpus,
    settings: Prepare,
    output: Path,
    *,
    seed: int = 42,
    cache: Path | None = None,
    report_to: list[str] | None = None,
) -> Path:
    """Train `model` on `corpus` with the MLM loss and write it to `output`.

    Args:
        model: dense model, a folder or hub id.
        corpus: the text.
        settings: those of the stage.
        output: folder to write.
        seed: of everything random.
        cache: folder for token blocks; None: inside the unfinished output, and so not kept.
        report_to: transformers' logging integrations.

    Raises:
        UserError: a mistake in the model, the corpus or the settings.
    """
    check_length(corpus.block_length, model, "corpus.block_length")
    tokenizer = load_tokenizer(model)
    key = keys.prepare(content_key(model), corpus_key(corpus, tokenizer), settings, seed)
    device = distributed.start(seed)
    if is_finished(output, key, model):
        return output
    build = Build(output, seed, cache, report_to)
    with unfinished(output, key, model) as begun:
        blocks = CorpusBlocks.read(corpus, settings, tokenizer, build.cache_in(begun), seed)
        student, has_new_head = load_student(model, settings)
        if has_new_head and checkpoints.newest(begun / "checkpoints") is None:
            _train_head(head_job(student, blocks, settings, device, seed), begun / "head", seed)
        job = preparation_job(student, blocks, settings, device, seed)
        trained = build.train(job, begun, "prepare")
        final = held_out_loss(student, job.objective, blocks.held_out, job.collate)
        student.requires_grad_(True)
        return build.save(student, Origin("prepare", model, key, settings), trained, final)


def load_student(model: str | Path, settings: Prepare) -> tuple[Any, bool]:
    """Return the model with its MLM head, and whether that head is new."""
    student, has_new_head = load_vocabulary_model(model, **without_dropout(load_config(model), settings.dropout))
    check_head(student, model)
    return student, has_new_head


def preparation_job(student: Any, blocks: CorpusBlocks, settings: Prepare, device: torch.device, seed: int) -> Job:
    """Return the job that trains `student`, as `load_student` gives it.

    BERT's pooler and pair head are frozen, since the MLM loss does not reach them.
    """
    base_of(student).requires_grad_(True)  # `head_job` freezes it
    for name, parameter in student.named_parameters():
        if ".pooler." in name or ".seq_relationship." in name:
            parameter.requires_grad_(False)
    steps = blocks.steps(settings)
    return Job(
        model=student.to(device),
        objective=mlm_objective,
        examples=blocks.in_order(settings, steps, seed),
        collate=masked_collator(blocks.tokenizer, settings.mlm_probability, seed),
        settings=settings,
        steps=steps,
        length=blocks.length,
    )


def head_job(student: Any, blocks: CorpusBlocks, settings: Prepare, device: torch.device, seed: int) -> Job:
    """Return the job that trains the new MLM head alone, so that its first gradients do not spoil the encoder."""
    steps = max(1, as_steps(settings.head_steps, blocks.steps(settings)))
    alone = changed(settings, {"steps": steps, "warmup": 0.0, "checkpoint_every": None})
    job = preparation_job(student, blocks, alone, device, seed)
    base_of(student).requires_grad_(False)
    return job


def _train_head(job: Job, folder: Path, seed: int) -> None:
    console.print(
        f"  the model has no MLM head: a new one, tied to the embeddings, is trained alone for {job.steps} steps"
    )
    training.train(job, folder, "MLM head", seed=seed)
