"""Work of a recipe's tasks, for each of its seeds, as `corpus_work` has it for the corpus."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from pruneonce.models import load_tokenizer
from pruneonce.plan.corpus_work import Work
from pruneonce.plan.jobs import Stage, TaskSample
from pruneonce.plan.probe import PREDICT_ROWS
from pruneonce.recipe import Gradual, Recipe, Swept, Training, Transfer
from pruneonce.recipe.arms import arms_of
from pruneonce.runs.layout import given_teacher, task_folder
from pruneonce.sparsity import PruningSchedule
from pruneonce.tasks import Kind, kind_of, loaded
from pruneonce.tasks.kind import MULTIPLE
from pruneonce.tasks.loaded import TAUGHT
from pruneonce.training import examples_of, total_steps
from pruneonce.wording import percent

SAMPLE = 1000  # examples of a split that are tokenized
MANY = 0.1  # share of a task's examples longer than blocks, above which a note says so


def task_works(recipe: Recipe, name: str, cache: Path, notes: list[str]) -> list[Work]:
    """Return the work of every arm of a task with every seed, in order; `notes` gets whether its texts are too long."""
    task = recipe.tasks[name]
    kind, tokenizer = kind_of(task).for_model(recipe.model), load_tokenizer(recipe.model)
    read = loaded.load(kind, cache)
    lengths = {split: Lengths.of(kind, rows, tokenizer, split == "train") for split, rows in read.data.splits.items()}
    more = read.data.unlabelled is not None
    lengths[TAUGHT] = Lengths.of(kind, read.data.taught, tokenizer, training=True) if more else lengths["train"]
    for split in ("train", TAUGHT):
        teacher, labels = task.teacher_model or recipe.model, tuple(read.data.labels)
        learnt = TaskSample(task, labels, teacher, lengths[split].example)
        lengths[split] = replace(lengths[split], learnt=learnt)
    block, sample = recipe.corpus.block_length if recipe.corpus else None, lengths["train"].sample
    longer = 0.0 if block is None else sum(length > block for length in sample) / len(sample)
    if longer > MANY:
        notes.append(
            f"{percent(longer, 0)} of the examples of {name} are longer than the blocks of {block} tokens that the "
            "model is pruned on. On longer texts it is farther from the dense one; `corpus.block_length` can be raised."
        )
    return [work for seed in recipe.task_seeds for work in _works_of_seed(recipe, name, seed, lengths)]


def _works_of_seed(recipe: Recipe, name: str, seed: int, lengths: dict[str, Lengths]) -> list[Work]:
    is_given = given_teacher(recipe, Path(), name) is not None
    is_first = seed == recipe.task_seeds[0]
    train, at = lengths["train"], task_folder(recipe, Path(), name, seed).as_posix()
    works, calibrations = [], []
    for arm, settings in arms_of(recipe, name):
        place = f"{at}/{arm.name}"
        if isinstance(settings, Training):
            data = lengths[TAUGHT] if isinstance(settings, Transfer) else train
            works.append(_arm_work(place, arm.stage_name, recipe, settings, data, is_first))
        elif settings.quantizes_inputs:
            calibrations.append(
                _prediction_work(f"{place}: calibration", recipe.model, [train.first(settings.examples)])
            )
    measured = len(works) + len(calibrations) + (is_given and is_first)
    evaluations = [held_out for split, held_out in lengths.items() if split not in ("train", TAUGHT)] * measured
    evaluations += [lengths["dev"]] * sum(work.candidates for work in works if work.candidates > 1)
    return [*works, *calibrations, _prediction_work(f"{at}: evaluation", recipe.model, evaluations)]


def _arm_work(name: str, kind: Stage, recipe: Recipe, settings: Training, data: Lengths, is_first: bool) -> Work:
    """Return the work of an arm: of all candidates with the first seed, of the longest candidate with others.

    Before the run it is not known which candidate will be the best.
    """
    candidates = settings.candidates() if isinstance(settings, Swept) else [settings]
    candidates = sorted(candidates, key=lambda candidate: total_steps(candidate, data.examples))
    for candidate in candidates:
        if isinstance(candidate, Gradual):
            PruningSchedule.of(candidate, total_steps(candidate, data.examples))  # raises where it does not fit
    if len(candidates) > 1 and is_first:
        return _task_work(f"{name}: {len(candidates)} candidates", kind, recipe, candidates, data)
    return _task_work(name, kind, recipe, candidates[-1:], data)


def _task_work(name: str, kind: Stage, recipe: Recipe, candidates: list[Any], data: Lengths) -> Work:
    """Return the work of training by each of the `candidates`, which differ in learning rate and length alone."""
    assert data.learnt is not None
    settings: Training = candidates[-1]
    if isinstance(settings, Transfer):
        settings = data.learnt.task.completed(settings)
    steps = sum(total_steps(candidate, data.examples) for candidate in candidates)
    seen = examples_of(settings, steps)
    together = settings.batch_size * settings.accumulate
    order = get_length_grouped_indices(data.sample, together, generator=torch.Generator().manual_seed(0))
    mean, longest = _padded([data.sample[i] for i in order], settings.batch_size)
    tokens, number = round(seen * data.mean), len(candidates)
    length = _multiple(mean)
    work = Work(name, kind, recipe.model, settings, steps, tokens, seen * mean, together, length, longest, number)
    return replace(work, sample=data.learnt)


def _prediction_work(name: str, model: str, data: list[Lengths]) -> Work:
    """Return the work of one pass over each of `data` without training, in batches by length as in `predict`."""
    steps, tokens, padded, longest, examples = 0, 0.0, 0.0, 0, 0
    for lengths in data:
        mean, most = _padded(sorted(lengths.sample), PREDICT_ROWS)
        steps += math.ceil(lengths.examples / PREDICT_ROWS)
        tokens += lengths.examples * lengths.mean
        padded += lengths.examples * mean
        longest, examples = max(longest, most), examples + lengths.examples
    length = _multiple(padded / examples)
    return Work(name, "predict", model, None, steps, round(tokens), padded, PREDICT_ROWS, length, longest)


@dataclass(frozen=True)
class Lengths:
    """Numbers of rows and examples in a split, and the tokens of each of a sample of examples, evenly spaced.

    An example is one model input: one of several windows of a text, or each text of a pair to compare.

    Attributes:
        example: the first one.
        learnt: the task, of a split to train on.
    """

    rows: int
    examples: int
    sample: list[int]
    example: dict[str, Any]
    learnt: TaskSample | None = None

    @classmethod
    def of(cls, kind: Kind[Any], rows: Any, tokenizer: Any, training: bool) -> Lengths:
        """Return the lengths in `rows`, encoded for training or for measuring."""
        some = rows.select(range(0, len(rows), math.ceil(len(rows) / SAMPLE)))
        encoded = kind.encode(some, tokenizer, training)
        sample = [len(ids) for ids in encoded["input_ids"]]
        return cls(len(rows), round(len(rows) * len(sample) / len(some)), sample, encoded[0])

    def first(self, rows: int) -> Lengths:
        """Return the lengths of the first `rows` rows at most."""
        rows = min(rows, self.rows)
        return replace(self, rows=rows, examples=round(self.examples * rows / self.rows))

    @property
    def mean(self) -> float:
        """Return the mean tokens of an example."""
        return sum(self.sample) / len(self.sample)


def _multiple(length: float) -> int:
    """Return the nearest number of tokens that a batch can have."""
    return MULTIPLE * max(1, round(length / MULTIPLE))


def _padded(lengths: list[int], batch_size: int) -> tuple[float, int]:
    """Return the mean and the largest tokens of a sequence in batches of `lengths`, each padded to its longest."""
    batches = [lengths[first : first + batch_size] for first in range(0, len(lengths), batch_size)]
    padded = [math.ceil(max(batch) / MULTIPLE) * MULTIPLE for batch in batches]
    total = sum(length * len(batch) for length, batch in zip(padded, batches, strict=True))
    return total / len(lengths), max(padded)
