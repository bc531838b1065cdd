"""Tokens of a teacher whose tokenizer, prompt or limit of tokens is not the student's.

A teacher reads every text by its own tokenizer where the outputs for a text are all that is compared. Where tokens are
compared, student and teacher have to read the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from transformers import DataCollatorWithPadding

from pruneonce.data import vocabularies
from pruneonce.errors import UserError
from pruneonce.models import load_tokenizer
from pruneonce.recipe import Transfer
from pruneonce.tasks.kind import MULTIPLE, Batch, Collate, Kind

PREFIX = "teacher_"  # of the columns with the teacher's own input
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"


@dataclass(frozen=True)
class Reader:
    """Way in which a model reads texts.

    Attributes:
        kind: of the task, for the model.
        tokenizer: of the model.
        name: of the model, for messages.
    """

    kind: Kind[Any]
    tokenizer: Any
    name: str

    @classmethod
    def of(cls, kind: Kind[Any], source: str | Path) -> Reader:
        return cls(kind.for_model(source), load_tokenizer(source), f"the teacher {source}")

    def like(self, other: Reader) -> bool:
        """Return whether both surely read the same tokens of any text."""
        same_settings = self.kind.text_settings == other.kind.text_settings
        return same_settings and vocabularies.same(self.tokenizer, other.tokenizer)


def with_input_of_teacher(ours: Dataset, theirs: Dataset, student: Reader, teacher: Reader, by: Transfer) -> Dataset:
    """Return the student's examples, with the teacher's own input beside it where that is different.

    Args:
        ours: examples as the student reads them.
        theirs: the same ones as the teacher reads them.
        student: reads the texts.
        teacher: reads them too.
        by: the weights of the losses.

    Raises:
        UserError: the tokens are not the same, and they are compared.
    """
    same = len(ours) == len(theirs) and ours.data[IDS].equals(theirs.data[IDS])
    if same and _has_types(ours) == _has_types(theirs):
        return ours
    if not same:
        _check_not_compared(student, teacher, by)
    beside = theirs.select_columns([name for name in (IDS, MASK, TYPES) if name in theirs.column_names])
    renamed = beside.rename_columns({name: PREFIX + name for name in beside.column_names})
    return concatenate_datasets([ours, renamed], axis=1)


def check_tokens(student: Reader, source: str | Path, rows: Dataset, by: Transfer) -> None:
    """Refuse a teacher that reads other tokens where tokens are compared, as far as some training data show it.

    Args:
        student: reads the texts.
        source: folder or hub id of the teacher.
        rows: some training data.
        by: the weights of the losses.

    Raises:
        UserError: as `with_input_of_teacher`.
    """
    teacher = Reader.of(student.kind, source)
    if not teacher.like(student):
        ours, theirs = (each.kind.encode(rows, each.tokenizer, training=True) for each in (student, teacher))
        with_input_of_teacher(ours, theirs, student, teacher, by)


def _has_types(examples: Dataset) -> bool:
    """Return whether token types other than 0 are in the model input."""
    if TYPES not in examples.column_names:
        return False
    return bool(pc.max(pc.list_flatten(examples.data[TYPES])).as_py())


def _check_not_compared(student: Reader, teacher: Reader, by: Transfer) -> None:
    kind = student.kind
    weights = [f"`{key}`" for key in ("hidden_weight", "relation_weight") if getattr(by, key)]
    if kind.one_output and not weights:
        return
    if kind.text_settings != teacher.kind.text_settings:
        which = "another prompt, or another limit of tokens, than the model"
    else:
        which = vocabularies.difference(student.tokenizer, teacher.tokenizer) or "other tokens than the model"
    if kind.one_output:
        compares, remedy = (
            " and ".join(weights),
            (f"set {' and '.join(weights)} to 0, and the teacher reads each text by its own tokenizer"),
        )
    else:
        compares, remedy = f"a teacher of {kind.task.kind}", "give a teacher with the model's tokenizer"
    raise UserError(f"{teacher.name} has {which}, but {compares} compares token by token; {remedy}")


def with_teacher(collate: Collate, teacher: Any, examples: Dataset) -> Collate:
    """Return the collator of examples, which pads the teacher's own input by itself where `examples` have one.

    Args:
        collate: of the student's input.
        teacher: tokenizer of the teacher.
        examples: as `with_input_of_teacher` gives them.
    """
    if PREFIX + IDS not in examples.column_names:
        return collate
    pad = DataCollatorWithPadding(teacher, pad_to_multiple_of=MULTIPLE)

    def both(rows: list[Any]) -> Batch:
        ours = [{name: value for name, value in row.items() if not name.startswith(PREFIX)} for row in rows]
        theirs = [{name.removeprefix(PREFIX): row[name] for name in row if name.startswith(PREFIX)} for row in rows]
        return {**collate(ours), **{PREFIX + name: value for name, value in pad(theirs).items()}}

    return both


def input_of_teacher(batch: Batch) -> dict[str, Tensor]:
    """Take the teacher's own input out of a batch; empty where it has none."""
    names = [name for name in batch if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): batch.pop(name) for name in names}
