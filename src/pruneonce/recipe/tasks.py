"""Tasks of a recipe: a section for each kind, which also names the class in `pruneonce.tasks` that does the work.

`KINDS` is the one list of kinds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from pruneonce.config.validation import KIND, validate
from pruneonce.errors import UserError
from pruneonce.recipe.presets import with_preset
from pruneonce.recipe.sections import Section, Transfer


class Task(Section):
    """Keys of every kind of task. Data are files, or, with `source`, splits of a hub data set."""

    code: ClassVar[str]  # "package.module:Class" of the kind's work, imported when there is work
    trains_teacher: ClassVar[bool] = True  # False: the dense model itself is the teacher
    hidden_weight: ClassVar[float] = 1.0  # of a transfer that names none

    kind: str = Field(description="Kind of task. In a recipe it may be left out for `classification`.")
    source: str | None = Field(None, description="Hub id of the data. Without it, `train`, `dev` and `test` are files.")
    subset: str | None = Field(None, description="Configuration of the hub data set, such as mnli.")
    train: str = Field(description="File, or split of `source`, to train on.")
    dev: str = Field(description="File, or split of `source`, to choose settings and to measure on.")
    test: str | None = Field(
        None, description="File, or split of `source`, to measure on. Summaries quote it; without it, they quote `dev`."
    )
    held_out: dict[str, str] = Field(
        {}, description="Further files, or splits of `source`, to measure on, by names of your own."
    )
    metric: str = Field(description="Metric that summaries quote. Every kind has a default.")
    max_length: int = Field(128, ge=8, description="Tokens of the longest input. Longer texts are cut.")
    teacher_model: str | None = Field(
        None, description="Dense model fine-tuned on this task, a folder or hub id. Without it, the run trains one."
    )
    teacher: dict[str, Any] = Field({}, description="Changes to the recipe's `teacher` for this task.")
    transfer: dict[str, Any] = Field({}, description="Changes to the recipe's `transfer` for this task.")
    quantize: dict[str, Any] = Field({}, description="Changes to the recipe's `quantize` for this task.")

    @field_validator("held_out")
    @classmethod
    def _other_splits(cls, held_out: dict[str, str]) -> dict[str, str]:
        own_splits = [name for name in ("train", "dev", "test") if name in held_out]
        if own_splits:
            raise ValueError(f"`{own_splits[0]}` is a key of the task itself; give a further split another name")
        return held_out

    @property
    def has_teacher(self) -> bool:
        """Return whether the task has a dense teacher without training one: a given one, or the dense model."""
        return bool(self.teacher_model) or not self.trains_teacher

    def splits(self) -> dict[str, str]:
        """Return files or hub splits by the name of the split: train, dev, an optional test, and further ones."""
        splits = {"train": self.train, "dev": self.dev, "test": self.test, **self.held_out}
        return {name: where for name, where in splits.items() if where is not None}

    def completed(self, settings: Transfer) -> Transfer:
        """Return `settings` with the weight that they leave to the kind of task."""
        if settings.hidden_weight is not None:
            return settings
        return settings.model_copy(update={"hidden_weight": self.hidden_weight})

    def data(self) -> dict[str, str]:
        """Return `splits`, and the other data that a stage with a teacher reads."""
        return self.splits()


class TextTask(Task):
    """Kinds of task that can also learn from texts without labels."""

    unlabelled: str | None = Field(
        None,
        exclude_if=lambda unlabelled: unlabelled is None,
        description="File, or split of `source`, with texts that only the task's teacher labels; the sparse model "
        "learns from them too. An error with a `task_weight` above 0.",
    )

    def data(self) -> dict[str, str]:
        """Return `splits`, and the texts without labels."""
        return {**self.splits(), **({"unlabelled": self.unlabelled} if self.unlabelled else {})}


def _quoted(labels: Any) -> Any:
    """Refuse names that YAML reads as other values.

    Raises:
        ValueError: a name is none.
    """
    if isinstance(labels, list) and any(not isinstance(name, str) for name in labels):
        read = json.dumps(next(name for name in labels if not isinstance(name, str)), default=str)
        raise ValueError(f'names want quotes, such as ["no", "yes"]: without them YAML reads one as {read}')
    return labels


# Names of classes, in order.
Names = Annotated[list[str], BeforeValidator(_quoted)]


class Classification(TextTask):
    """One class out of several, for a text or a pair of texts."""

    code: ClassVar[str] = "pruneonce.tasks.classification:ClassificationKind"

    kind: Literal["classification"] = Field(
        "classification", description="One class out of several, for a text or a pair."
    )
    text: str = Field("text", description="Column with the text.")
    text_pair: str | None = Field(
        None, description="Column with the second text of a pair. Without it, there are no pairs."
    )
    label: str = Field("label", description="Column with the label: a name, or a number from 0.")
    labels: Names | None = Field(
        None,
        description="Label names in order. Without it, those in the metadata of the data, or in the training data.",
    )
    metric: str = Field(
        "accuracy",
        description="Metric that summaries quote: `accuracy`, `matthews_correlation`, `f1` (two classes) or `f1_macro` "
        "(more).",
    )


class Regression(TextTask):
    """A number for a text or a pair of texts."""

    code: ClassVar[str] = "pruneonce.tasks.regression:RegressionKind"

    kind: Literal["regression"] = Field("regression", description="A number for a text or a pair.")
    text: str = Field("text", description="Column with the text.")
    text_pair: str | None = Field(
        None, description="Column with the second text of a pair. Without it, there are no pairs."
    )
    label: str = Field("label", description="Column with the number.")
    metric: str = Field("spearman", description="Metric that summaries quote: `spearman` or `pearson`.")


class QuestionAnswering(TextTask):
    """The answer to a question as a span of a context: SQuAD's .json files, or rows with its columns."""

    code: ClassVar[str] = "pruneonce.tasks.question_answering:QuestionAnsweringKind"

    # With a weight of 1, the distance of distributions over hundreds of tokens outweighs that of hidden states.
    hidden_weight: ClassVar[float] = 10.0

    kind: Literal["question-answering"] = Field(
        "question-answering", description="A span of a text as the answer to a question."
    )
    question: str = Field("question", description="Column with the question.")
    context: str = Field("context", description="Column with the text that holds the answer.")
    answers: str = Field(
        "answers",
        description="Column with `{text: [...], answer_start: [...]}`, both empty where there is no answer.",
    )
    id: str = Field("id", description="Column with the question's identifier.")
    metric: str = Field("f1", description="Metric that summaries quote: `f1` or `exact_match`.")
    max_length: int = Field(384, ge=32, description="Tokens of a window: the question and a piece of the context.")
    doc_stride: int = Field(128, ge=1, description="Tokens that two neighbouring windows of a long context share.")
    n_best: int = Field(20, ge=1, description="Best starts, and best ends, that are tried in each window.")
    max_answer_length: int = Field(30, ge=1, description="Tokens of the longest answer.")
    no_answer: bool = Field(
        False, description="Allow questions without an answer, as in SQuAD 2.0. Otherwise such data is an error."
    )
    null_threshold: float = Field(
        0.0,
        description="With `no_answer`: leave a question unanswered where the score of no answer is above that of the "
        "best span by more than this.",
    )


class TokenClassification(Task):
    """A tag for each word: rows with a list of words and a list of tags, or text files as CoNLL has them."""

    code: ClassVar[str] = "pruneonce.tasks.token_classification:TokenClassificationKind"

    kind: Literal["token-classification"] = Field("token-classification", description="A tag for each word.")
    tokens: str = Field("tokens", description="Column with the list of words.")
    tags: str = Field("tags", description="Column with the list of their tags: names, or numbers from 0.")
    labels: Names | None = Field(
        None,
        description="Tag names in order. Without it, those in the metadata of the data, or in the training data.",
    )
    metric: str = Field(
        "f1",
        description="Metric that summaries quote: `f1`, `precision` or `recall` of spans, or `accuracy`; where tags "
        "mark no spans, `accuracy` or `f1_macro`.",
    )


class Embedding(Task):
    """A vector for a text, like the dense model's, learnt from unlabelled texts: `.txt` with a text a line, or rows.

    `dev` and `test` are pairs with a similarity, or queries and passages with a relevance; `metric` says which.
    """

    code: ClassVar[str] = "pruneonce.tasks.embedding:EmbeddingKind"
    trains_teacher: ClassVar[bool] = False

    kind: Literal["embedding"] = Field("embedding", description="A vector for a text.")
    text: str = Field(
        "text", description="Column with the text; in `dev` and `test`, with the first text of a pair or the query."
    )
    text_pair: str = Field(
        "text_pair", description="In `dev` and `test`, column with the second text of a pair or the passage."
    )
    label: str = Field(
        "label",
        description="In `dev` and `test`, column with the similarity of a pair or the relevance of the passage.",
    )
    train_text: str | None = Field(
        None, description="In `train`, column with the text. Without it, the column that `text` names."
    )
    examples: int | None = Field(
        None, ge=1, description="Number of texts to train on, the first in `train`. Without it, all."
    )
    metric: str = Field(
        "spearman",
        description="Metric that summaries quote: `spearman` or `pearson` of the cosines of pairs, `ndcg@10` or "
        "`mrr@10` of retrieval. It also says how `dev` and `test` are read.",
    )
    embedding_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of the distance to the teacher's vectors. 0 for a teacher with vectors of another width.",
    )
    similarity_weight: float = Field(
        1.0, ge=0, description="Weight of the distance to the teacher's similarities within a batch."
    )

    @model_validator(mode="after")
    def _something_to_distil(self) -> Embedding:
        if not self.embedding_weight and not self.similarity_weight:
            raise ValueError("of `embedding_weight` and `similarity_weight` one at least has to be above 0")
        return self


class Reranking(TextTask):
    """A score for a query and a passage (a cross-encoder); rows of one query are its candidates."""

    code: ClassVar[str] = "pruneonce.tasks.reranking:RerankingKind"

    kind: Literal["reranking"] = Field("reranking", description="A score for a query and a passage.")
    query: str = Field("query", description="Column with the query. The rows of one query are its candidates.")
    passage: str = Field("passage", description="Column with the text that is ranked.")
    label: str = Field(
        "label", description="Column with the relevance: 0 or 1, or a grade. 0 and less means not relevant."
    )
    metric: str = Field(
        "ndcg@10",
        description="Metric that summaries quote: `ndcg@10` or `mrr@10` over the candidates of each query.",
    )


KINDS: dict[str, type[Task]] = {
    kind.model_fields["kind"].default: kind
    for kind in (Classification, Regression, QuestionAnswering, TokenClassification, Embedding, Reranking)
}


def _tag(value: Any) -> str:
    """Return a kind as pydantic's errors name it, told apart from a key."""
    kind = value.get("kind", "classification") if isinstance(value, dict) else getattr(value, "kind", "classification")
    return f"{KIND}{kind}"


if TYPE_CHECKING:
    AnyTask = Task
else:
    AnyTask = Annotated[
        Union[tuple(Annotated[kind, Tag(f"{KIND}{name}")] for name, kind in KINDS.items())],  # noqa: UP007
        Discriminator(
            _tag, custom_error_type="unknown_kind", custom_error_message=f"`kind` is one of {', '.join(KINDS)}"
        ),
    ]


def make_task(values: dict[str, Any], at: str = "") -> Task:
    """Make a task of a recipe's values, a preset's included, with its mistakes as one `UserError`."""
    values = with_preset(values, at)
    kind = str(values.get("kind", "classification"))
    if kind not in KINDS:
        raise UserError(f"`{at + '.' if at else ''}kind` is {kind!r}; it is one of {', '.join(KINDS)}")
    return validate(KINDS[kind], values, at)  # type: ignore[no-any-return]
