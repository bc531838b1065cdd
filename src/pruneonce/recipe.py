"""The recipe: what to run, as frozen validated objects. A recipe is data; nothing here starts work.

Lengths of time (`warmup`, `start`, `end`, `until`, `every`) follow one rule, that of transformers' `warmup_steps`:
below 1 they are a fraction of the stage's steps, from 1 on they are steps.
"""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pruneonce import safe_yaml
from pruneonce.errors import UserError
from pruneonce.validation import validate

Objective = Literal["mlm", "hidden", "both"]
EngineName = Literal["torch", "onnxruntime", "openvino"]
Granularity = Literal["channel", "tensor", "group"]
Format = Literal["onnx", "openvino"]
RECIPES = Path(str(resources.files("pruneonce") / "recipes"))


def as_steps(length: float, total: int) -> int:
    """`length` in steps: a fraction of `total` when below 1, steps otherwise."""
    return round(length * total) if length < 1 else round(length)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


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

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        return self


class Distillation(Section):
    """Loss = task_weight * task loss + kd_weight * T^2 KL(teacher || student)."""

    temperature: float = Field(2.0, gt=0)
    task_weight: float = Field(0.5, ge=0)
    kd_weight: float = Field(0.5, ge=0)


class Sparsification(Section):
    """Gradual magnitude pruning: cubic from `initial_sparsity` to `sparsity` between `start` and `end`."""

    sparsity: float = Field(0.9, ge=0, lt=1)
    initial_sparsity: float = Field(0.0, ge=0, lt=1)
    allocation: Literal["uniform", "global"] = Field(
        "uniform", description="the same sparsity in every layer, or one threshold over all of them"
    )
    nested: bool = Field(True, description="a pruned weight stays pruned; false: it may re-enter until `until`")
    start: float = Field(0.0, ge=0)
    end: float = Field(0.5, gt=0)
    until: float = Field(0.8, gt=0, description="masks are frozen from here on (matters when nested is false)")
    every: float = Field(0.01, gt=0, description="time between mask updates")
    rewind: bool = Field(True, description="rewind the learning rate at each mask update between start and end")

    @model_validator(mode="after")
    def _only_more_zeros(self) -> Sparsification:
        if self.initial_sparsity > self.sparsity:
            raise ValueError("`initial_sparsity` is above `sparsity`, which it grows to")
        return self


class Prepare(Training):
    """Teacher preparation: masked language modelling of the dense model on the corpus."""

    mlm_probability: float = Field(0.15, gt=0, lt=1)
    head_steps: float = Field(0.1, ge=0, description="train a new MLM head alone first, for this long")


class Prune(Training, Distillation, Sparsification):
    """Sparse pre-training, the step that is done once."""

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


class Transfer(Training, Distillation):
    """Fine-tuning of the sparse model on a task with its zeros locked."""

    task_weight: float = Field(0.0, ge=0)
    kd_weight: float = Field(1.0, ge=0)


class Quantization(Section):
    """The grid: integer weights times a scale and, with 8 bits, uint8 inputs of every quantized layer.

    With 4 bits the inputs stay fp32, which is what engines have kernels for.
    """

    bits: Literal[8, 4] = Field(8, description="bits of a weight")
    granularity: Granularity = Field(
        "channel", description="a scale for each output channel, for the whole weight, or for a group of inputs"
    )
    group_size: int = Field(64, ge=2, description="inputs that share a scale when granularity is group")
    head: bool = Field(True, description="quantize the task head too")
    embeddings: bool = Field(True, description="embedding tables in int8 too, a scale for each row")

    @model_validator(mode="after")
    def _engines_have_it(self) -> Quantization:
        if (self.bits == 4) != (self.granularity == "group"):
            raise ValueError(
                "`bits: 4` and `granularity: group` go together; 8 bits have a scale per channel or tensor"
            )
        return self

    @property
    def quantizes_inputs(self) -> bool:
        return self.bits == 8


class Quantize(Transfer, Quantization):
    """Quantization-aware training of a task model with its zeros locked."""

    learning_rate: float = Field(1e-5, gt=0)
    averaging: float = Field(0.01, gt=0, le=1, description="constant of the moving average of the inputs' ranges")


class Calibrate(Quantization):
    """Quantization after training: no weight learns, the inputs' ranges are read off some examples."""

    examples: int = Field(256, ge=1, description="training examples to read the ranges off")
    batch_size: int = Field(32, ge=1)


class Int4(Quantize):
    """As `Quantize`, with the 4-bit grid as default."""

    bits: Literal[8, 4] = 4
    granularity: Granularity = "group"


class Quantizations(Section):
    """The quantized models to make of the sparse model of each task; every one is an arm of the task."""

    int8: Quantize | None = Field(None, description="8 bits, by training on the grid with the zeros locked")
    int8_ptq: Calibrate | None = Field(None, description="8 bits after training, by calibration alone")
    int4: Int4 | None = Field(None, description="4-bit weights, by training on the grid")

    @model_validator(mode="after")
    def _bits_are_those_of_the_name(self) -> Quantizations:
        for name in type(self).model_fields:
            settings = getattr(self, name)
            if settings and settings.bits != int(name[3]):
                raise ValueError(f"`{name}` has `bits: {settings.bits}`; that is `int{settings.bits}`")
        return self

    def by_arm(self) -> dict[str, Quantize | Calibrate]:
        """Settings by the name of the arm: int8, int8-ptq, int4."""
        found = {name.replace("_", "-"): getattr(self, name) for name in type(self).model_fields}
        return {arm: settings for arm, settings in found.items() if settings}


class Gradual(Transfer, Sparsification):
    """The rival: prune the dense model gradually during fine-tuning, task by task."""


class Baselines(Section):
    """Rivals of prune-once, run for contrast."""

    one_shot: bool = Field(False, description="magnitude pruning in one step, then the same transfer")
    gradual: Gradual | None = None


class Benchmark(Section):
    """How fast models are: engines, times batch sizes, times lengths, and real texts beside them."""

    engines: list[EngineName] = Field(["torch", "onnxruntime", "openvino"], min_length=1)
    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field([1, 32], min_length=1, description="texts in a batch")
    lengths: list[Annotated[int, Field(ge=2)]] = Field([32, 128], min_length=1, description="tokens of every text")
    threads: int | None = Field(None, ge=1, description="of the processor, for every engine; none: as PyTorch chooses")
    seconds: float = Field(1.0, gt=0, description="time each model for about so long in each cell of the grid")
    texts: int = Field(100, ge=0, description="real texts to time at their own lengths; 0: none")


class Task(Section):
    """A labelled task, from files (`train`, `dev`, `test` are paths) or the hub (`source`, and they are splits)."""

    kind: Literal["classification"] = "classification"
    source: str | None = Field(None, description="hub id; leave out for local files")
    subset: str | None = None
    train: str
    dev: str
    test: str | None = None
    text: str = Field("text", description="column with the text")
    text_pair: str | None = Field(None, description="column with the second text of a pair")
    label: str = Field("label", description="column with the label: a name, or a number from 0")
    labels: list[str] | None = Field(None, description="label names in order; read from the training data if left out")
    metric: str = Field("accuracy", description="the metric that summaries quote")
    max_length: int = Field(128, ge=8)
    teacher_model: str | None = Field(None, description="dense task teacher; trained by the pipeline if left out")
    teacher: dict[str, Any] = Field({}, description="this task's changes to the recipe's `teacher`")
    transfer: dict[str, Any] = Field({}, description="this task's changes to the recipe's `transfer`")
    quantize: dict[str, Any] = Field({}, description="this task's changes to the recipe's `quantize`")


class Recipe(Section):
    """A whole run: one dense model, one corpus, any number of tasks."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][\w.-]*$")
    description: str = ""
    model: str = Field(description="folder or hub id of the dense pre-trained encoder")
    seed: int = Field(42, ge=0)
    report_to: list[str] = Field(["tensorboard"], description="transformers' logging integrations")
    corpus: Corpus
    prepare: Prepare | None = None
    prune: Prune
    teacher: Training | None = None
    transfer: Transfer | None = None
    quantize: Quantizations = Quantizations()
    tasks: dict[str, Task] = {}
    baselines: Baselines = Baselines()
    pack: bool = Field(True, description="also write each sparse and each quantized task model as a packed file")
    export: list[Format] = Field([], description="also write each quantized task model in these formats")
    benchmark: Benchmark | None = Field(None, description="time the first task's models")

    @model_validator(mode="after")
    def _tasks_have_settings(self) -> Recipe:
        for name, task in self.tasks.items():
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"task name {name!r}: use letters, digits, - and _")
            if self.transfer is None:
                raise ValueError("a recipe with tasks needs `transfer`")
            if self.teacher is None and task.teacher_model is None:
                raise ValueError(f"task {name!r} needs `teacher` settings or a `teacher_model`")
            if task.teacher_model and task.teacher:
                raise ValueError(f"task {name!r} has a `teacher_model`, so its `teacher` changes nothing; drop one")
            self.transfer_for(name), self.teacher_for(name), self.quantize_for(name)
        return self

    @model_validator(mode="after")
    def _a_stream_has_no_length(self) -> Recipe:
        for name, stage in (("prepare", self.prepare), ("prune", self.prune)):
            if self.corpus.streaming and stage and stage.epochs is not None:
                raise ValueError(
                    f"`{name}.epochs` needs a corpus of known length; with `corpus.streaming` give `{name}.steps`"
                )
        return self

    def transfer_for(self, task: str) -> Transfer:
        """The settings of the transfer to `task`, its own changes included."""
        assert self.transfer is not None
        return changed(self.transfer, self.tasks[task].transfer, f"tasks.{task}.transfer")

    def teacher_for(self, task: str) -> Training | None:
        """The settings of the dense teacher of `task`, its own changes included."""
        return self.teacher and changed(self.teacher, self.tasks[task].teacher, f"tasks.{task}.teacher")

    def quantize_for(self, task: str) -> Quantizations:
        """The quantized models to make of `task`'s sparse one, its own changes included."""
        return changed(self.quantize, self.tasks[task].quantize, f"tasks.{task}.quantize")  # type: ignore[no-any-return]


def changed(section: Any, changes: dict[str, Any], at: str = "") -> Any:
    """A copy of `section` with `changes` laid over it; `at` says in errors where they come from."""
    return validate(type(section), _merge(section.model_dump(), changes), at)


# -- loading ----------------------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """Names and paths of the recipes that come with the package. Those that begin with _ are only bases."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml")) if not path.stem.startswith("_")}


def find(name_or_path: str) -> Path:
    """The file of a shipped recipe or of a path."""
    if name_or_path in shipped():
        return shipped()[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        raise UserError(f"no recipe file at {path}")
    near = difflib.get_close_matches(name_or_path, shipped(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "see `pruneonce recipes list`"
    raise UserError(f"no recipe named {name_or_path!r}; {hint}")


def load(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Read and validate a recipe. `overrides` are `a.b=value` strings, the value read as YAML.

    Raises:
        UserError: no such recipe, not YAML, an unknown key (the nearest right one is named), or a value out of range.
    """
    values = _read(find(name_or_path), ())
    for override in overrides or []:
        set_value(values, override)
    return validate(Recipe, values)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's mapping, laid over that of the recipe it `extends`."""
    if path.resolve() in seen:
        raise UserError(f"{path}: recipes extend one another in a circle")
    values = safe_yaml.read(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a recipe: it should be a mapping with `name`, `model`, `corpus`, `prune`")
    base = values.pop("extends", None)
    return values if base is None else _merge(_read(_base(path, str(base)), (*seen, path.resolve())), values)


def _base(path: Path, name: str) -> Path:
    """The recipe that the one at `path` extends: a file beside it, with or without .yaml, or a shipped one."""
    for folder in (path.parent, RECIPES):
        for file in (folder / name, folder / f"{name}.yaml"):
            if file.is_file():
                return file
    try:
        return find(name)
    except UserError as error:
        raise UserError(f"{path} extends {name!r}: {error}") from None


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, mapping by mapping. A null takes a key out, and one of steps and epochs the other."""
    merged = dict(base)
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if over.get(one) is not None and other not in over:
            merged.pop(other, None)
    for key, value in over.items():
        if isinstance(value, dict):
            inside = merged.get(key)
            merged[key] = _merge(inside if isinstance(inside, dict) else {}, value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def set_value(values: dict[str, Any], override: str) -> None:
    """Lay `a.b=value` over `values`, in place."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set takes key.key=value, not {override!r}")
    try:
        value = safe_yaml.parse(text)
    except ValueError:
        raise UserError(f"--set {path}: {text!r} is not a YAML value") from None
    for key in reversed(keys):
        value = {key: value}
    merged = _merge(values, value)
    values.clear()
    values.update(merged)
