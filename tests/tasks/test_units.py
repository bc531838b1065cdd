"""Units of every kind of task: the metric of a resample is that of the rows that were drawn."""

import numpy as np
import pytest
from datasets import Dataset
from shared.settings import KINDS

from pruneonce.metrics.squad import METRICS as SQUAD
from pruneonce.recipe import Embedding, TokenClassification
from pruneonce.tasks import kind_of
from pruneonce.tasks.classification import METRICS as CLASSES
from pruneonce.tasks.judgements import METRICS as RANKINGS
from pruneonce.tasks.regression import METRICS as CORRELATIONS
from pruneonce.tasks.token_classification import PLAIN_METRICS
from pruneonce.tasks.token_classification import spans as tags_of_spans

METRICS = {
    "classification": [name for name in CLASSES if name != "f1_macro"],
    "regression": CORRELATIONS,
    "question-answering": SQUAD,
    "token-classification": tags_of_spans.METRICS,
    "embedding": CORRELATIONS,
    "reranking": RANKINGS,
}


def outputs_of(kind, examples):
    """Random outputs of a model, of the shape that the kind's have."""
    draw = np.random.default_rng(2)
    shapes = {"classification": (2,), "regression": (), "reranking": (), "embedding": (8,)}
    widths = {"question-answering": 2, "token-classification": 3}
    name = kind.task.kind
    return [
        draw.normal(size=shapes[name] if name in shapes else (len(ids), widths[name])).astype(np.float32)
        for ids in examples["input_ids"]
    ]


def loaded(task, tokenizer, tmp_path):
    kind = kind_of(task)
    rows = kind.load(tmp_path).splits["dev"]
    examples = kind.encode(rows, tokenizer)
    return kind, rows, examples, outputs_of(kind, examples)


def check(task, tokenizer, tmp_path):
    kind, rows, examples, outputs = loaded(task, tokenizer, tmp_path)
    found = kind.units(outputs, rows, examples)
    everything = np.arange(len(found))
    measured = kind.measure(outputs, rows, examples)[task.metric]
    assert kind.resampled(found.values, everything) == pytest.approx(measured)
    assert kind.resampled(found.values, np.stack([everything, everything[::-1]])) == pytest.approx([measured] * 2)
    assert all(len(values) == len(found) for values in found.values.values())
    assert len(found.decisions) == len(found.right)
    return found, len(rows)


@pytest.mark.parametrize(("name", "metric"), [(name, metric) for name in KINDS for metric in METRICS[name]])
def test_the_metric_of_all_units_is_that_of_the_split(name, metric, tokenizer, tmp_path):
    task = KINDS[name](tmp_path).model_copy(update={"metric": metric})
    found, rows = check(task, tokenizer, tmp_path)
    number = {"classification": rows, "question-answering": rows, "token-classification": 4 * rows}
    assert len(found.decisions) == number.get(name, 0)
    assert found.decides_units == (name == "classification")


def test_passages_are_ranked_for_each_query(tokenizer, tmp_path):
    pairs = KINDS["embedding"](tmp_path)
    task = Embedding(**{**pairs.model_dump(), "metric": "mrr@10"})
    found, rows = check(task, tokenizer, tmp_path)
    assert (len(found), rows) == (10, 40), "a query is a unit"


@pytest.mark.parametrize("metric", PLAIN_METRICS)
def test_plain_tags(metric, tokenizer, tmp_path):
    file = tmp_path / "plain.jsonl"
    rows = [
        {"tokens": ["the", "river", "was"][: 1 + i % 3], "tags": ["det", "noun", "verb"][: 1 + i % 3]} for i in range(9)
    ]
    Dataset.from_list(rows).to_json(file)
    check(TokenClassification(train=str(file), dev=str(file), metric=metric), tokenizer, tmp_path)


def test_a_resample_of_questions_is_scored_as_those_questions(tokenizer, tmp_path):
    kind, rows, examples, outputs = loaded(KINDS["question-answering"](tmp_path), tokenizer, tmp_path)
    found = kind.units(outputs, rows, examples)
    chosen = np.array([3, 7, 21])
    windows = [i for i, row in enumerate(examples["example"]) if row in chosen]
    some = examples.select(windows)
    renumbered = [chosen.tolist().index(row) for row in some["example"]]
    some = some.remove_columns("example").add_column("example", renumbered)
    plain = kind.measure([outputs[i] for i in windows], rows.select(chosen), some)
    assert kind.resampled(found.values, chosen) == pytest.approx(plain["f1"])
    assert found.noun == "answers"
