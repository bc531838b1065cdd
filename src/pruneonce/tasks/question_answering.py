"""Question answering: the answer to a question as a span of a context, by SQuAD's rules.

https://arxiv.org/abs/1606.05250 and, with questions that have no answer, https://arxiv.org/abs/1806.03822.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForQuestionAnswering

from pruneonce.data.questions import Question, Windows, best_answers, from_table, most_question_tokens, read, windows
from pruneonce.errors import UserError
from pruneonce.losses.distillation import logit_distillation
from pruneonce.metrics import squad
from pruneonce.metrics.units import Units
from pruneonce.recipe import QuestionAnswering
from pruneonce.tasks.cuts import Cut, tokens_in
from pruneonce.tasks.kind import Array, Collate, TaskData, architecture, no_progress_bars
from pruneonce.tasks.texts import TextKind

OURS = ("example", "offsets")  # columns of an encoded split that are no model input
NOT_THERE = -1e4  # the logit of padding; e to its power is 0


class QuestionAnsweringKind(TextKind[QuestionAnswering]):
    """Question answering by spans.

    Rows have `id`, `question`, `context` (str), `answers` (list of str) and `starts` (list of int, characters); rows
    that nobody has answered have `question` and `context` alone.

    An example is a window: the question with a piece of the context. Outputs are [tokens, 2], start and end; those of
    padding are `NOT_THERE`.
    """

    one_output = False
    auto = AutoModelForQuestionAnswering
    full_score = 100.0

    @classmethod
    def is_for(cls, config: Any) -> bool:
        return architecture(config).endswith("ForQuestionAnswering")

    def load(self, cache: Path) -> TaskData:
        self.check_metric(squad.METRICS, "question answering")
        splits = {}
        for split, where in self.task.splits().items():
            questions = self._questions(where, cache)
            if not self.task.no_answer and any(not one.answers for one in questions):
                raise UserError(f"{where}: some questions have no answer; set `no_answer: true`, as for SQuAD 2.0")
            names = Question.__slots__
            splits[split] = Dataset.from_dict({name: [getattr(one, name) for one in questions] for name in names})
        return TaskData(splits, unlabelled=self.unlabelled(cache))

    def columns(self) -> dict[str, str]:
        return {"question": self.task.question, "context": self.task.context}

    def encode(self, rows: Dataset, tokenizer: Any, training: bool = False) -> Dataset:
        task, labelled = self.task, training and "answers" in rows.column_names
        with no_progress_bars():
            encoded = windows(_as_questions(rows), tokenizer, task.max_length, task.doc_stride, labelled)
            inputs = encoded.inputs
            if not training:
                inputs = inputs.add_column("example", encoded.example.tolist())
                return inputs.add_column("offsets", [offsets.tolist() for offsets in encoded.offsets])
            if labelled:
                positions = zip(inputs["start_positions"], inputs["end_positions"], strict=True)
                inputs = inputs.remove_columns(["start_positions", "end_positions"])
                inputs = inputs.add_column("labels", [list(pair) for pair in positions])
            return inputs

    def cut(self, rows: Dataset, examples: Dataset, tokenizer: Any, training: bool = False) -> Cut:
        """Return the account of the questions; a context is in windows, of which none is cut."""
        most = most_question_tokens(tokenizer, self.task.max_length, self.task.doc_stride)
        sizes = [tokens_in(question, tokenizer) for question in rows["question"]]
        lost = [max(0, size - most) for size in sizes]
        return Cut(len(sizes), sum(map(bool, lost)), sum(sizes), sum(lost), most, "questions")

    def collate(self, tokenizer: Any) -> Collate:
        pad = super().collate(tokenizer)

        def collate(examples: list[Any]) -> dict[str, Tensor]:
            return pad([{name: value for name, value in one.items() if name not in OURS} for one in examples])

        return collate

    def output(self, outputs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        # No answer is in the padding. If it competed, losses would depend on the other rows of the batch.
        logits = torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)
        return logits.masked_fill(~mask.bool()[:, :, None], NOT_THERE)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of the cross-entropies of start and end."""
        return F.cross_entropy(output, labels)  # [rows, tokens, 2] against [rows, 2]: classes are in the middle

    def distillation(self, student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """Return `T^2 KL` between the distributions over the real tokens, mean of start and end."""
        ours, theirs = (logits.transpose(1, 2).flatten(0, 1) for logits in (student, teacher))
        return logit_distillation(ours, theirs, temperature)

    def measure(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> dict[str, float]:
        """Return `exact_match` and `f1` in percent, as the official scorer gives them."""
        answers, gold = self._answers(outputs, rows, examples)
        return squad.score(answers, gold)

    @property
    def unit(self) -> str:
        return "questions"

    def units(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> Units:
        answers, gold = self._answers(outputs, rows, examples)
        exact, overlap = 100 * np.array(list(squad.by_question(answers, gold).values())).T
        hashes = np.array([_hash(squad.normalized(answers[question])) for question in gold], dtype=np.int64)
        return Units({"exact_match": exact, "f1": overlap}, hashes, exact > 0, "answers")

    def _answers(
        self, outputs: Sequence[Array], rows: Dataset, examples: Dataset
    ) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
        """Return the best answer and the gold answers of each question."""
        questions = _as_questions(rows)
        offsets = [np.array(one, dtype=np.int32).reshape(-1, 2) for one in examples["offsets"]]
        windows_of_rows = Windows(examples, np.array(examples["example"]), offsets)
        task = self.task
        answers = best_answers(
            [output[:, 0] for output in outputs],
            [output[:, 1] for output in outputs],
            windows_of_rows,
            questions,
            n_best=task.n_best,
            max_answer_length=task.max_answer_length,
            null_threshold=task.null_threshold,
            no_answer=task.no_answer,
        )
        return answers, {one.id: one.answers for one in questions}

    def config(self, data: TaskData) -> dict[str, Any]:
        return {"num_labels": 2}

    def check_model(self, config: Any, data: TaskData, name: str) -> None:
        if config.num_labels != 2:
            raise UserError(f"{name} has {config.num_labels} outputs a token; an answer has a start and an end")

    def _questions(self, where: str, cache: Path) -> list[Question]:
        columns = {name: getattr(self.task, name) for name in ("id", "question", "context", "answers")}
        if self.task.source is None:
            return read(Path(where).expanduser(), columns)
        return from_table(self.read(where, list(columns.values()), cache), columns)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _as_questions(rows: Dataset) -> list[Question]:
    return [
        Question(
            row.get("id", ""),
            row["question"],
            row["context"],
            tuple(row.get("answers", ())),
            tuple(row.get("starts", ())),
        )
        for row in rows
    ]
