"""Work of a recipe's stages on the corpus, as far as it is known without running them: steps, tokens, arithmetic.

FLOPs are those of the matrix products, a multiplication and an addition being two. Of n tokens in a sequence, T tokens
in all (padding included), W weights in the encoder's Linear layers and in the MLM head before its vocabulary matrix, L
layers of width d:

    forward      F = T (2 W + 4 L n d)         the products with the weights, Q K^T and the scores with V
    training     3 F                           the backward pass is twice the forward; 4 F with activation checkpointing
    teacher      F                             wherever there is distillation
    vocabulary   2 V R a product               V entries of the matrix, R rows: all tokens, or the masked ones where
                                               only they count; 3 products for the student, 1 for the teacher
    methods      all of it as often as the method of a stage goes over each batch

Modules with one row a sequence (pooler, classifier) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import AutoModel, AutoModelForMaskedLM

from pruneonce.config.lengths import as_steps
from pruneonce.data.size import count_blocks
from pruneonce.models import check_weights, load_config, load_tokenizer, load_vocabulary_model
from pruneonce.plan.jobs import Stage, TaskSample
from pruneonce.plugins import plugins
from pruneonce.recipe import Prepare, Prune, Recipe, Training, Transfer
from pruneonce.sparsity import PruningSchedule
from pruneonce.stages.prune import check_pieces, check_settings, load_dense
from pruneonce.training import examples_of, total_steps

BYTES = 4  # of a weight, a moment and a token


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    Attributes:
        weights: of the Linear layers that every token goes through, the vocabulary matrix excepted.
        vocabulary: entries of that matrix, 0 without an MLM head.
        parameters: all of them.
    """

    weights: int
    vocabulary: int
    parameters: int
    layers: int
    width: int

    @classmethod
    def of(cls, source: str, vocabulary: bool) -> Shape:
        """Return the sizes of the model `source`, with its MLM head or without."""
        config = load_config(source).get_text_config()
        model = check_weights(source, AutoModelForMaskedLM if vocabulary else AutoModel)
        decoder = model.get_output_embeddings() if vocabulary else None
        weights = sum(
            module.weight.numel()
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not decoder and "pooler" not in name
        )
        return cls(
            weights,
            0 if decoder is None else decoder.weight.numel(),
            sum(parameter.numel() for parameter in model.parameters()),
            config.num_hidden_layers,
            config.hidden_size,
        )


@dataclass(frozen=True)
class Work:
    """Work of a stage, or of a prediction by a finished model, as far as it is known without running it.

    Attributes:
        name: as in summary.json; further ones for a new MLM head, calibration and the evaluation.
        steps: optimizer steps; batches where nothing is trained; None: not known.
        tokens: without padding, as a stage records them.
        padded: tokens with padding.
        rows: sequences in a step.
        length: tokens of a sequence, padding included, on average.
        longest: tokens of a sequence in the longest batch, padding included.
        candidates: models that are trained, all of them counted above; of several the best is kept.
        sample: of the task that is trained on.
    """

    name: str
    kind: Stage
    model: str
    settings: Training | None
    steps: int | None
    tokens: int | None
    padded: float | None
    rows: int
    length: int
    longest: int
    candidates: int = 1
    sample: TaskSample | None = None

    def has_vocabulary(self) -> bool:
        """Return whether the model has its MLM head."""
        settings = self.settings
        return isinstance(settings, Prepare) or (isinstance(settings, Prune) and settings.objective != "hidden")

    def shape(self) -> Shape:
        """Return the sizes of the model at work."""
        return Shape.of(self.model, self.has_vocabulary())

    def flops(self) -> float | None:
        """Return the floating-point operations, by the formulas of this module; None if steps are not known."""
        if self.padded is None:
            return None
        settings, shape = self.settings, self.shape()
        forward = self.padded * (2 * shape.weights + 4 * shape.layers * shape.width * self.length)
        passes = 0 if settings is None or self.kind == "head" else 3 if settings.activation_checkpointing else 2
        passes += 2 if isinstance(settings, (Prune, Transfer)) else 1
        times = plugins()[settings.method.name].passes if settings and settings.method else 1
        if not self.has_vocabulary():
            return times * passes * forward
        assert isinstance(settings, (Prepare, Prune))
        every_token = isinstance(settings, Prune) and settings.kd_tokens == "all"
        rows = self.padded * (1 if every_token else settings.mlm_probability)
        return times * (passes * forward + (4 if self.kind == "prune" else 3) * 2 * shape.vocabulary * rows)


def corpus_works(recipe: Recipe, notes: list[str]) -> tuple[list[Work], int | None]:
    """Return the work of the stages on the corpus, and the number of blocks on disk; `notes` gets how that is known.

    Raises:
        UserError: a mistake in the model, the corpus or the settings.
    """
    if recipe.pretraining is None:
        notes.append(f"The sparse encoder is {recipe.sparse} as it is, so nothing is trained on a corpus.")
        return [], 0
    corpus, settings = recipe.pretraining
    check_settings(settings)
    check_pieces(settings, corpus)
    blocks, how = count_blocks(corpus, load_tokenizer(recipe.model))
    size = "an unknown number of blocks; the number" if blocks is None else f"{blocks:,} blocks"
    notes.append(f"The corpus has {size} {how}.")
    examples = None if blocks is None else blocks - max(1, round(corpus.validation * blocks))
    works, length = [], corpus.block_length
    if recipe.prepare:
        _, new_head = load_vocabulary_model(recipe.model)
        whole = _corpus_work("teacher", "prepare", recipe, recipe.prepare, examples, length)
        if new_head:
            steps = None if whole.steps is None else max(1, as_steps(recipe.prepare.head_steps, whole.steps))
            works.append(_corpus_work("teacher: new MLM head", "head", recipe, recipe.prepare, examples, length, steps))
        works.append(whole)
    else:
        load_dense(recipe.model, settings, None)  # raises where an MLM head is missing
    works.append(_corpus_work("sparse", "prune", recipe, settings, examples, length))
    if works[-1].steps is not None:
        PruningSchedule.of(settings, works[-1].steps)  # raises where it does not fit
    if works[-1].steps is None:
        notes.append("Set `steps` instead of `epochs`, or `corpus.max_tokens`, to have hours for every stage.")
    return works, 0 if corpus.streaming else blocks


def _corpus_work(
    name: str,
    kind: Stage,
    recipe: Recipe,
    settings: Training,
    examples: int | None,
    length: int,
    steps: int | None = None,
) -> Work:
    if steps is None and (settings.steps or examples is not None):
        steps = settings.steps or total_steps(settings, examples or 0)
    tokens = None if steps is None else examples_of(settings, steps) * length
    rows = examples_of(settings, 1)
    return Work(name, kind, recipe.model, settings, steps, tokens, tokens, rows, length, length)
