"""Embedding tasks: what is read, the losses against numpy, and a sparse model that sentence-transformers loads."""

import json
import shutil
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from shared.folders import zeros_in_file
from shared.models import WORDS, make_loud, make_model
from sklearn.metrics import ndcg_score
from transformers import AutoModel

from pruneonce import stages, storage
from pruneonce.cli import main
from pruneonce.engines import open_engine
from pruneonce.errors import UserError
from pruneonce.losses import distillation
from pruneonce.models import load_tokenizer
from pruneonce.models import sentence_transformers as its_files
from pruneonce.models.pooling import MODES, OLDER, SIMILARITIES, Pooling
from pruneonce.recipe import (
    Calibrate,
    Embedding,
    Gradual,
    Prune,
    Quantize,
    Recipe,
    Training,
    Transfer,
    make_task,
    validate,
)
from pruneonce.runs import pipeline, quickstart
from pruneonce.sparsity import verify
from pruneonce.tasks import kind_of
from pruneonce.tasks.prediction import predict

MODULES = ["", "1_Pooling", "2_Normalize"]
NAMES = ["Transformer", "Pooling", "Normalize"]
TRANSFER = {"steps": 6, "batch_size": 8, "learning_rate": 1e-3, "dropout": 0.0}
PAIRS = [
    {"text": "the river", "text_pair": "the water", "label": 0.9},
    {"text": "the river", "text_pair": "bad music", "label": 0.1},
    {"text": "a city", "text_pair": "the house", "label": 0.5},
    {"text": "awful winter", "text_pair": "great summer", "label": 0.2},
]


def sentence_transformer(folder, pooling=None, kinds=NAMES):
    """sentence-transformers' files for a model folder, by hand."""
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(MODULES, kinds, strict=False))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": false}')
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"pooling_mode_mean_tokens": True} if pooling is None else pooling
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    return folder


@pytest.fixture(scope="session")
def dense(encoder, tmp_path_factory):
    """Its layers count for something, as those of a new model hardly do."""
    return make_loud(sentence_transformer(shutil.copytree(encoder, tmp_path_factory.mktemp("embedding") / "dense")))


@pytest.fixture(scope="session")
def sparse(dense, tmp_path_factory):
    settings = Prune(objective="hidden", steps=1, learning_rate=1e-3, sparsity=0.6)
    return stages.prune_one_shot(dense, settings, tmp_path_factory.mktemp("sparse") / "sparse")


@pytest.fixture
def files(tmp_path):
    """`files(**rows by split)`: a folder with a corpus of texts and these splits."""

    def write(**splits):
        (tmp_path / "train.txt").write_text(
            "".join(" ".join((WORDS[i], WORDS[-i - 1], WORDS[7 * i % 48])) + "\n" for i in range(24))
        )
        for split, rows in splits.items():
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"train": str(tmp_path / "train.txt"), **{s: str(tmp_path / f"{s}.jsonl") for s in splits}}

    return write


@pytest.fixture
def task(files):
    return Embedding(**files(dev=PAIRS))


@contextmanager
def older_names():
    """sentence-transformers warns where files or imports have the names that its version 5 knew."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing from 'sentence_transformers", DeprecationWarning)
        yield


def encode_with_sentence_transformers(folder, texts):
    from sentence_transformers import SentenceTransformer

    with older_names():
        return SentenceTransformer(str(folder), device="cpu").encode(texts, show_progress_bar=False)


def vectors(folder, task, texts):
    """Our own prediction."""
    kind, tokenizer = kind_of(task).for_model(folder), load_tokenizer(folder)
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in tokenizer(texts)["input_ids"]]
    examples = Dataset.from_list(rows)
    return np.stack(predict(kind.load_model(folder), kind, examples, kind.collate(tokenizer), batch_size=2))


# -- data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet"])
def test_training_texts_of_every_format(suffix, files, tmp_path):
    texts = ["the river", "a stone, good", "music"]
    file = tmp_path / f"texts{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), file)
    elif suffix == ".csv":
        file.write_text("text\n" + "".join(f'"{text}"\n' for text in texts))
    else:
        lines = texts if suffix == ".txt" else [json.dumps({"text": text}) for text in texts]
        file.write_text("\n".join([*lines[:1], "", *lines[1:]]))
    task = Embedding(**{**files(dev=PAIRS), "train": str(file)})
    data = kind_of(task).load(tmp_path)
    assert data.splits["train"].to_list() == [{"text": text} for text in texts]
    assert data.splits["dev"].to_list() == PAIRS
    first = task.model_copy(update={"examples": 2})
    assert kind_of(first).load(tmp_path).splits["train"]["text"][:] == texts[:2]


def test_columns_under_other_names(files, tmp_path):
    rows = [{"q": row["text"], "p": row["text_pair"], "y": row["label"]} for row in PAIRS]
    paths = files(dev=rows, train=[{"body": "the river"}])
    task = Embedding(**paths, text="q", text_pair="p", label="y", train_text="body")
    assert kind_of(task).load(tmp_path).splits["dev"].to_list() == PAIRS


@pytest.mark.parametrize(
    ("changes", "dev", "message"),
    [
        ({"metric": "accuracy"}, PAIRS, "no metric 'accuracy' for an embedding; there are pearson, spearman, ndcg@10"),
        ({}, [{**PAIRS[0], "label": "near"}], r"line 1: 'label' has to be a number, not \"near\""),
        ({}, PAIRS[:1], "all numbers in 'label' are the same"),
        ({}, [{**PAIRS[0], "text_pair": None}], "'text_pair' has to be text, not null"),
        ({"text": "txt"}, PAIRS, "no column 'txt', only .*; did you mean 'text'"),
        ({"metric": "ndcg@10"}, [{**row, "label": 0} for row in PAIRS], "no passage is relevant to its query"),
        (
            {"metric": "mrr@10"},
            [PAIRS[0], {**PAIRS[0], "label": 0}],
            r"line 2: this passage has the relevance 0 for its query, further up 0\.9",
        ),
        ({"train": "nowhere.txt"}, PAIRS, "no such file: nowhere.txt"),
    ],
)
def test_mistakes_in_the_data_are_one_line(changes, dev, message, files, tmp_path):
    task = Embedding(**{**files(dev=dev), **changes})
    with pytest.raises(UserError, match=message) as caught:
        kind_of(task).load(tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_no_text_at_all(files, tmp_path):
    paths = files(dev=PAIRS)
    (tmp_path / "train.txt").write_text("\n  \n")
    with pytest.raises(UserError, match=r"train\.txt has no text to train on"):
        kind_of(Embedding(**paths)).load(tmp_path)


def test_no_weight_at_all():
    with pytest.raises(UserError, match="of `embedding_weight` and `similarity_weight` one at least"):
        make_task({"kind": "embedding", "train": "a", "dev": "b", "embedding_weight": 0, "similarity_weight": 0})


def test_each_text_is_encoded_once(task, tokenizer, tmp_path):
    kind = kind_of(task)
    data = kind.load(tmp_path)
    assert kind.texts(data.splits["dev"]) == [
        "the river", "the water", "bad music", "a city", "the house", "awful winter", "great summer",
    ]  # fmt: skip
    encoded = kind.encode(data.splits["dev"], tokenizer)
    assert encoded["input_ids"][0] == tokenizer("the river")["input_ids"]
    assert len(encoded) == 7
    assert "labels" not in encoded.column_names
    short = kind_of(task.model_copy(update={"max_length": 3})).encode(data.splits["train"], tokenizer, training=True)
    assert [len(ids) for ids in short["input_ids"]] == [3] * 24


# -- pooling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("older", [False, True])
def test_pooling_is_that_of_sentence_transformers(mode, older, encoder, tmp_path):
    with older_names():
        from sentence_transformers.models import Pooling as Theirs
    names = {mode: name for name, mode in OLDER.items()}
    config = {names[mode]: True, names["cls"]: mode == "cls"} if older else {"pooling_mode": mode}
    folder = sentence_transformer(shutil.copytree(encoder, tmp_path / "model"), config, NAMES[:2])
    ours = Pooling.of(folder)
    assert ours == Pooling((mode,), normalize=False)
    hidden, mask = torch.randn(3, 4, 32), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    theirs = Theirs(32, pooling_mode=mode)({"token_embeddings": hidden, "attention_mask": mask})
    torch.testing.assert_close(ours(hidden, mask), theirs["sentence_embedding"])


def test_pooling_where_nothing_is_said(encoder, dense):
    assert Pooling.of(encoder) == Pooling(("mean",), normalize=False)
    assert Pooling.of(dense) == Pooling(("mean",), normalize=True)


@pytest.mark.parametrize(
    ("pooling", "kinds", "message"),
    [
        ({"pooling_mode": "min"}, NAMES, "cannot pool by min; it can by cls, max, mean"),
        ({"pooling_mode": []}, NAMES, "cannot pool by nothing"),
        ({"pooling_mode_min_tokens": True}, NAMES, "does not know `pooling_mode_min_tokens`"),
        ({}, ["Transformer", "Pooling", "Dense"], "makes its vectors by Transformer, Pooling, Dense; an embedding"),
        ({}, ["Transformer"], "makes its vectors by Transformer; an embedding"),
    ],
)
def test_other_ways_to_make_a_vector_are_refused(pooling, kinds, message, encoder, tmp_path):
    folder = sentence_transformer(shutil.copytree(encoder, tmp_path / "model"), pooling, kinds)
    with pytest.raises(UserError, match=message):
        Pooling.of(folder)


@pytest.mark.parametrize("content", ["5", "[5]", '[{"type": 5}]', '[{"type": "Pooling", "path": "../other"}]', "[{"])
def test_damaged_files(content, dense, tmp_path):
    folder = shutil.copytree(dense, tmp_path / "model")
    (folder / "modules.json").write_text(content)
    with pytest.raises(UserError) as caught:
        Pooling.of(folder)
    assert "damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pooling_that_is_missing(dense, tmp_path):
    folder = shutil.copytree(dense, tmp_path / "model")
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(UserError, match="is missing or damaged; it says how vectors are made"):
        Pooling.of(folder)


def test_a_hub_that_is_away(monkeypatch):
    def away(source, **_):
        raise OSError("no route to host")

    monkeypatch.setattr(its_files, "snapshot_download", away)
    with pytest.raises(UserError, match="cannot read how someone/model makes its vectors: no route to host"):
        Pooling.of("someone/model")


# -- losses -----------------------------------------------------------------------------------------------------


def cosines(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def test_losses_equal_numpy():
    ours, theirs = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    student, teacher = torch.tensor(ours, requires_grad=True), torch.tensor(theirs)
    vector = np.mean(((ours - theirs) ** 2).sum(1) / (theirs**2).sum(1))
    errors = [(cosines(ours)[i, j] - cosines(theirs)[i, j]) ** 2 for i in range(5) for j in range(5) if i != j]
    assert distillation.embedding_distillation(student, teacher).item() == pytest.approx(vector, rel=1e-5)
    found = distillation.similarity_distillation(student, teacher)
    assert found.item() == pytest.approx(np.mean(errors), rel=1e-5)
    found.backward()
    assert torch.isfinite(student.grad).all()
    assert distillation.similarity_distillation(teacher, teacher).item() == 0
    assert distillation.similarity_distillation(student[:1], teacher[:1]).item() == 0
    wide = torch.cat([teacher, teacher], 1)  # another width, the same similarities
    assert distillation.similarity_distillation(teacher, wide).item() == pytest.approx(0, abs=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        assert distillation.similarity_distillation(student, teacher).item() == found.item()
    weighted = kind_of(Embedding(train="", dev="", embedding_weight=2, similarity_weight=3))
    assert weighted.distillation(student, teacher, None, 1.0).item() == pytest.approx(
        2 * vector + 3 * np.mean(errors), rel=1e-5
    )
    alone = kind_of(Embedding(train="", dev="", embedding_weight=0))
    assert alone.distillation(student, wide, None, 1.0).item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_distance_of_unit_vectors_is_that_of_the_cosine():
    a, b = (torch.nn.functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    cosine = torch.nn.functional.cosine_similarity(a, b)
    assert distillation.embedding_distillation(a, b).item() == pytest.approx(2 * (1 - cosine).mean().item(), rel=1e-5)


# -- metrics ----------------------------------------------------------------------------------------------------


def measured(task, rows, by_text):
    kind = kind_of(task)
    rows = Dataset.from_list(rows)
    return kind.measure([np.array(by_text[text], dtype=np.float32) for text in kind.texts(rows)], rows, None)


def test_pairs_by_hand():
    by_text = {"a": [2, 0], "b": [3, 0], "c": [0, 1], "d": [1, 1]}
    rows = [
        {"text": "a", "text_pair": "b", "label": 5.0},  # cosine 1
        {"text": "a", "text_pair": "c", "label": 1.0},  # 0
        {"text": "d", "text_pair": "c", "label": 3.0},  # 0.707
    ]
    found = measured(Embedding(train="", dev=""), rows, by_text)
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 0, 0.5**0.5], [5, 1, 3])[0, 1])


def test_queries_that_every_model_ranks_as_well_are_said(files, tmp_path):
    """All passages of the split are candidates of each query, those without a row too."""
    rows = [{**row, "label": float(row["label"] > 0.4)} for row in PAIRS]
    kind = kind_of(Embedding(**files(dev=rows, test=PAIRS), metric="ndcg@10"))
    data = kind.load(tmp_path)
    assert kind.undefined(data.splits["dev"], data) == "1 of 3 queries have no relevant passage and count as 0"
    assert not kind.undefined(data.splits["test"], data)
    one = Dataset.from_list([PAIRS[0], {**PAIRS[0], "text": "a city"}])
    assert "2 of 2 queries have passages of one relevance alone" in kind.undefined(one, data)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(SIMILARITIES))
def test_metrics_are_those_of_sentence_transformers_and_scikit_learn(seed, similarity):
    """Of drawn vectors, pairs and relevances, by each function that a model's files may name."""
    with older_names():
        from sentence_transformers.util import SimilarityFunction
    draw = np.random.default_rng(seed)
    queries, passages = [f"q{n}" for n in range(draw.integers(2, 6))], [f"p{n}" for n in range(draw.integers(2, 14))]
    vectors = {text: draw.normal(size=4).astype(np.float32) for text in [*queries, *passages]}
    relevances = draw.integers(0, 4, (len(queries), len(passages))).astype(float)
    judged = [(q, p) for q in range(len(queries)) for p in range(len(passages)) if not p or draw.random() < 0.6]
    rows = Dataset.from_list(
        [{"text": queries[q], "text_pair": passages[p], "label": relevances[q, p]} for q, p in judged]
    )

    def found(metric):
        kind = kind_of(Embedding(train="", dev="", metric=metric))
        kind.pooling = SimpleNamespace(similarity=similarity)
        return kind.measure([vectors[text] for text in kind.texts(rows)], rows, None)

    scores = SimilarityFunction.to_similarity_fn(similarity)(
        *(torch.tensor(np.stack([vectors[text] for text in texts])) for texts in (queries, passages))
    ).numpy()
    one, other = zip(*[(scores[pair], relevances[pair]) for pair in judged], strict=True)
    if len(set(other)) > 1:
        assert found("spearman")["spearman"] == pytest.approx(spearmanr(one, other).statistic, abs=1e-5)
        assert found("spearman")["pearson"] == pytest.approx(pearsonr(one, other).statistic, abs=1e-4)
    known = np.zeros_like(relevances)
    for pair in judged:
        known[pair] = relevances[pair]
    split = sorted({passage for _, passage in judged})  # all of which are candidates of each query
    expected = ndcg_score(known[:, split], scores[:, split], k=10) if len(split) > 1 else float(known.any(1).mean())
    assert found("ndcg@10")["ndcg@10"] == pytest.approx(expected, abs=1e-6)


def test_retrieval_by_hand():
    """Every passage of the split is a candidate of every query."""
    by_text = {"q": [1, 0], "r": [0, 1], "s": [1, 2], "near": [9, 1], "mid": [1, 1], "far": [1, 9]}
    rows = [
        {"text": "q", "text_pair": "mid", "label": 1.0},  # ranked near, mid, far
        {"text": "r", "text_pair": "far", "label": 2.0},  # ranked far, mid, near
        {"text": "r", "text_pair": "near", "label": 1.0},
        {"text": "s", "text_pair": "near", "label": 0.0},  # nothing relevant: counts as 0
    ]
    found = measured(Embedding(train="", dev="", metric="ndcg@10"), rows, by_text)
    second = (2 + 1 / 2) / (2 + 1 / np.log2(3))
    assert found["ndcg@10"] == pytest.approx((1 / np.log2(3) + second + 0) / 3)
    assert found["mrr@10"] == pytest.approx((1 / 2 + 1 + 0) / 3)


# -- training ---------------------------------------------------------------------------------------------------


def test_transfer_keeps_the_zeros_and_is_still_a_sentence_transformer(dense, sparse, task, tmp_path):
    settings = Transfer(**{**TRANSFER, "steps": 60})
    child = stages.transfer(sparse, task, settings, tmp_path / "child", teacher=dense)
    assert verify(child, sparse).ok
    for name, share in zeros_in_file(sparse).items():
        assert zeros_in_file(child)[name] >= share == pytest.approx(0.6, abs=1e-3)
    assert "pooler.dense.weight" in zeros_in_file(child)
    texts = ["the river", "good music of the city in winter", "a"]
    found = encode_with_sentence_transformers(child, texts)
    np.testing.assert_allclose(vectors(child, task, texts), found, atol=1e-5)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1] * 3, abs=1e-5)
    assert AutoModel.from_pretrained(child).config.architectures == ["BertModel"]
    teacher = vectors(dense, task, texts)
    nearer = [np.mean((vectors(folder, task, texts) - teacher) ** 2) for folder in (child, sparse)]
    assert nearer[0] < nearer[1], "it has learned"
    history = json.loads((child / "metrics.json").read_text())["history"]
    assert {"loss_kd", "loss_hidden"} <= set(history[-1])
    assert "loss_task" not in history[-1]
    assert stages.evaluate(dense, task)["dev"]["examples"] == 4


def test_cls_pooling_without_normalize(encoder, files, tmp_path):
    dense = sentence_transformer(shutil.copytree(encoder, tmp_path / "dense"), {"pooling_mode": "cls"}, NAMES[:2])
    task, texts = Embedding(**files(dev=PAIRS)), ["the river", "good music of the city"]
    sparse = stages.prune_one_shot(dense, Prune(objective="hidden", steps=1, learning_rate=1e-3), tmp_path / "sparse")
    child = stages.transfer(sparse, task, Transfer(**TRANSFER), tmp_path / "child", teacher=dense)
    found = encode_with_sentence_transformers(child, texts)
    np.testing.assert_allclose(vectors(child, task, texts), found, atol=1e-5)
    assert abs(np.linalg.norm(found, axis=1) - 1).min() > 1e-2


def test_a_pooler_that_no_vector_is_made_of_stays_as_it_is(dense, sparse, task, tmp_path):
    settings = Transfer(**TRANSFER, hidden_weight=0)
    child = stages.transfer(sparse, task, settings, tmp_path / "child", teacher=dense)
    ours, theirs = (AutoModel.from_pretrained(folder).state_dict() for folder in (child, sparse))
    same = {name for name, weight in ours.items() if torch.equal(weight, theirs[name])}
    assert {"pooler.dense.weight", "pooler.dense.bias"} <= same
    assert "encoder.layer.0.output.dense.weight" not in same
    assert verify(child, sparse).ok


def test_a_teacher_of_another_width_teaches_similarities(sparse, files, tokenizer, tmp_path, monkeypatch):
    from shared import models as conftest
    from transformers import DistilBertConfig

    wide = DistilBertConfig(dim=48, n_layers=1, n_heads=2, hidden_dim=64, **conftest.COMMON)
    monkeypatch.setitem(conftest.CONFIGS, "wide", wide)
    teacher = make_model(tmp_path / "wide", tokenizer, "wide")
    task, narrow = Embedding(**files(dev=PAIRS)), Transfer(**TRANSFER, hidden_weight=0)
    with pytest.raises(UserError, match=r"gives vectors of 48 numbers, the model 32, .*`embedding_weight: 0`"):
        stages.transfer(sparse, task, narrow, tmp_path / "child", teacher=teacher)
    assert not list(tmp_path.glob("child*"))
    task = task.model_copy(update={"embedding_weight": 0.0})
    with pytest.raises(UserError, match="no hidden states to distil; set `hidden_weight: 0`"):
        stages.transfer(sparse, task, Transfer(**TRANSFER), tmp_path / "child", teacher=teacher)
    child = stages.transfer(sparse, task, narrow, tmp_path / "child", teacher=teacher)
    assert verify(child, sparse).ok


def test_what_would_need_labels_is_refused(dense, sparse, task, tmp_path):
    with pytest.raises(UserError, match="no labels to fine-tune on: the dense model is its teacher as it is"):
        stages.finetune(dense, task, Training(**TRANSFER), tmp_path / "out")
    for section, stage in (
        (Transfer, stages.transfer),
        (Gradual, stages.transfer_gradual),
        (Quantize, stages.quantize),
    ):
        with pytest.raises(UserError, match=r"`task_weight` has to be 0, not 0\.5"):
            stage(sparse, task, section(**TRANSFER, task_weight=0.5), tmp_path / "out", teacher=dense)
    assert not list(tmp_path.glob("out*"))


# -- engines ----------------------------------------------------------------------------------------------------


def test_int8_and_engines_agree(dense, sparse, task, tmp_path):
    trained = stages.quantize(sparse, task, Quantize(**TRANSFER), tmp_path / "int8", teacher=dense)
    calibrated = stages.calibrate(sparse, task, Calibrate(examples=16, batch_size=8), tmp_path / "ptq")
    for model in (trained, calibrated):
        assert verify(model, sparse).ok
    batch = load_tokenizer(trained)(["good music of the city", "a"], padding=True, return_tensors="pt")
    expected = in_engine(trained, "torch", task, batch)
    for engine, format in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        made = stages.export(trained, tmp_path / format, format=format)
        np.testing.assert_allclose(in_engine(made, engine, task, batch), expected, atol=0.01)
        assert stages.evaluate(made, task)["dev"]["examples"] == 4
    if find_spec("pruneonce_runtime"):
        np.testing.assert_allclose(in_engine(trained, "pruneonce", task, batch), expected, atol=0.01)
        storage.pack([trained], tmp_path / "int8.pruneonce", "fp32")
        assert stages.evaluate(tmp_path / "int8.pruneonce", task)["dev"]["examples"] == 4


def in_engine(folder, engine, task, batch):
    outputs = open_engine(folder, engine, exact=True)(batch)
    found = {name: torch.from_numpy(value) for name, value in outputs.items()}
    return kind_of(task).for_model(folder).output(found, batch["attention_mask"]).numpy()


# -- a whole run ------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe_values(tiny_recipe, dense, task):
    values = tiny_recipe()
    short = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-4}
    values["model"] = str(dense)
    values["transfer"], values["baselines"]["gradual"] = short, {**short, "every": 1, "rewind": False}
    values["tasks"] = {"vectors": {"kind": "embedding", "train": task.train, "dev": task.dev}}
    values.pop("teacher")
    return values


def test_a_whole_run(recipe_values, tmp_path):
    values = recipe_values
    values["quantize"] = {"int8": values["transfer"], "int8_ptq": {"examples": 8}}
    summary = pipeline.run(validate(Recipe, values), tmp_path / "run")
    assert [row["arm"] for row in summary["results"]] == ["dense", "one-shot", "gradual", "sparse", "int8", "int8-ptq"]
    assert summary["results"][0]["folder"] == values["model"]
    assert not (tmp_path / "run" / "tasks" / "vectors" / "dense").exists()
    assert {row["metric"] for row in summary["results"]} == {"spearman"}
    values["tasks"]["vectors"]["metric"] = "ndcg@10"  # trains nothing anew, but measures
    again = pipeline.run(validate(Recipe, values), tmp_path / "run")
    assert again["stages"] == summary["stages"]
    assert {row["metric"] for row in again["results"]} == {"ndcg@10"}


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("transfer", {"task_weight": 0.5}, "`task_weight` has to be 0, not 0.5"),
        ("baselines", {"gradual": {"task_weight": 0.1, "epochs": 1, "learning_rate": 1e-3}}, "has to be 0, not 0.1"),
        ("quantize", {"int8": {"epochs": 1, "task_weight": 1}}, "has to be 0, not 1"),
    ],
)
def test_a_run_that_would_need_labels_is_refused_at_its_start(section, changes, message, recipe_values, tmp_path):
    recipe_values[section] = {**recipe_values.get(section, {}), **changes}
    with pytest.raises(UserError, match=message):
        pipeline.run(validate(Recipe, recipe_values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_plan(recipe_values, quick_probe, tmp_path, capsys):
    import yaml

    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe_values, "name": "recipe"}))
    assert main(["plan", str(tmp_path / "recipe.yaml"), "--seconds", "0", "--json"]) == 0
    stages = {stage["name"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert stages["tasks/vectors/sparse"]["steps"] == 3
    assert "tasks/vectors/dense" not in stages


def test_the_command_line(dense, sparse, task, tmp_path, capsys):
    texts = ["--kind", "embedding", "--train", task.train, "--dev", task.dev]
    fast = ["--set", "epochs=1", "--set", "batch_size=8"]
    child, int8 = str(tmp_path / "child"), str(tmp_path / "int8")
    assert main(["transfer", str(sparse), "--teacher", str(dense), *texts, "--output", child, *fast]) == 0
    assert main(["quantize", child, "--post-training", *texts, "--output", int8]) == 0
    capsys.readouterr()
    assert main(["evaluate", int8, "--dev", task.dev, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["dev"]) == {"pearson", "spearman", "examples"}
    assert main(["evaluate", int8, "--dev", task.dev, "--set", "task.metric=mrr@10", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["dev"]) == {"ndcg@10", "mrr@10", "examples"}
    assert main(["finetune", str(dense), *texts, "--output", str(tmp_path / "out")]) == 2
    assert "no labels to fine-tune on" in capsys.readouterr().err


@pytest.mark.slow
def test_minilm_gives_the_vectors_of_sentence_transformers(files, tmp_path):
    quickstart.write_inputs(tmp_path / "inputs", train=8, dev=8, test=8)
    task = Embedding(**files(dev=PAIRS))
    texts = ["A river runs through it.", "Cities", "The weather was awful all winter long, and nobody came."]
    found = encode_with_sentence_transformers(tmp_path / "inputs" / "model", texts)
    np.testing.assert_allclose(vectors(tmp_path / "inputs" / "model", task, texts), found, atol=1e-5)
