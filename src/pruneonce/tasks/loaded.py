"""Data of tasks, read once in a process and tokenized once for each tokenizer, whatever arms and seeds use it.

The cache holds data that follow from the task, its files and the tokenizer alone. The order of examples, and a choice
among them, follow from a seed and are made anew by each stage. The cache takes at most `MOST_BYTES`; the data that were
not used for the longest time go first.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset

from pruneonce.console import note
from pruneonce.data import packing
from pruneonce.data.keys import task_key
from pruneonce.errors import UserError
from pruneonce.models.source import panics_as_errors
from pruneonce.system import distributed
from pruneonce.tasks.cuts import Cut
from pruneonce.tasks.kind import Kind, TaskData

MOST_BYTES = 1 << 30  # of Arrow data; more than any task of GLUE or SQuAD takes with its tokens
TAUGHT = "train, taught"  # stands for a split: the examples of stages with a teacher

T = TypeVar("T")


class Kept:
    """Cache of values by key, of at most `most` bytes together; a value that is larger alone is not kept."""

    def __init__(self, most: int):
        self.most = most
        self.values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """Return the value of `key`, made where it is not kept; with the key None, it is always made."""
        if key is not None and key in self.values:
            self.values.move_to_end(key)
            return self.values[key][0]  # type: ignore[no-any-return]
        value = make()
        if key is not None and size(value) <= self.most:
            self.values[key] = value, size(value)
        while sum(bytes for _, bytes in self.values.values()) > self.most:
            self.values.popitem(last=False)
        return value


KEPT = Kept(MOST_BYTES)


@dataclass(frozen=True)
class LoadedTask:
    """Data of a task in memory.

    Attributes:
        kind: reads and encodes it.
        data: its splits.
        key: identifies the data; None: it is not kept.
        is_new: the data were read just now, by no earlier stage of this process.
    """

    kind: Kind[Any]
    data: TaskData
    key: Hashable
    is_new: bool

    def examples(self, split: str, tokenizer: Any, training: bool = False, reader: Kind[Any] | None = None) -> Dataset:
        """Return model input for all rows of a split, or of `TAUGHT`, as `Kind.encode` makes it.

        Args:
            split: of the task, or `TAUGHT`.
            tokenizer: of the model.
            training: for training.
            reader: the kind for the model; None: `kind`.

        Raises:
            UserError: a text cannot be encoded, or the tokenizer cannot fill up a batch.
        """
        if tokenizer.pad_token is None:
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path} has no `pad_token`, which fills up batches; set one"
            )
        kind = reader or self.kind
        if split == TAUGHT and self.data.unlabelled is None:
            split = "train"
        key = self._key("examples", split, tokenizer, training, kind)
        return KEPT.get(key, lambda: self._encoded(split, tokenizer, training, kind), _bytes)

    def cut(self, split: str, tokenizer: Any) -> Cut:
        """Return the account of what `max_length` cuts off a split that is measured on."""
        return self._cut(split, self.examples(split, tokenizer), tokenizer, training=False)

    def _cut(self, split: str, examples: Dataset, tokenizer: Any, training: bool) -> Cut:
        key = self._key("cut", split, tokenizer, training, self.kind)
        return KEPT.get(key, lambda: self.kind.cut(self.rows(split), examples, tokenizer, training), lambda _: 0)

    def _key(self, what: str, split: str, tokenizer: Any, training: bool, kind: Kind[Any]) -> Hashable:
        identity = _tokenizer_key(tokenizer)
        return (self.key, what, split, training, identity, kind.text_settings) if self.key and identity else None

    def _encoded(self, split: str, tokenizer: Any, training: bool, kind: Kind[Any]) -> Dataset:
        """Encode a split, and say what of it is cut for the model itself, not for its teacher."""
        rows = self.rows(split)
        with panics_as_errors(f"the tokenizer of {tokenizer.name_or_path} is damaged"):
            examples = kind.encode(rows, tokenizer, training)
        if kind is not self.kind:
            return examples
        files = self.kind.task.data()
        names = [split] if split != TAUGHT else ["train", "unlabelled"]
        where = " and ".join(f"{name} ({files[name]})" for name in names if name in files)
        if distributed.rank() == 0 and (line := self._cut(split, examples, tokenizer, training).line(where)):
            note(line)
        return examples

    def rows(self, split: str) -> Dataset:
        """Return the rows of a split, or of `TAUGHT`."""
        return self.data.taught if split == TAUGHT else self.data.splits[split]


def load(kind: Kind[Any], cache: Path) -> LoadedTask:
    """Load the data of the task of `kind`.

    Args:
        kind: reads and encodes the data.
        cache: folder that hub data is downloaded to.

    Raises:
        UserError: a mistake in the task or its data, see `Kind.load`.
    """
    key = _task_key(kind, cache)
    is_new = key is None or key not in KEPT.values
    data = KEPT.get(key, lambda: kind.load(cache), lambda data: sum(map(_bytes, _tables(data))))
    return LoadedTask(kind, data, key, is_new)


def _task_key(kind: Kind[Any], cache: Path) -> Hashable:
    """Return the identity of the data: files by their contents, hub data by its name and folder."""
    task = kind.task
    try:
        data = task_key(task, taught=True)
    except UserError:
        return None  # `Kind.load` raises with the name of the missing file and its use
    names = None if kind.of_model is None else tuple(kind.of_model)
    return data, task.metric, names, str(cache.resolve()) if task.source else None


def _tokenizer_key(tokenizer: Any) -> Hashable:
    """Return the identity of a fast tokenizer's output; None for others."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    settings = [tokenizer.special_tokens_map, tokenizer.model_input_names, tokenizer.truncation_side]
    return type(tokenizer).__name__, json.dumps(settings, default=str), packing.backend(tokenizer)


def _tables(data: TaskData) -> list[Dataset]:
    return [*data.splits.values(), *([] if data.unlabelled is None else [data.unlabelled])]


def _bytes(rows: Dataset) -> int:
    return int(rows.data.nbytes)
