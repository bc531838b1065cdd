"""Teacher preparation: masked language modelling of the dense model on the corpus that it will be pruned on.

Prune Once for All (https://arxiv.org/abs/2111.05754), section 4. Needed only when the starting model was not trained on
just that text, or has no MLM head: it then gets one, tied to its embeddings, which is trained alone first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruneonce.config.lengths import as_steps
from pruneonce.console import console
from pruneonce.data.blocks import Collate, in_order, masked_collator
from pruneonce.data.corpus import corpus_key
from pruneonce.losses.objectives import held_out_loss, mlm_objective
from pruneonce.models import content_key, key_of, load_config, load_tokenizer, load_vocabulary_model, without_dropout
from pruneonce.models.architectures import base_of, check_length
from pruneonce.recipe import Corpus, Prepare, changed
from pruneonce.stages.common import begin, corpus_blocks, finish, is_made, tidy
from pruneonce.system import durable
from pruneonce.training import checkpoints, examples_of, train


@tidy
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
        cache: where token blocks are kept; inside the unfinished output, and so not kept, if None.

    Raises:
        UserError: a mistake in the model, the corpus or the settings.
    """
    check_length(corpus.block_length, model, "corpus.block_length")
    tokenizer = load_tokenizer(model)
    key = key_of("prepare", content_key(model), corpus_key(corpus, tokenizer), settings.model_dump(), seed)
    device = begin(seed)
    if is_made(output, key):
        return output
    begun = durable.partial(output)
    blocks, held_out, steps = corpus_blocks(corpus, settings, tokenizer, cache or begun / "cache", seed)
    config = load_config(model)
    teacher, new_head = load_vocabulary_model(model, **without_dropout(config, settings.dropout))
    teacher.to(device)
    collate = masked_collator(tokenizer, settings.mlm_probability, seed)
    if new_head and checkpoints.newest(begun / "checkpoints") is None:
        head_steps = max(1, as_steps(settings.head_steps, steps))
        alone = changed(settings, {"steps": head_steps, "warmup": 0.0, "checkpoint_every": None})
        _train_head(teacher, blocks, collate, alone, head_steps, corpus.block_length, begun / "head", seed)
    freeze_untrained(teacher)
    trained = train(
        teacher,
        mlm_objective,
        in_order(blocks, examples_of(settings, steps), seed),
        collate,
        settings,
        steps=steps,
        length=corpus.block_length,
        folder=begun,
        title="prepare",
        seed=seed,
        report_to=report_to,
    )
    final = held_out_loss(teacher, mlm_objective, held_out, collate)
    teacher.requires_grad_(True)
    return finish(
        teacher,
        tokenizer,
        output,
        stage="prepare",
        source=model,
        key=key,
        settings=settings,
        seed=seed,
        trained=trained,
        final=final,
    )


def freeze_untrained(model: Any) -> None:
    """BERT's pooler and its head for sentence pairs: the MLM loss does not reach them."""
    base_of(model).requires_grad_(True)
    for name, parameter in model.named_parameters():
        if ".pooler." in name or ".seq_relationship." in name:
            parameter.requires_grad_(False)


def _train_head(
    teacher: Any, blocks: Any, collate: Collate, settings: Prepare, steps: int, length: int, folder: Path, seed: int
) -> None:
    """Train a new MLM head with everything else frozen, so that its first gradients do not spoil the encoder."""
    console.print(f"  the model has no MLM head: a new one, tied to the embeddings, is trained alone for {steps} steps")
    freeze_untrained(teacher)
    base_of(teacher).requires_grad_(False)
    train(
        teacher,
        mlm_objective,
        in_order(blocks, examples_of(settings, steps), seed),
        collate,
        settings,
        steps=steps,
        length=length,
        folder=folder,
        title="MLM head",
        seed=seed,
    )
