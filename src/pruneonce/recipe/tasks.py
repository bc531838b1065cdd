"""Tasks as a recipe names them: a section for each kind, which also names the class in `pruneonce.tasks` that does the
work. `KINDS` is the one list of kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from pruneonce.config.validation import KIND, validate
from pruneonce.errors import UserError
from pruneonce.recipe.presets import with_preset
from pruneonce.recipe.sections import Section, Transfer


class Task(Section):
    """What every kind of task has: data from files (`train`, `dev`, `test` are paths) or the hub (`source`, and they
    are splits)."""

    code: ClassVar[str]  # "package.module:Class" of the kind's work, imported when there is work
    trains_teacher: ClassVar[bool] = True  # False: the dense model is the teacher as it is
    hidden_weight: ClassVar[float] = 1.0  # of a transfer that names none

    kind: str
    source: str | None = Field(None, description="hub id; leave out for local files")
    subset: str | None = Field(None, description="configuration of the hub data set, such as mnli")
    train: str
    dev: str
    test: str | None = None
    held_out: dict[str, str] = Field({}, description="more splits to measure on, by a name of your own")
    metric: str = Field(description="the metric that summaries quote")
    max_length: int = Field(128, ge=8, description="tokens of the longest input; longer ones are cut")
    teacher_model: str | None = Field(None, description="dense task teacher; trained by the pipeline if left out")
    teacher: dict[str, Any] = Field({}, description="this task's changes to the recipe's `teacher`")
    transfer: dict[str, Any] = Field({}, description="this task's changes to the recipe's `transfer`")
    quantize: dict[str, Any] = Field({}, description="this task's changes to the recipe's `quantize`")

    @field_validator("held_out")
    @classmethod
    def _other_splits(cls, held_out: dict[str, str]) -> dict[str, str]:
        taken = [name for name in ("train", "dev", "test") if name in held_out]
        if taken:
            raise ValueError(f"`{taken[0]}` is a key of the task itself; give a further split another name")
        return held_out

    @property
    def has_teacher(self) -> bool:
        """Whether a run has a dense teacher for the task without training one: a given one, or the dense model."""
        return bool(self.teacher_model) or not self.trains_teacher

    def splits(self) -> dict[str, str]:
        """Files or hub splits by the name of the split: train, dev, test where there is one, and further ones."""
        named = {"train": self.train, "dev": self.dev, "test": self.test, **self.held_out}
        return {name: where for name, where in named.items() if where is not None}

    def completed(self, settings: Transfer) -> Transfer:
        """`settings` with the weight that they leave to the kind of task."""
        if settings.hidden_weight is not None:
            return settings
        return settings.model_copy(update={"hidden_weight": self.hidden_weight})

    def data(self) -> dict[str, str]:
        """`splits`, and what else a stage with a teacher reads."""
        return self.splits()


class TextTask(Task):
    """A task whose texts a teacher can judge where nobody else has."""

    unlabelled: str | None = Field(
        None,
        exclude_if=lambda unlabelled: unlabelled is None,
        description="more texts to learn from, with no labels but what the task teacher says of them",
    )

    def data(self) -> dict[str, str]:
        return {**self.splits(), **({"unlabelled": self.unlabelled} if self.unlabelled else {})}


class Classification(TextTask):
    """One class out of several, for a text or a pair of texts."""

    code: ClassVar[str] = "pruneonce.tasks.classification:ClassificationKind"

    kind: Literal["classification"] = "classification"
    text: str = Field("text", description="column with the text")
    text_pair: str | None = Field(None, description="column with the second text of a pair")
    label: str = Field("label", description="column with the label: a name, or a number from 0")
    labels: list[str] | None = Field(None, description="label names in order; read from the training data if left out")
    metric: str = Field("accuracy", description="the metric that summaries quote")


class Regression(TextTask):
    """A number for a text or a pair of texts."""

    code: ClassVar[str] = "pruneonce.tasks.regression:RegressionKind"

    kind: Literal["regression"] = "regression"
    text: str = Field("text", description="column with the text")
    text_pair: str | None = Field(None, description="column with the second text of a pair")
    label: str = Field("label", description="column with the number")
    metric: str = Field("spearman", description="the metric that summaries quote")


class QuestionAnswering(TextTask):
    """The answer to a question as a span of a context: SQuAD's .json files, or rows with its columns."""

    code: ClassVar[str] = "pruneonce.tasks.question_answering:QuestionAnsweringKind"

    # Beside the distance of distributions over hundreds of tokens, a weight of 1 leaves hidden states little say.
    hidden_weight: ClassVar[float] = 10.0

    kind: Literal["question-answering"] = "question-answering"
    question: str = Field("question", description="column with the question")
    context: str = Field("context", description="column with the text that holds the answer")
    answers: str = Field("answers", description="column with `{text: [...], answer_start: [...]}`; empty: no answer")
    id: str = Field("id", description="column with what identifies the question")
    metric: str = Field("f1", description="the metric that summaries quote")
    max_length: int = Field(384, ge=32, description="tokens of a window: the question and a piece of the context")
    doc_stride: int = Field(128, ge=1, description="tokens that windows of a long context have in common")
    n_best: int = Field(20, ge=1, description="start and end positions that are tried")
    max_answer_length: int = Field(30, ge=1, description="tokens of the longest answer")
    no_answer: bool = Field(False, description="questions may have no answer (SQuAD 2.0)")
    null_threshold: float = Field(0.0, description="with `no_answer`: by how much no answer has to be better than one")


class TokenClassification(Task):
    """A tag for each word: rows with a list of words and a list of tags, or text files as CoNLL has them."""

    code: ClassVar[str] = "pruneonce.tasks.token_classification:TokenClassificationKind"

    kind: Literal["token-classification"] = "token-classification"
    tokens: str = Field("tokens", description="column with the list of words")
    tags: str = Field("tags", description="column with the list of their tags: names, or numbers from 0")
    labels: list[str] | None = Field(None, description="tag names in order; read from the training data if left out")
    metric: str = Field("f1", description="f1, precision or recall of spans; accuracy; without spans f1_macro")


class Embedding(Task):
    """A vector for a text, like that of the dense model, learnt from unlabelled texts (`train`): `.txt`, a text a line,
    or rows.

    `dev` and `test` are pairs with a similarity, or queries and passages with a relevance; `metric` says which.
    """

    code: ClassVar[str] = "pruneonce.tasks.embedding:EmbeddingKind"
    trains_teacher: ClassVar[bool] = False

    kind: Literal["embedding"] = "embedding"
    text: str = Field("text", description="column with the text; with the first of a pair, or the query")
    text_pair: str = Field("text_pair", description="in `dev` and `test`, the second text of a pair, or the passage")
    label: str = Field("label", description="in `dev` and `test`, the similarity of the pair, or the relevance")
    train_text: str | None = Field(None, description="in `train`, the column with the text; left out: that of `text`")
    examples: int | None = Field(None, ge=1, description="train on the first so many texts; left out: on all")
    metric: str = Field("spearman", description="spearman or pearson of pairs; ndcg@10 or mrr@10 of passages")
    embedding_weight: float = Field(1.0, ge=0, description="of the distance of the vectors from the teacher's")
    similarity_weight: float = Field(1.0, ge=0, description="of that of the similarities within a batch")

    @model_validator(mode="after")
    def _something_to_distil(self) -> Embedding:
        if not self.embedding_weight and not self.similarity_weight:
            raise ValueError("of `embedding_weight` and `similarity_weight` one at least has to be above 0")
        return self


class Reranking(TextTask):
    """A score for a query and a passage (a cross-encoder); rows of one query are its candidates."""

    code: ClassVar[str] = "pruneonce.tasks.reranking:RerankingKind"

    kind: Literal["reranking"] = "reranking"
    query: str = Field("query", description="column with the query; equal ones belong together")
    passage: str = Field("passage", description="column with the text that is ranked")
    label: str = Field("label", description="column with the relevance: 0 or 1, or a grade, of which 0 is none")
    metric: str = Field("ndcg@10", description="the metric that summaries quote: ndcg@10 or mrr@10")


KINDS: dict[str, type[Task]] = {
    kind.model_fields["kind"].default: kind
    for kind in (Classification, Regression, QuestionAnswering, TokenClassification, Embedding, Reranking)
}


def _tag(value: Any) -> str:
    """Told apart, in pydantic's errors, from a key."""
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
    """A task out of a recipe's values, a preset's included, with its mistakes as one `UserError`."""
    values = with_preset(values, at)
    kind = str(values.get("kind", "classification"))
    if kind not in KINDS:
        raise UserError(f"`{at + '.' if at else ''}kind` is {kind!r}; it is one of {', '.join(KINDS)}")
    return validate(KINDS[kind], values, at)  # type: ignore[no-any-return]
