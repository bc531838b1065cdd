"""The sections of a recipe: what each stage takes, as frozen validated objects.

Lengths of time (`warmup`, `start`, `end`, `until`, `every`) follow one rule, that of transformers' `warmup_steps`:
below 1 they are a fraction of the stage's steps, from 1 on they are steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pruneonce.config.pattern import Pattern
from pruneonce.config.section import Section
from pruneonce.plugins import engine_names, format_names
from pruneonce.recipe.method import AnyMethod, must_work_in

Objective = Literal["mlm", "hidden", "both"]
if TYPE_CHECKING:
    EngineName = str
    Format = str
else:
    EngineName, Format = Literal[engine_names()], Literal[format_names()]


class Corpus(Section):
    """Unlabelled text. `source` is a file, a folder of files, or a hub id."""

    source: str = Field(
        description="text, JSONL or Parquet file (may be .gz, .bz2, .xz), a folder of them, or a hub id"
    )
    subset: str | None = Field(None, description="configuration of a hub data set, such as 20220301.en")
    split: str = Field("train", description="split of a hub data set")
    column: str = Field("text", description="the column that holds the text in JSONL, Parquet and hub data")
    block_length: int = Field(128, ge=8, description="tokens in a training block, special tokens included")
    max_tokens: int | None = Field(None, ge=1, description="stop reading after this many tokens")
    validation: float = Field(0.01, gt=0, lt=0.5, description="share of the blocks held out to measure the loss")
    processes: int | None = Field(None, ge=1, description="processes that prepare the blocks; none: one a core")
    streaming: bool = Field(False, description="prepare blocks on the fly, and keep none on disk")


class Training(Section):
    """How a stage trains: either `steps` or `epochs`."""

    stage: ClassVar[str | None] = "finetune"  # that methods say whether they work in it; None: none does

    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(32, ge=1, description="sequences a step on each device")
    accumulate: int = Field(1, ge=1, description="batches whose gradients are summed into one step")
    learning_rate: float = Field(gt=0)
    warmup: float = Field(0.0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    dropout: float | None = Field(None, ge=0, lt=1, description="overrides the model's own dropout while training")
    checkpoint_every: float | None = Field(None, gt=0, description="save a checkpoint to resume from this often")
    activation_checkpointing: bool = Field(
        False, description="keep only the layers' inputs and compute the rest again: less memory, a third more time"
    )
    compile: bool = Field(False, description="torch.compile; worth its minutes on a GPU, no gain on processors")
    # What is not asked for is not in what a finished stage is known by, so that older results stay valid.
    method: AnyMethod | None = Field(
        None, exclude_if=lambda method: method is None, description="a further method, see `pruneonce methods list`"
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

    temperature: float = Field(2.0, gt=0)
    task_weight: float = Field(0.5, ge=0)
    kd_weight: float = Field(0.5, ge=0)
    relation_weight: float = Field(
        0.0,
        ge=0,
        exclude_if=lambda weight: weight == 0,
        description="of a loss of how queries, keys and values of tokens are related to each other",
    )

    @model_validator(mode="after")
    def _relations_can_be_seen(self) -> Distillation:
        if self.relation_weight and self.compile:
            raise ValueError(
                "`relation_weight` looks into the model, which `compile: true` closes; leave one of them out"
            )
        return self


class Zeros(Section):
    """How many weights are pruned, which together, and how they are shared out over the layers."""

    sparsity: float = Field(0.9, ge=0, lt=1)
    allocation: Literal["uniform", "global"] = Field(
        "uniform", description="the same sparsity in every layer, or one threshold over all of them"
    )
    pattern: str = Field(
        "unstructured",
        exclude_if=lambda pattern: pattern == "unstructured",
        description="what is pruned together: unstructured, row, column, blocks such as 1x4, or N:M such as 2:4",
    )

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        return Pattern.parse(pattern).name

    @model_validator(mode="after")
    def _reaches_the_pattern(self) -> Zeros:
        least = Pattern.parse(self.pattern).least_sparsity
        if self.sparsity < least:
            raise ValueError(f"`pattern: {self.pattern}` has at least {least:.0%} of zeros; raise `sparsity` to it")
        return self


class Sparsification(Zeros):
    """Gradual magnitude pruning: cubic from `initial_sparsity` to `sparsity` between `start` and `end`."""

    initial_sparsity: float = Field(0.0, ge=0, lt=1)
    nested: bool = Field(False, description="a pruned weight stays pruned; else it may re-enter until `until`")
    start: float = Field(0.0, ge=0)
    end: float = Field(0.5, gt=0)
    until: float = Field(0.8, gt=0, description="masks are frozen from here on (matters unless nested)")
    every: float = Field(0.01, gt=0, description="time between mask updates")
    rewind: bool = Field(True, description="rewind the learning rate at each mask update between start and end")

    @model_validator(mode="after")
    def _only_more_zeros(self) -> Sparsification:
        if self.initial_sparsity > self.sparsity:
            raise ValueError("`initial_sparsity` is above `sparsity`, which it grows to")
        return self


class Prepare(Training):
    """Teacher preparation: masked language modelling of the dense model on the corpus."""

    stage: ClassVar[str | None] = None

    mlm_probability: float = Field(0.15, gt=0, lt=1)
    head_steps: float = Field(0.1, ge=0, description="train a new MLM head alone first, for this long")


class Prune(Distillation, Sparsification):
    """Sparse pre-training, the step that is done once."""

    stage: ClassVar[str | None] = "prune"
    objective: Objective = Field(
        "mlm",
        description="mlm: masked language modelling and distillation of its logits (needs an MLM head); "
        "hidden: distillation of hidden states (any encoder, far cheaper); both: their sum",
    )
    kd_tokens: Literal["all", "masked"] = Field(
        "all", description="distil the logits of all tokens that are not padding, or of the masked ones, far cheaper"
    )
    hidden_weight: float = Field(1.0, ge=0)
    mlm_probability: float = Field(0.15, gt=0, lt=1)
    pieces: list[Annotated[int, Field(ge=1)]] = Field(
        [1],
        min_length=1,
        exclude_if=lambda pieces: pieces == [1],
        description="cut a step's blocks into so many texts each, drawn for every step: texts of tasks are short",
    )


class Transfer(Distillation):
    """Fine-tuning of the sparse model on a task with its zeros locked."""

    stage: ClassVar[str | None] = "transfer"
    task_weight: float = Field(0.0, ge=0)
    kd_weight: float = Field(1.0, ge=0)
    hidden_weight: float | None = Field(None, ge=0, description="of hidden states' loss; left out: by the kind of task")
    freeze_embeddings: bool = Field(False, description="keep the embeddings as they are in the model it starts from")

    @model_validator(mode="after")
    def _something_to_learn(self) -> Transfer:
        if not self.task_weight and not self.kd_weight and self.hidden_weight == 0:
            raise ValueError("of `task_weight`, `kd_weight` and `hidden_weight` one at least has to be above 0")
        return self


class OneShot(Zeros):
    """Pruning of a finished task model without training it."""

    stage: ClassVar[str] = "one-shot"
    nested: ClassVar[bool] = True  # a round prunes more of what the one before left

    rounds: int = Field(1, ge=1, description="prune in so many even steps, each judged by what the last one left")
    batch_size: int = Field(16, ge=1, description="examples in a batch that a method takes gradients of")
    method: AnyMethod | None = Field(None, description="what judges weights; none: their magnitude")

    @model_validator(mode="after")
    def _method_works_here(self) -> OneShot:
        if self.method is not None:
            must_work_in(self.stage, self.method)
        elif idle := sorted({"rounds", "batch_size"} & self.model_fields_set):
            raise ValueError(f"`{idle[0]}` changes nothing by magnitude; give a `method`, or leave it out")
        return self


class Gradual(Transfer, Sparsification):
    """The rival: prune the dense model gradually during fine-tuning, task by task."""

    stage: ClassVar[str | None] = "gradual"


class Benchmark(Section):
    """How fast models are: engines, times batch sizes, times lengths, and real texts beside them."""

    engines: list[EngineName] = Field(list(engine_names()), min_length=1)
    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field([1, 32], min_length=1, description="texts in a batch")
    lengths: list[Annotated[int, Field(ge=2)]] = Field([32, 128], min_length=1, description="tokens of every text")
    threads: int | None = Field(None, ge=1, description="of the processor, for every engine; none: as PyTorch chooses")
    seconds: float = Field(1.0, gt=0, description="time each model for about so long in each cell of the grid")
    texts: int = Field(100, ge=0, description="real texts to time at their own lengths; 0: none")
