"""Jobs to measure: each stage's own job, on random examples of the lengths that the plan expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from pruneonce.config.pattern import Pattern
from pruneonce.models import load_config, load_tokenizer
from pruneonce.recipe import Gradual, Prepare, Prune, Task, Training, Transfer, changed
from pruneonce.stages.corpus_blocks import CorpusBlocks
from pruneonce.stages.finetune import FinetuneStage
from pruneonce.stages.prepare import head_job, load_student, preparation_job
from pruneonce.stages.product_quantize import ProductQuantizeStage
from pruneonce.stages.prune import load_dense, pruning_job
from pruneonce.stages.quantize import QuantizeStage
from pruneonce.stages.task_training import TaskExamples, TaskStage
from pruneonce.stages.transfer import GradualTransferStage, TransferStage
from pruneonce.tasks import Kind, TaskData, kind_of
from pruneonce.training import Job, examples_of

# The name of a stage that trains; `head`: a new MLM head is trained alone; `predict`: a model predicts.
Stage = str
TASK_STAGES: dict[str, TaskStage[Any]] = {
    stage.name: stage
    for stage in (FinetuneStage(), TransferStage(), GradualTransferStage(), QuantizeStage(), ProductQuantizeStage())
}

SEED = 0
MOST = 1000  # steps, more than there is time for

# These keys set the number of steps and the times of events. Keys that change a step itself stay as they are.
USUAL = {"steps": MOST, "learning_rate": 1e-6, "warmup": 0.0, "checkpoint_every": None}
USUAL_SPARSIFICATION = {"sparsity": 0.9, "initial_sparsity": 0.0, "start": 0, "end": 0.5, "until": 0.8, "every": 0.5}


def usual(settings: Training) -> Training:
    """Return `settings` without the keys that leave a step's time and memory alone: equal ones are measured once."""
    changes: dict[str, Any] = {**USUAL, "accumulate": min(2, settings.accumulate)}
    if isinstance(settings, (Prune, Gradual)):
        sparsity = max(USUAL_SPARSIFICATION["sparsity"], Pattern.parse(settings.pattern).least_sparsity)
        changes |= {**USUAL_SPARSIFICATION, "sparsity": sparsity}
    if isinstance(settings, Prepare):
        changes |= {"head_steps": MOST}
    return changed(settings, changes)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TaskSample:
    """A task, as far as its training steps depend on it.

    Attributes:
        labels: names of its classes, empty where it has none.
        teacher: a dense model like the task's teacher.
        example: model input of one row, as the kind of task encodes it for training.
    """

    task: Task
    labels: tuple[str, ...]
    teacher: str
    example: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def kind(self) -> Kind[Any]:
        """Return the kind of the task."""
        return kind_of(self.task)

    def alike(self) -> Any:
        """Return a value that is equal for tasks whose steps cost the same; the number of labels does not count."""
        return self.task.kind, self.teacher, tuple(sorted(self.example))

    def of_length(self, length: int, input_ids: list[int]) -> dict[str, Any]:
        """Return the example with other tokens, `length` of them.

        A list with an entry a token is repeated or cut; another list has positions of tokens, which are kept inside.
        """
        tokens = len(self.example["input_ids"])
        columns: dict[str, Any] = {}
        for name, value in self.example.items():
            if not isinstance(value, list):
                columns[name] = value
            elif len(value) == tokens:
                columns[name] = [value[index % tokens] for index in range(length)]
            else:
                columns[name] = [min(position, length - 1) for position in value]
        return {**columns, "input_ids": input_ids}


@dataclass(frozen=True)
class Probe:
    """Kind of work to measure.

    Attributes:
        length: tokens of a sequence, padding included.
        longest: tokens of a sequence in the first step, which is not timed: it takes the most memory.
        settings: settings of the training, as `usual` gives them; None for `predict`.
        sample: of the task, where the work has one.
    """

    kind: Stage
    model: str
    length: int
    longest: int
    settings: Training | None = None
    sample: TaskSample | None = None


def job_of(probe: Probe, device: torch.device) -> Job:
    """Return the stage's own job on random examples; the first step has the longest."""
    settings = probe.settings
    assert settings is not None
    if probe.sample is None:
        return _corpus_job(probe, settings, device)
    stage, sample = TASK_STAGES[probe.kind], probe.sample
    rows = RandomRows(probe, sample, settings)
    inputs = TaskExamples(
        sample.kind.for_model(probe.model),
        TaskData({}, list(sample.labels)),
        Dataset.from_list([rows[0]]),
        load_tokenizer(probe.model),
    )
    teacher = sample.teacher if isinstance(settings, Transfer) else None
    job = stage.job(probe.model, inputs, settings, device, SEED, teacher=teacher, head_may_be_new=True)
    return replace(job, examples=rows)


def _corpus_job(probe: Probe, settings: Training, device: torch.device) -> Job:
    blocks = CorpusBlocks(RandomBlocks(probe, settings), [], probe.length, load_tokenizer(probe.model))
    if isinstance(settings, Prune):
        student = load_dense(probe.model, settings, settings.dropout, head_may_be_new=True)
        teacher = load_dense(probe.model, settings, None, head_may_be_new=True)
        return pruning_job(student, teacher, blocks, settings, device, SEED)
    assert isinstance(settings, Prepare)
    student, _ = load_student(probe.model, settings)
    return (head_job if probe.kind == "head" else preparation_job)(student, blocks, settings, device, SEED)


def random_ids(seed: int, vocabulary: int, size: int) -> np.ndarray:
    """Return `size` random token ids below `vocabulary`."""
    return np.random.default_rng(seed).integers(0, vocabulary, size)


class RandomBlocks(TorchDataset[dict[str, Any]]):
    """Blocks of random tokens, enough for all steps of a probe."""

    def __init__(self, probe: Probe, settings: Training):
        self.length, self.size = probe.length, examples_of(settings, MOST)
        self.vocabulary = load_config(probe.model).get_text_config().vocab_size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": random_ids(index, self.vocabulary, self.length).tolist()}


class RandomRows(TorchDataset[dict[str, Any]]):
    """Examples of a task with random tokens, in the order of training.

    Those of the first step are `probe.longest` tokens long, the others `probe.length`; all but the first of a batch are
    a token shorter, so that there is padding.
    """

    def __init__(self, probe: Probe, sample: TaskSample, settings: Training):
        self.probe, self.sample, self.settings = probe, sample, settings
        configs = [load_config(model).get_text_config() for model in (probe.model, sample.teacher)]
        self.vocabulary = min(config.vocab_size for config in configs)

    def __len__(self) -> int:
        return examples_of(self.settings, MOST)

    def __getitem__(self, position: int) -> dict[str, Any]:
        is_first = position < examples_of(self.settings, 1)
        length = self.probe.longest if is_first else self.probe.length
        length -= position % self.settings.batch_size > 0
        return self.sample.of_length(length, random_ids(position, self.vocabulary, length).tolist())
