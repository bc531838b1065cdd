"""Sections of a recipe: the settings of each stage, as frozen validated objects.

Lengths of time (`warmup`, `start`, `end`, `until`, `every`) follow one rule, that of transformers' `warmup_steps`:
below 1 they are a fraction of the stage's steps, from 1 on they are steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pruneonce.config.formats import CORPUS, suffixes
from pruneonce.config.pattern import Pattern
from pruneonce.config.section import Section
from pruneonce.plugins import engine_names, format_names, installed_engines
from pruneonce.recipe.method import AnyMethod, must_work_in
from pruneonce.wording import percent_as_set

Objective = Literal["mlm", "hidden", "both"]
if TYPE_CHECKING:
    EngineName = str
    Format = str
else:
    EngineName, Format = Literal[engine_names()], Literal[format_names()]

LENGTH = "Below 1 it is a fraction of the stage's steps, from 1 on a number of steps."


class Corpus(Section):
    """Unlabelled text for `prepare` and `prune`: where it is, and how it is cut into blocks."""

    source: str = Field(
        description=f"File, folder of files, or hub id. Files end in {suffixes(CORPUS)}. A folder may also be one that "
        "`datasets` saved."
    )
    subset: str | None = Field(None, description="Configuration of a hub data set, such as 20231101.en.")
    split: str = Field("train", description="Split of a hub data set.")
    column: str = Field("text", description="Column with the text, in all files but .txt, and in hub data.")
    block_length: int = Field(128, ge=8, description="Tokens in a training block, special tokens included.")
    max_tokens: int | None = Field(
        None, ge=1, description="Tokens to read at most. Without it, all of the text is read."
    )
    validation: float = Field(
        0.01, gt=0, lt=0.5, description="Share of the blocks that is held out to measure the loss."
    )
    processes: int | None = Field(
        None,
        ge=1,
        description="Processes that prepare the blocks. Without it, one a core. Any number gives the same blocks.",
    )
    streaming: bool = Field(
        False,
        description="Prepare blocks while training goes on; keep none on disk. Stages then need `steps`.",
    )


class RolesOfModules(Section):
    """Modules of `model` by their roles, for a type beside the table of architectures. Paths are in the bare encoder.

    What is left out is found in the module tree.
    """

    layers: str | None = Field(
        None, min_length=1, description="List of blocks whose Linears are pruned, such as encoder.blocks."
    )
    pooler: str | None = Field(None, min_length=1, description="The pooler's Linear, pruned too.")
    attention: list[Annotated[str, Field(min_length=1)]] | None = Field(
        None,
        description="Linears for queries, keys and values in a block, whose relations can then be distilled: three "
        "names, or one of a Linear that makes all three side by side.",
    )

    @field_validator("attention")
    @classmethod
    def _three_or_one(cls, attention: list[str] | None) -> list[str] | None:
        if attention is not None and len(attention) not in (1, 3):
            raise ValueError("`attention` takes three names (queries, keys, values), or one of a Linear for all three")
        return attention

    @model_validator(mode="after")
    def _says_something(self) -> RolesOfModules:
        if not self.given():
            raise ValueError("`roles` is empty; give `layers`, `pooler` or `attention`, or leave it out")
        return self

    def given(self) -> dict[str, Any]:
        """Return what is given, by its name."""
        return self.model_dump(exclude_none=True)


class Training(Section):
    """Training of a stage. Exactly one of `steps` and `epochs` has to be given."""

    stage: ClassVar[str | None] = "finetune"  # methods name the stages that they work in; None: no method works here

    steps: int | None = Field(None, ge=1, description="Optimizer steps. Takes the place of `epochs`.")
    epochs: float | None = Field(
        None, gt=0, description="Passes over the data, such as 3 or 0.5. Takes the place of `steps`."
    )
    batch_size: int = Field(32, ge=1, description="Sequences in a batch, in each process.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are averaged into one optimizer step.")
    learning_rate: float = Field(gt=0, description="Peak learning rate of AdamW.")
    warmup: float = Field(
        0.0,
        ge=0,
        description="Length of the linear rise to the learning rate, which then falls linearly to 0. " + LENGTH,
    )
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Norm that gradients are clipped to.")
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Dropout probability while training; 0.0 suits distillation. Without it, the model's own.",
    )
    checkpoint_every: float | None = Field(
        None,
        gt=0,
        description="Time between checkpoints. Without it, an interrupted stage starts again. " + LENGTH,
    )
    activation_checkpointing: bool = Field(
        False,
        description="Keep only the inputs of layers and compute the rest again: less memory, about a third more time.",
    )
    compile: bool = Field(
        False, description="Use `torch.compile`. It can pay on a GPU; on the processors measured it gained nothing."
    )
    # An absent method is not in a stage's key, so that finished stages of recipes without methods stay valid.
    method: AnyMethod | None = Field(
        None,
        exclude_if=lambda method: method is None,
        description="Method beside gradual magnitude pruning, as a name or as a mapping of `name` and options; see "
        "`pruneonce methods list`. An error in stages that the method does not work in.",
    )

    @model_validator(mode="before")
    @classmethod
    def _not_swept(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("sweep") is not None and "sweep" not in cls.model_fields:
            raise ValueError("no `sweep` here; a recipe's `teacher`, `transfer` and `baselines.gradual` may have one")
        return values

    @model_validator(mode="after")
    def _method_works_here(self) -> Training:
        if self.method is not None:
            must_work_in(self.stage, self.method)
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        return self


class Distillation(Training):
    """Loss = task_weight * task loss + kd_weight * T^2 KL(teacher || student) + relation_weight * KL of relations."""

    temperature: float = Field(2.0, gt=0, description="Temperature T of the teacher's and the student's distributions.")
    task_weight: float = Field(0.5, ge=0, description="Weight of the loss of the labels or of the masked tokens.")
    kd_weight: float = Field(0.5, ge=0, description="Weight of the distance to the teacher's output.")
    relation_weight: float = Field(
        0.0,
        ge=0,
        exclude_if=lambda weight: weight == 0,
        description="Weight of the distance to the teacher's relations among queries, among keys and among values of "
        "tokens. An error together with `compile`.",
    )

    @model_validator(mode="after")
    def _relations_can_be_seen(self) -> Distillation:
        if self.relation_weight and self.compile:
            raise ValueError(
                "`relation_weight` looks into the model, which `compile: true` closes; leave one of them out"
            )
        return self


class Zeros(Section):
    """Zeros of a model: their share of the weights, their pattern, and their allocation to the layers."""

    sparsity: float = Field(0.9, ge=0, lt=1, description="Share of the encoder's Linear weights that ends as zeros.")
    allocation: Literal["uniform", "global"] = Field(
        "uniform",
        description="`uniform`: the same sparsity in every layer. `global`: one threshold over all layers.",
    )
    pattern: str = Field(
        "unstructured",
        exclude_if=lambda pattern: pattern == "unstructured",
        description="Weights that are pruned together: `unstructured` (each by itself), `row`, `column`, blocks of "
        "outputs x inputs such as `1x4`, or N:M such as `2:4`. An error where `sparsity` is below that of N:M.",
    )

    @field_validator("pattern", mode="before")
    @classmethod
    def _is_quoted(cls, pattern: Any) -> Any:
        if isinstance(pattern, int):
            raise ValueError('a pattern such as "2:4" wants quotes: without them YAML reads it as a number')
        return pattern

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        return Pattern.parse(pattern).name

    @model_validator(mode="after")
    def _reaches_the_pattern(self) -> Zeros:
        least = Pattern.parse(self.pattern).least_sparsity
        if self.sparsity < least:
            above = math.ceil(round(1e4 * least, 6)) / 1e4
            raise ValueError(
                f"`pattern: {self.pattern}` has at least {percent_as_set(above)} of zeros; raise `sparsity` to "
                f"{above:g}"
            )
        return self


class Sparsification(Zeros):
    """Gradual pruning: sparsity rises from `initial_sparsity` to `sparsity` between `start` and `end`, as a cubic."""

    initial_sparsity: float = Field(
        0.0, ge=0, lt=1, description="Share of zeros at `start`. An error where it is above `sparsity`."
    )
    nested: bool = Field(
        False, description="Keep a pruned weight pruned. Otherwise it may return at a mask update before `until`."
    )
    start: float = Field(0.0, ge=0, description="Time at which pruning begins. " + LENGTH)
    end: float = Field(0.5, gt=0, description="Time at which `sparsity` is reached. " + LENGTH)
    until: float = Field(
        0.8, gt=0, description="Time from which masks stay as they are; changes nothing if `nested`. " + LENGTH
    )
    every: float = Field(0.01, gt=0, description="Time between mask updates. " + LENGTH)
    rewind: bool = Field(True, description="Rewind the learning rate at each mask update between `start` and `end`.")

    @model_validator(mode="after")
    def _only_more_zeros(self) -> Sparsification:
        if self.initial_sparsity > self.sparsity:
            raise ValueError("`initial_sparsity` is above `sparsity`, which it grows to")
        return self


class Prepare(Training):
    """Teacher preparation: masked language modelling (MLM) of the dense model on the corpus."""

    stage: ClassVar[str | None] = None

    mlm_probability: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that is masked.")
    head_steps: float = Field(
        0.1,
        ge=0,
        description="Time for which a new MLM head is trained alone, where the model has none. " + LENGTH,
    )


class Prune(Distillation, Sparsification):
    """Sparse pre-training: gradual pruning of the dense model on the corpus, done once for all tasks."""

    stage: ClassVar[str | None] = "prune"
    objective: Objective = Field(
        "mlm",
        description="`mlm`: masked language modelling and distillation of its logits; needs an MLM head. `hidden`: "
        "distillation of hidden states; works for any encoder and is far cheaper. `both`: their sum.",
    )
    kd_tokens: Literal["all", "masked"] = Field(
        "all",
        description="Tokens whose logits are distilled: `all` that are not padding, or the `masked` ones, which is far "
        "cheaper.",
    )
    hidden_weight: float = Field(1.0, ge=0, description="Weight of the distance to the teacher's hidden states.")
    mlm_probability: float = Field(
        0.15, gt=0, lt=1, description="Share of the tokens that is masked, unless `objective` is `hidden`."
    )
    pieces: list[Annotated[int, Field(ge=1)]] = Field(
        [1],
        min_length=1,
        exclude_if=lambda pieces: pieces == [1],
        description="Numbers of texts that a block is cut into, since texts of tasks are short. A step draws one at "
        "even odds.",
    )


class Transfer(Distillation):
    """Fine-tuning of the sparse model on a task with its zeros locked."""

    stage: ClassVar[str | None] = "transfer"
    task_weight: float = Field(
        0.0, ge=0, description="Weight of the loss of the labels. With 0 they are learnt through the teacher alone."
    )
    kd_weight: float = Field(1.0, ge=0, description="Weight of the distance to the teacher's output.")
    hidden_weight: float | None = Field(
        None,
        ge=0,
        description="Weight of the distance to the teacher's hidden states, layer by layer. Without it, 10 in question "
        "answering and 1 in other tasks. 0 is the paper's, and for a teacher of another shape.",
    )
    freeze_embeddings: bool = Field(
        False,
        description="Keep the embeddings of the sparse model: fewer weights to train, and a packed family of tasks has "
        "one table.",
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> Transfer:
        if not self.task_weight and not self.kd_weight and self.hidden_weight == 0:
            raise ValueError("of `task_weight`, `kd_weight` and `hidden_weight` one at least has to be above 0")
        return self


class OneShot(Zeros):
    """Pruning of a fine-tuned task model without training it."""

    stage: ClassVar[str] = "one-shot"
    nested: ClassVar[bool] = True  # a round prunes more of the weights that the round before left

    rounds: int = Field(
        1, ge=1, description="Equal steps to prune in; each scores the weights that the step before kept."
    )
    batch_size: int = Field(16, ge=1, description="Examples in a batch that `method` takes gradients of.")
    method: AnyMethod | None = Field(
        None,
        description="Method that scores weights, such as `obert`. Without it, their magnitude does, and `rounds` and "
        "`batch_size` are errors.",
    )

    @model_validator(mode="after")
    def _method_works_here(self) -> OneShot:
        if self.method is not None:
            must_work_in(self.stage, self.method)
        elif idle := sorted({"rounds", "batch_size"} & self.model_fields_set):
            raise ValueError(f"`{idle[0]}` changes nothing by magnitude; give a `method`, or leave it out")
        return self


class Gradual(Transfer, Sparsification):
    """Baseline: prune the dense model gradually during fine-tuning, for each task anew."""

    stage: ClassVar[str | None] = "gradual"


class Benchmark(Section):
    """Speed of models: each engine times each model at every batch size and length, and on real texts."""

    engines: list[EngineName] = Field(
        default_factory=installed_engines,
        min_length=1,
        description="Engines to time the models in. Without it, all that are installed. A quantized model is not timed "
        "in `torch`, a model with a vocabulary head not in `pruneonce`.",
    )
    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field([1, 32], min_length=1, description="Texts in a batch.")
    lengths: list[Annotated[int, Field(ge=2)]] = Field(
        [32, 128],
        min_length=1,
        description="Tokens of every text in a batch. Real texts are cut at the largest.",
    )
    threads: int | None = Field(
        None, ge=1, description="Processor threads of every engine. Without it, as many as PyTorch takes."
    )
    seconds: float = Field(
        1.0, gt=0, description="Seconds to time a model for in each cell; it runs at least five times."
    )
    texts: int = Field(100, ge=0, description="Real texts to time at their own lengths, where there are any; 0: none.")
