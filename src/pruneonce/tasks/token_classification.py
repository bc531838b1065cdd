"""Token classification: a tag for each word, such as named entities and other spans, or parts of speech.

Named entities are those of CoNLL-2003, https://aclanthology.org/W03-0419. Loss and metrics look at the first token of
each word, as BERT does (https://arxiv.org/abs/1810.04805, 5.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Sequence as ListOf
from torch import Tensor
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

from pruneonce.config.formats import LISTS
from pruneonce.data import readers, streams
from pruneonce.data.conll import read_conll
from pruneonce.data.readers import Table
from pruneonce.errors import UserError
from pruneonce.losses.distillation import logit_distillation
from pruneonce.metrics import glue, spans, units
from pruneonce.metrics.units import Units
from pruneonce.recipe import TokenClassification
from pruneonce.tasks.cuts import Cut, count_cut
from pruneonce.tasks.kind import MULTIPLE, Array, Collate, Kind, TaskData, architecture, no_progress_bars
from pruneonce.tasks.labels import Classes
from pruneonce.wording import as_in_file

PLAIN_METRICS = ["accuracy", "f1_macro"]
IGNORED = -100  # the label of a token that is not the first of a word; transformers' collator pads with it
NONE = -1  # a token that is no word's first; the prediction for a word of which no token was seen
WORDS = "words"  # column of an encoded split that is no model input: the word that begins with each token, or NONE


class TokenClassificationKind(Kind[TokenClassification]):
    """Classification of words.

    Rows have `tokens` (list of str, the words) and `tags` (list of int, indices into the names, as ClassLabels).
    Outputs are [tokens, classes].
    """

    one_output = False
    auto = AutoModelForTokenClassification

    @classmethod
    def is_for(cls, config: Any) -> bool:
        return architecture(config).endswith("ForTokenClassification")

    def load(self, cache: Path) -> TaskData:
        """Read and check all splits, as `Kind.load`.

        A tag is a name or a number, see `pruneonce.tasks.labels`.
        """
        task = self.task
        tables = {split: self._table(where, cache) for split, where in task.splits().items()}
        for table in tables.values():
            _check_sentences(table, task.tokens, task.tags)
        train = tables["train"]
        classes = Classes.of(task.labels, self.of_model, train, task.tags, _each(train.columns[task.tags]))
        self._check_metric(classes.names)
        splits = {split: self._numbered(table, classes) for split, table in tables.items()}
        if self.of_model is None and len({tag for tags in splits["train"]["tags"] for tag in tags}) < 2:
            raise UserError(f"{train.name}: all tags are the same; there have to be at least two")
        return TaskData(splits, classes.names, classes=classes)

    def encode(self, rows: Dataset, tokenizer: Any, training: bool = False) -> Dataset:
        """Encode sentences as `Kind.encode`: in training with the `labels` of first tokens, else with `words`."""
        if not tokenizer.is_fast:
            raise UserError(
                "the model's tokenizer does not tell which word a token is of; token classification needs a fast one"
            )
        spaced = _marks_spaces(tokenizer)

        def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            sentences = [_with_spaces(words) if spaced else words for words in batch["tokens"]]
            encoded = tokenizer(sentences, is_split_into_words=True, truncation=True, max_length=self.task.max_length)
            begun = [_first_tokens(encoded.word_ids(row)) for row in range(len(sentences))]
            if not training:
                return {**encoded, WORDS: begun}
            both = zip(begun, batch["tags"], strict=True)
            return {**encoded, "labels": [[tags[w] if w != NONE else IGNORED for w in row] for row, tags in both]}

        with no_progress_bars():
            return rows.map(tokenize, batched=True, remove_columns=rows.column_names)

    def cut(self, rows: Dataset, examples: Dataset, tokenizer: Any, training: bool = False) -> Cut:
        kept = [len(ids) for ids in examples["input_ids"]]
        most, spaced = self.task.max_length, _marks_spaces(tokenizer)
        whole = {}
        for index in (index for index, size in enumerate(kept) if size >= most):
            words = rows[index]["tokens"]
            words = _with_spaces(words) if spaced else words
            encoded = tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
            whole[index] = len(encoded["input_ids"])
        return count_cut(kept, most, tokenizer.num_special_tokens_to_add(), whole)

    def collate(self, tokenizer: Any) -> Collate:
        pad = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=MULTIPLE)

        def collate(examples: list[Any]) -> dict[str, Tensor]:
            return pad([{name: value for name, value in one.items() if name != WORDS} for one in examples])

        return collate

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy, mean over the words of the batch; 0 where no word of it was seen."""
        total = F.cross_entropy(output.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (labels != IGNORED).sum().clamp_min(1)

    def distillation(self, student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """Return `T^2 KL`, mean over all tokens that are not padding, whether they are the first of a word or not.

        The student then agrees with the teacher however a program puts the tokens of a word together again.
        """
        keep = mask.bool()
        return logit_distillation(student[keep], teacher[keep], temperature)

    def measure(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> dict[str, float]:
        """Return metrics over all words, including those beyond the model's window; `unseen` is their share.

        An unseen word counts as O where tags mark spans, and as wrong where they do not.
        """
        names = rows.features["tags"].feature.names
        predicted, gold = _tags(outputs, rows, examples)
        flat, true = np.concatenate(predicted), np.concatenate(gold)
        unseen = {"unseen": float((flat == NONE).mean())}
        if _mark_spans(names):
            return {**spans.score(_named(predicted, names), _named(gold, names)), **unseen}
        return {"accuracy": glue.accuracy(flat, true), "f1_macro": glue.f1_macro(flat, true), **unseen}

    @property
    def unit(self) -> str:
        return "sentences"

    def undefined(self, rows: Dataset, data: TaskData) -> str:
        names = rows.features["tags"].feature.names
        if not _mark_spans(names) or any(names[tag] != "O" for tags in rows["tags"] for tag in tags):
            return ""
        return "every tag is 'O', so precision, recall and f1 are undefined; 0 stands for them"

    def units(self, outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> Units:
        """Return counts by sentence, of which all metrics of the tags are made, and the tag of each word."""
        names = rows.features["tags"].feature.names
        predicted, gold = _tags(outputs, rows, examples)
        if _mark_spans(names):
            counts = spans.counts(_named(predicted, names), _named(gold, names))
        else:
            counts = np.stack([_by_tag(*both, len(names)) for both in zip(predicted, gold, strict=True)])
        flat, true = np.concatenate(predicted), np.concatenate(gold)
        return Units({"spans" if _mark_spans(names) else "tags": counts}, flat, flat == true, "words")

    def resampled(self, values: Mapping[str, Array], index: Array) -> Array:
        if "spans" in values:
            return spans.of_counts(units.totals(values["spans"], index))[self.task.metric]
        hits, guesses, truths = np.split(units.totals(values["tags"], index), 3, axis=-1)
        if self.task.metric == "accuracy":
            return units.ratio(hits.sum(-1), truths.sum(-1))
        return units.macro(units.ratio(2 * hits, guesses + truths), guesses + truths)

    def texts(self, rows: Dataset) -> list[Any]:
        return [" ".join(words) for words in rows["tokens"]]

    def _table(self, where: str, cache: Path) -> Table:
        task = self.task
        if task.source is None:
            path = Path(where).expanduser()
            if streams.kind(path) in readers.DELIMITERS:
                raise UserError(f"{path}: CSV cannot hold lists of words and tags; use JSONL, Parquet or CoNLL's .txt")
            readers.check_file(path, ("text", "conll", *LISTS))
            if streams.kind(path) in ("text", "conll"):
                return read_conll(path, task.tokens, task.tags)
        return self.read(where, [task.tokens, task.tags], cache)

    def _check_metric(self, labels: list[str]) -> None:
        if _mark_spans(labels):
            self.check_metric(spans.METRICS, "tags that mark spans")
        else:
            other = next(name for name in labels if not spans.is_tag(name))
            self.check_metric(PLAIN_METRICS, f"tags that do not mark spans by O, B-, I-, ... ({other!r} does not)")

    def _numbered(self, table: Table, classes: Classes) -> Dataset:
        """Return the table under its canonical names, its tags as indices into the names of the classes."""
        words, tags = table.columns[self.task.tokens], table.columns[self.task.tags]
        numbers = iter(classes.numbers(table, self.task.tags, _each(tags)))
        rows = {"tokens": words, "tags": [[next(numbers) for _ in row] for row in tags]}
        return Dataset.from_dict(
            rows, features=Features(tokens=ListOf(Value("string")), tags=ListOf(ClassLabel(names=classes.names)))
        )


def _check_sentences(table: Table, tokens: str, tags: str) -> None:
    """Check the rows of a table.

    Raises:
        UserError: a row has no list of words, or not as many tags as words.
    """
    for row, (words, labels) in enumerate(zip(table.columns[tokens], table.columns[tags], strict=True)):
        for column, value in ((tokens, words), (tags, labels)):
            if not isinstance(value, list) or not value:
                what = "a list, an entry for each word"
                raise UserError(f"{table.place(row)}: {column!r} has to be {what}, not {as_in_file(value)}")
        for word in words:
            if not isinstance(word, str):
                raise UserError(f"{table.place(row)}: {tokens!r} has to be a list of words, {as_in_file(word)} is none")
        if len(words) != len(labels):
            raise UserError(f"{table.place(row)}: {len(words)} words in {tokens!r}, but {len(labels)} tags in {tags!r}")


def _each(lists: list[list[Any]]) -> list[tuple[int, Any]]:
    """Return row and value of every value."""
    return [(row, value) for row, values in enumerate(lists) for value in values]


def _tags(outputs: Sequence[Array], rows: Dataset, examples: Dataset) -> tuple[list[Array], list[Array]]:
    """Return the predicted tag, or NONE, and the gold tag of each word, an array for each sentence."""
    gold = [np.asarray(tags) for tags in rows["tags"]]
    predicted = [np.full(len(tags), NONE) for tags in gold]
    for chosen, output, begun in zip(predicted, outputs, examples[WORDS], strict=True):
        words = np.asarray(begun)
        first = words != NONE
        chosen[words[first]] = output[: len(words)][first].argmax(-1)
    return predicted, gold


def _named(sentences: list[Array], names: list[str]) -> list[list[str]]:
    names_with_none = [*names, "O"]  # NONE is the index of "O"
    return [[names_with_none[tag] for tag in tags] for tags in sentences]


def _by_tag(predicted: Array, gold: Array, tags: int) -> Array:
    """Return how often each tag is right, predicted, and gold in a sentence: [3 x tags]."""
    kept = (gold[predicted == gold], predicted[predicted != NONE], gold)
    return np.concatenate([np.bincount(some, minlength=tags) for some in kept])


def _mark_spans(labels: list[str]) -> bool:
    return all(map(spans.is_tag, labels))


def _marks_spaces(tokenizer: Any) -> bool:
    """Return whether a word's tokens depend on the space before it, as those of RoBERTa and ModernBERT do."""
    before = tokenizer.backend_tokenizer.pre_tokenizer
    return before is not None and b'"ByteLevel"' in before.__getstate__()


def _with_spaces(words: list[str]) -> list[str]:
    """Return the words with the spaces that they have in text.

    `add_prefix_space` would give the first word a space too, which it lacks in text, and only some tokenizers support
    it.
    """
    return [words[0], *(f" {word}" for word in words[1:])]


def _first_tokens(word_ids: list[int | None]) -> list[int]:
    """Return for each token the word that begins with it, or NONE."""
    before: list[int | None] = [None, *word_ids]
    return [NONE if word is None or word == last else word for last, word in zip(before, word_ids, strict=False)]
