"""Task data is read once in a process and tokenized once for each tokenizer; what a seed decides is not kept."""

import copy
import json
from collections import Counter

import pytest
from datasets import Dataset
from shared.models import WORDS

from pruneonce import stages
from pruneonce.errors import UserError
from pruneonce.recipe import Calibrate, Classification, Embedding, Recipe, Training, Transfer, validate
from pruneonce.runs import pipeline
from pruneonce.tasks import kind_of, loaded
from pruneonce.tasks.classification import ClassificationKind


@pytest.fixture
def kept(monkeypatch):
    """An empty store."""
    made = loaded.Kept(loaded.MOST_BYTES)
    monkeypatch.setattr(loaded, "KEPT", made)
    return made


@pytest.fixture
def counts(kept, monkeypatch):
    """How often classification data was read, and rows of each number were tokenized, for training or not."""
    found = Counter()
    load, encode = ClassificationKind.load, ClassificationKind.encode

    def counted_load(self, cache):
        found["read"] += 1
        return load(self, cache)

    def counted_encode(self, rows, tokenizer, training=False):
        found[len(rows), training] += 1
        return encode(self, rows, tokenizer, training)

    monkeypatch.setattr(ClassificationKind, "load", counted_load)
    monkeypatch.setattr(ClassificationKind, "encode", counted_encode)
    return found


def test_a_run_reads_each_task_once(tiny_recipe, counts, tmp_path):
    """Two seeds of five arms: 96 rows to train on, 32 of dev, 40 of test. The check of a recipe encodes one row."""
    values = tiny_recipe()
    short = {"steps": 1, "batch_size": 8, "learning_rate": 1e-3}
    values["prune"] |= {"steps": 2, "start": 0, "end": 1, "every": 1}
    values |= {"seeds": [1, 2], "teacher": short, "transfer": short, "pack": False}
    values["quantize"] = {"int8": short, "int8_ptq": {"examples": 8}}
    values["baselines"] = {"one_shot": True}
    pipeline.run(validate(Recipe, values), tmp_path / "run")
    seeds_own = counts.pop((8, True))  # the rows that calibration chooses by its seed
    assert seeds_own == 2
    assert counts == {"read": 1, (1, False): 1, (96, True): 1, (32, False): 1, (40, False): 1}


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "rows.jsonl"
    write(made, WORDS[:10])
    return made


def write(file, words):
    file.write_text(
        "".join(json.dumps({"text": word, "label": number % 2}) + "\n" for number, word in enumerate(words))
    )


def task_of(file, **changes):
    return Classification(train=str(file), dev=str(file), **changes)


def texts(task, cache):
    return loaded.load(kind_of(task), cache).rows("train")["text"][:]


def test_a_changed_file_is_read_again(file, kept, tmp_path):
    task = task_of(file)
    assert texts(task, tmp_path) == WORDS[:10]
    write(file, WORDS[10:20])
    assert texts(task, tmp_path) == WORDS[10:20]


def test_settings_that_change_examples_are_told_apart(file, kept, tokenizer, tmp_path):
    """By length, by metric, by whether it is for training, by the tokenizer; the last call's padding is no matter."""
    write(file, [" ".join(WORDS)] * 4)
    long, short = (
        loaded.load(kind_of(task_of(file, max_length=length)), tmp_path).examples("train", tokenizer)["input_ids"][0]
        for length in (32, 8)
    )
    assert (len(long), len(short)) == (32, 8)
    task = loaded.load(kind_of(task_of(file)), tmp_path)
    assert task.examples("train", tokenizer) is task.examples("train", tokenizer)
    before = task.examples("train", tokenizer)
    tokenizer("a", padding="max_length", max_length=20)
    assert task.examples("train", tokenizer) is before
    assert task.examples("train", tokenizer, training=True) is not before
    other = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, truncation_side="left", pad_token="[PAD]")
    assert task.examples("train", other) is not before


def test_a_metric_is_checked_though_the_data_is_kept(file, kept, tmp_path):
    """Ranking metrics want other values in a split than correlations do."""
    rows = [{"text": "a", "text_pair": "b", "label": 0}, {"text": "a", "text_pair": "c", "label": 0.5}]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "label": -1}]))
    pairs = Embedding(train=str(file), dev=str(file))
    loaded.load(kind_of(pairs), tmp_path)
    with pytest.raises(UserError, match="metric"):
        loaded.load(kind_of(pairs.model_copy(update={"metric": "accuracy"})), tmp_path)


def test_a_missing_file_is_said_as_without_a_store(tmp_path, kept):
    with pytest.raises(UserError, match=r"no such file: .*away\.jsonl"):
        loaded.load(kind_of(task_of(tmp_path / "away.jsonl")), tmp_path)
    assert not kept.values


def test_the_store_is_bounded():
    """Of three values that are too much together, the one not used for the longest time goes."""
    made, store = [], loaded.Kept(10)

    def get(key, size=4):
        return store.get(key, lambda: made.append(key) or key, lambda value: size)

    assert [get(key) for key in "abacab"] == list("abacab")
    assert made == ["a", "b", "c", "b"]
    assert get("large", 11) == "large"
    assert list(store.values) == ["a", "b"]
    assert get(None) is None
    assert get(None) is None
    assert made[-2:] == [None, None]


def test_bytes_are_those_of_all_splits(file, kept, tmp_path):
    loaded.load(kind_of(task_of(file)), tmp_path)
    ((data, size),) = kept.values.values()
    assert size == sum(rows.data.nbytes for rows in data.splits.values()) > 0
    assert isinstance(data.splits["train"], Dataset)


def test_stages_make_the_same_of_kept_data(encoder, models, task, kept, tmp_path):
    """Bit for bit: with an empty store, and with one that holds the data and its tokens."""
    dense, sparse = models
    settings = {"steps": 2, "batch_size": 8, "learning_rate": 1e-3}
    weights = []
    for number in range(2):
        folder = tmp_path / str(number)
        made = (
            stages.finetune(encoder, task, Training(**settings), folder / "dense", seed=3),
            stages.transfer(sparse, task, Transfer(**settings), folder / "sparse", teacher=dense, seed=3),
            stages.calibrate(sparse, task, Calibrate(examples=8), folder / "int8", seed=3),
        )
        weights.append([(one / "model.safetensors").read_bytes() for one in made])
        assert kept.values
    assert weights[0] == weights[1]


def test_a_tokenizer_that_cannot_fill_up_a_batch(file, kept, tmp_path, tokenizer):
    task = Classification(train=str(file), dev=str(file))
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    with pytest.raises(UserError, match="has no `pad_token`, which fills up batches; set one"):
        loaded.load(kind_of(task), tmp_path).examples("dev", bare)


def test_a_panic_of_the_tokenizer_is_one_line(file, kept, tmp_path, tokenizer, monkeypatch):
    class PanicException(BaseException):  # as the library in Rust calls it
        pass

    def encode(*arguments):
        raise PanicException("no entry found for key")

    monkeypatch.setattr(ClassificationKind, "encode", encode)
    data = loaded.load(kind_of(Classification(train=str(file), dev=str(file))), tmp_path)
    with pytest.raises(UserError, match=r"the tokenizer of .* is damaged: no entry found for key"):
        data.examples("dev", tokenizer)
