"""The kinds of models, and which kind a model is: by the class in its config.json and, of one label, `problem_type`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pruneonce_runtime.answers import Answer, best_answer, windows
from pruneonce_runtime.configuration import Configuration
from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.file import Member
from pruneonce_runtime.functions import sigmoid, softmax
from pruneonce_runtime.model import Model, Parts
from pruneonce_runtime.pooling import Pooling
from pruneonce_runtime.sentences import EMBEDDER, MODULES, RERANKER, TextSettings, notes_of, type_noted
from pruneonce_runtime.spec import Floats, Int32s

WORD = re.compile(r"\w+|[^\w\s]")  # of a text that is not given in words: letters and digits, or a mark


class Prediction(NamedTuple):
    """The likeliest label, its probability, and those of all labels."""

    label: str
    probability: float
    probabilities: dict[str, float]


class Ranked(NamedTuple):
    """A passage, its number in the list that was given (from 0), and its score between 0 and 1."""

    passage: str
    number: int
    score: float


class Word(NamedTuple):
    """A word `text[start:end]` and its label; None, with probability 0, where the model did not see the word."""

    text: str
    label: str | None
    probability: float
    start: int
    end: int


class Classifier(Model[Prediction]):
    """One label out of several, for a text or a pair of texts."""

    task = "classification"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.labels = parts.config.labels

    def results(self, inputs: list[Any]) -> list[Prediction]:  # type: ignore[override]
        outputs = self.run(self._parts.tokenizer.texts(inputs, self.max_length))
        return [self._prediction(softmax(output)) for output in outputs]

    def _prediction(self, shares: Floats) -> Prediction:
        best = int(shares.argmax())
        named = dict(zip(self.labels, shares.tolist(), strict=True))
        return Prediction(self.labels[best], float(shares[best]), named)


class Regressor(Model[float]):
    """A number for a text or a pair of texts."""

    task = "regression"

    def results(self, inputs: list[Any]) -> list[float]:  # type: ignore[override]
        return [float(output[0]) for output in self.run(self._parts.tokenizer.texts(inputs, self.max_length))]


class Reranker(Model[float]):
    """How relevant a passage is to a query.

    It is between 0 and 1, the sigmoid of the model's score; the score itself of a model made of a `CrossEncoder` whose
    files say so.
    """

    task = "reranking"

    def __init__(self, parts: Parts) -> None:
        self.settings = TextSettings.of(parts.member, parts.tokenizer, RERANKER)
        self.sigmoid = has_sigmoid(parts.member, parts.config)
        super().__init__(parts)

    def usual_length(self) -> int:
        return self.settings.max_length

    def results(self, inputs: list[Any]) -> list[float]:  # type: ignore[override]
        outputs = self.run(self._parts.tokenizer.texts(self.settings.prompted(inputs), self.max_length))
        scores = np.array([output[0] for output in outputs], np.float64)
        return (sigmoid(scores) if self.sigmoid else scores).tolist()  # type: ignore[no-any-return]

    def rank(self, query: str, passages: Sequence[str], top: int | None = None) -> list[Ranked]:
        """The passages, or the `top` best of them, best first; of equal scores, the earlier one."""
        scores = list(self.stream((query, passage) for passage in passages))
        order = sorted(range(len(scores)), key=lambda number: -scores[number])[:top]
        return [Ranked(passages[number], number, scores[number]) for number in order]


class Tagger(Model[list[Word]]):
    """A label for each word: that of its first token, as in training."""

    task = "token-classification"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.labels = parts.config.labels

    def results(self, inputs: list[Any]) -> list[list[Word]]:  # type: ignore[override]
        """
        Args:
            inputs: texts, which are split into runs of letters and digits, and single other marks; or lists of words,
                whose text is that of the words with spaces between them.
        """
        places = [_places(text) for text in inputs]
        tokenized = self._parts.tokenizer.sentences([[word for word, _ in each] for each in places], self.max_length)
        outputs = self.run([tokens for tokens, _ in tokenized])
        return [
            self._tagged(place, owners, softmax(output))
            for place, (_, owners), output in zip(places, tokenized, outputs, strict=True)
        ]

    def _tagged(self, places: list[tuple[str, int]], owners: list[int | None], shares: Floats) -> list[Word]:
        words = [Word(word, None, 0.0, start, start + len(word)) for word, start in places]
        before = None
        for token, owner in enumerate(owners):
            if owner is not None and owner != before:
                best = int(shares[token].argmax())
                words[owner] = words[owner]._replace(label=self.labels[best], probability=float(shares[token, best]))
            before = owner
        return words


class Answerer(Model[Answer]):
    """The answer to a question as a span of a context."""

    task = "question-answering"

    def usual_length(self) -> int:
        return min(384, self._parts.tokenizer.max_length)

    def results(  # type: ignore[override]
        self,
        inputs: list[Any],
        doc_stride: int | None = None,
        n_best: int = 20,
        max_answer_length: int = 30,
        no_answer: bool = False,
        null_threshold: float = 0.0,
    ) -> list[Answer]:
        """A packed file does not record how its model was trained to read: give the values of the recipe where they are
        not the defaults, `max_length` of `load` among them.

        Args:
            inputs: pairs (question, context).
            doc_stride: tokens by which windows of a long context overlap; None: 128, at most a third of `max_length`.
            n_best: start and end positions that are tried.
            max_answer_length: tokens of the longest answer.
            no_answer: contexts may lack an answer, as in SQuAD 2.0; the answer is "" then.
            null_threshold: with `no_answer`, by how much no answer has to be better than one.
        """
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in inputs):
            raise PruneonceError("a question needs its context: give (question, context)")
        if n_best < 1 or max_answer_length < 1:
            raise PruneonceError("n_best and max_answer_length have to be 1 or more")
        stride = min(128, self.max_length // 3) if doc_stride is None else doc_stride
        found = [
            windows(self._parts.tokenizer, question, context, self.max_length, stride) for question, context in inputs
        ]
        outputs = iter(self.run([window.tokens for each in found for window in each]))
        return [
            best_answer(
                context, each, [next(outputs) for _ in each], n_best, max_answer_length, no_answer, null_threshold
            )
            for (_, context), each in zip(inputs, found, strict=True)
        ]


class Embedder(Model[Floats]):
    """A vector for a text, pooled and normalized as the model's sentence-transformers files say."""

    task = "embedding"

    def __init__(self, parts: Parts) -> None:
        self.pooling = Pooling.of(parts.member)
        self.settings = TextSettings.of(parts.member, parts.tokenizer, EMBEDDER)
        super().__init__(parts)

    def usual_length(self) -> int:
        """`max_seq_length` of sentence-transformers' files; without it, as tokenizer and positions say."""
        return self.settings.max_length

    def outputs(self, hidden: Floats, offsets: Int32s) -> list[Floats]:
        return list(self.pooling(hidden, offsets, self.settings.prompt_tokens))

    def results(self, inputs: list[Any]) -> list[Floats]:  # type: ignore[override]
        return self.run(self._parts.tokenizer.texts(self.settings.prompted(inputs), self.max_length))

    def encode(self, texts: str | Sequence[str]) -> npt.NDArray[np.float32]:
        """A vector [width] for a text, or [texts, width] for a list of them, float32."""
        if isinstance(texts, str):
            return self.results([texts])[0]
        width = self.pooling.width(self._parts.network.encoder.hidden)
        return np.array(list(self.stream(texts)), np.float32).reshape(-1, width)


def has_sigmoid(member: Member, config: Configuration) -> bool:
    """Whether the score is a sigmoid: the function that the files name, where they name one of PyTorch.

    Raises:
        PruneonceError: it is neither `Sigmoid` nor `Identity`.
    """
    is_reranker = member.json(MODULES) is not None and type_noted(member) == RERANKER
    in_config = config.get("sentence_transformers")
    names = [
        notes_of(member).get("activation_fn") if is_reranker else None,
        in_config.get("activation_fn") if isinstance(in_config, dict) else None,
        config.get("sbert_ce_default_activation_function"),
    ]
    known = [name.rpartition(".")[2] for name in names if isinstance(name, str) and name.startswith("torch.")]
    if known and known[0] not in ("Sigmoid", "Identity"):
        raise PruneonceError(f"{config.path}: the score is a {known[0]:.60}; it can be a Sigmoid or an Identity")
    return not known or known[0] == "Sigmoid"


AnyModel = Classifier | Regressor | Reranker | Tagger | Answerer | Embedder


def kind_of(config: Configuration) -> type[AnyModel]:
    """
    Raises:
        PruneonceError: the model is for another purpose.
    """
    if config.head is None:
        return Embedder
    if config.head == "tokens":
        return Tagger
    if config.head == "answers":
        if len(config.labels) != 2:
            raise config.damaged("id2label")
        return Answerer
    several = config.get("problem_type") == "multi_label_classification"
    if len(config.labels) == 1:
        return Reranker if several else Regressor
    if several:
        raise PruneonceError(f"{config.path} gives any number of labels to a text, which is not supported")
    return Classifier


def _places(text: Any) -> list[tuple[str, int]]:
    """Words and the characters where they begin."""
    if isinstance(text, str):
        return [(match[0], match.start()) for match in WORD.finditer(text)]
    if not isinstance(text, list) or not all(isinstance(word, str) for word in text):
        raise PruneonceError("a text to tag has to be a str or a list of words")
    starts = np.cumsum([0, *(len(word) + 1 for word in text)])
    return [(word, int(start)) for word, start in zip(text, starts, strict=False)]
