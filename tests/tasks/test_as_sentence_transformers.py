"""Vectors and scores are those of sentence-transformers, whatever its files in the folder say; or the model is refused.

Three ways are compared with `SentenceTransformer(folder).encode` and `CrossEncoder(folder).predict`: our own prediction
in PyTorch, the packed file in pruneonce-runtime, and the folder that a packed file unpacks to.
"""

import json
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from shared.models import WORDS, make_loud, make_model
from transformers import AutoModelForSequenceClassification

from pruneonce import stages, storage
from pruneonce.errors import UserError
from pruneonce.models import load_tokenizer
from pruneonce.models.pooling import MODES
from pruneonce.recipe import Embedding, Prune, Reranking, Training, Transfer
from pruneonce.tasks import kind_of
from pruneonce.tasks.prediction import predict

runtime = pytest.importorskip("pruneonce_runtime")

TEXTS = ["the river", "a city of stone", "Awful Winter", " ".join(WORDS[:40]), "music"]
PAIRS = [(text, "the water and the house") for text in TEXTS]


def write(file, content):
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


def describe(folder, pooling=None, encoder=None, notes=None, kinds=("Transformer", "Pooling"), name="bert"):
    """Write sentence-transformers' files into a model folder."""
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    write(folder / "modules.json", modules)
    if encoder is not None:
        write(folder / f"sentence_{name}_config.json", encoder)
    if notes is not None:
        write(folder / "config_sentence_transformers.json", notes)
    if "Pooling" in kinds:
        write(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, **(pooling or {})})
    return folder


@pytest.fixture(scope="session")
def loud(tokenizer, tmp_path_factory):
    """An encoder whose layers count for something, as those of a new model hardly do."""
    return make_loud(make_model(tmp_path_factory.mktemp("models") / "loud", tokenizer))


@pytest.fixture(scope="session")
def scorer(loud, tmp_path_factory):
    """A cross-encoder."""
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(
        loud, num_labels=1, problem_type="multi_label_classification"
    )
    model.classifier.weight.data *= 30
    folder = tmp_path_factory.mktemp("models") / "scorer"
    model.save_pretrained(folder)
    load_tokenizer(loud).save_pretrained(folder)
    return folder


def theirs(folder, texts, name="SentenceTransformer"):
    import sentence_transformers

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        model = getattr(sentence_transformers, name)(str(folder), device="cpu")
        if name == "CrossEncoder":
            return model.predict(texts, show_progress_bar=False)
        return model.encode(texts, show_progress_bar=False)


def ours(folder, kind, rows):
    """Return our own prediction in PyTorch."""
    kind, tokenizer = kind.for_model(folder), load_tokenizer(folder)
    examples = kind.encode(Dataset.from_list(rows), tokenizer, training=True)
    return np.stack(predict(kind.load_model(folder), kind, examples, kind.collate(tokenizer), batch_size=2))


def packed(folder, scratch):
    """Return the model in pruneonce-runtime, and the folder that the packed file unpacks to."""
    storage.pack([folder], scratch / "model.pruneonce", "fp32")
    [unpacked] = storage.unpack(scratch / "model.pruneonce", scratch / "unpacked")
    return runtime.load(scratch / "model.pruneonce"), unpacked


def check_vectors(folder, scratch):
    expected = theirs(folder, TEXTS)
    task = kind_of(Embedding(train="", dev="", max_length=64))
    near = {"rtol": 1e-4, "atol": 1e-5 * np.abs(expected).max()}
    np.testing.assert_allclose(ours(folder, task, [{"text": text} for text in TEXTS]), expected, **near)
    model, unpacked = packed(folder, scratch)
    np.testing.assert_allclose(model.encode(TEXTS), expected, **near)
    assert model.encode([]).shape == (0, expected.shape[1])
    np.testing.assert_allclose(theirs(unpacked, TEXTS), expected, **near)


PROMPTS = {"prompts": {"query": "the great: ", "other": None}, "default_prompt_name": "query"}
CASES = {
    "prompt": {"notes": PROMPTS},
    "prompt that does not count": {"notes": PROMPTS, "pooling": {"include_prompt": False, "pooling_mode": list(MODES)}},
    "no prompt by default": {"notes": {"prompts": PROMPTS["prompts"], "default_prompt_name": None, "new": 1}},
    "empty prompt": {"notes": {"default_prompt_name": "document"}},
    "fewer numbers": {"notes": {"truncate_dim": 5}, "kinds": ("Transformer", "Pooling", "Normalize")},
    "short texts": {"encoder": {"max_seq_length": 6, "do_lower_case": True}},
    "longer than the tokenizer": {"encoder": {"max_seq_length": 50}},
    "older name of the file": {"encoder": {"max_seq_length": 7}, "name": "roberta"},
    "several": {
        "pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "pooling_mode_lasttoken": True},
        "notes": {**PROMPTS, "truncate_dim": 70, "similarity_fn_name": "dot"},
        "encoder": {"max_seq_length": 10, "unpad_inputs": None, "query_length": 3, "model_args": {}},
        "kinds": ("Transformer", "Pooling", "Normalize"),
    },
    "another type": {"notes": {"model_type": "CrossEncoder", **PROMPTS}, "kinds": ("Transformer",)},
}


@pytest.mark.parametrize("case", [name for name in CASES if name != "another type"])
def test_vectors(case, loud, tmp_path):
    check_vectors(describe(shutil.copytree(loud, tmp_path / "model"), **CASES[case]), tmp_path)


def test_a_folder_that_sentence_transformers_wrote(loud, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(loud), device="cpu", truncate_dim=9, similarity_fn_name="manhattan")
    model.prompts, model.default_prompt_name, model.max_seq_length = {"a": "good river "}, "a", 11
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    check_vectors(tmp_path / "model", tmp_path)


@pytest.mark.slow
def test_vectors_of_drawn_settings(loud, tmp_path):
    """Each setting is drawn alone, so that they come in any combination."""
    for seed in range(60):
        draw = random.Random(seed)
        modes = draw.sample(list(MODES), draw.randint(1, 3))
        described = describe(
            shutil.copytree(loud, tmp_path / f"{seed}" / "model"),
            {"pooling_mode": modes if draw.random() < 0.7 else modes[0], "include_prompt": draw.random() < 0.5},
            draw.choice([None, {}, {"max_seq_length": draw.randint(12, 60)}, {"do_lower_case": True}]),
            {
                "prompts": {"query": draw.choice(["", "the great ", "Stone: "]), "passage": "a"},
                "default_prompt_name": draw.choice([None, "query", "document", "passage"]),
                "truncate_dim": draw.choice([None, 1, 20, 1000]),
                "similarity_fn_name": draw.choice([None, "cosine", "dot", "euclidean", "manhattan"]),
            },
            draw.choice([("Transformer", "Pooling"), ("Transformer", "Pooling", "Normalize")]),
            draw.choice(["bert", "distilbert"]),
        )
        check_vectors(described, described.parent)


REFUSED = {
    "Dense": ({"kinds": ("Transformer", "Pooling", "Dense")}, "makes its vectors by Transformer, Pooling, Dense"),
    "order": ({"kinds": ("Transformer", "Normalize", "Pooling")}, "makes its vectors by Transformer, Normalize"),
    "unknown pooling": ({"pooling": {"pooling_mode": "median"}}, "pool(ing)? by median"),
    "unknown key of pooling": ({"pooling": {"power": 3}}, "`power`"),
    "unknown key": ({"encoder": {"stemming": True}}, "`stemming: .*cannot be followed"),
    "other tokenizer": ({"encoder": {"tokenizer_name_or_path": "other"}}, "`tokenizer_name_or_path: .*be followed"),
    "other arguments": ({"encoder": {"model_args": {"layers": 1}}}, "`model_args: .*cannot be followed"),
    "kernels": ({"encoder": {"model_kwargs": {"attn_implementation": "a/b"}}}, "`model_kwargs: .*cannot be followed"),
    "arguments of a call": ({"encoder": {"processing_kwargs": {"text": {"max_length": 3}}}}, "`processing_kwargs: "),
    "another output": ({"encoder": {"module_output_name": "sentence_embedding"}}, "`module_output_name: "),
    "no such prompt": (
        {"notes": {"default_prompt_name": "queries"}},
        "no prompt .queries., which `default_prompt_name`",
    ),
    "long prompt": (
        {"notes": {"prompts": {"q": "the " * 40}, "default_prompt_name": "q"}},
        r"prompt.* has 41 tokens and leaves no room in 32",
    ),
    "a negative number": ({"notes": {"truncate_dim": -2}}, "`truncate_dim`"),
    "of another type": (CASES["another type"], "is a CrossEncoder of sentence-transformers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_settings_are_refused(case, loud, tmp_path):
    settings, message = REFUSED[case]
    folder = describe(shutil.copytree(loud, tmp_path / "model"), **settings)
    with pytest.raises(UserError, match=message):
        kind_of(Embedding(train="", dev="")).for_model(folder)
    storage.pack([folder], tmp_path / "model.pruneonce", "fp32")
    with pytest.raises(runtime.PruneonceError, match=message):
        runtime.load(tmp_path / "model.pruneonce")


def test_lower_case_that_the_tokenizer_does_not_have(loud, tmp_path):
    folder = describe(shutil.copytree(loud, tmp_path / "model"), encoder={"do_lower_case": True})
    file = folder / "tokenizer.json"
    words = {**json.loads(file.read_text()), "normalizer": None}
    words["model"]["vocab"]["Text"] = words["model"]["vocab"].pop("music")
    file.write_text(json.dumps(words))
    with pytest.raises(UserError, match=r"`do_lower_case` of .* is not in its tokenizer"):
        kind_of(Embedding(train="", dev="")).for_model(folder)


# -- scores -----------------------------------------------------------------------------------------------------

IDENTITY = "torch.nn.modules.linear.Identity"
HEAD = {"transformer_task": "sequence-classification"}
SCORES = {
    "plain": None,
    "prompt": {
        "notes": {"model_type": "CrossEncoder", "prompts": {"q": "great "}, "default_prompt_name": "q"},
        "encoder": HEAD,
    },
    "no sigmoid": {
        "notes": {"model_type": "CrossEncoder", "activation_fn": IDENTITY},
        "encoder": {"max_seq_length": 8, **HEAD},
    },
    "files of an embedder": {"notes": {"prompts": {"q": "great "}, "default_prompt_name": "q"}},
}


@pytest.mark.parametrize("case", SCORES)
def test_scores(case, scorer, tmp_path):
    folder = shutil.copytree(scorer, tmp_path / "model")
    if SCORES[case]:
        describe(folder, **SCORES[case], kinds=("Transformer",))
    expected = theirs(folder, PAIRS, "CrossEncoder")
    rows = [{"query": query, "passage": passage} for query, passage in PAIRS]
    logits = ours(folder, kind_of(Reranking(train="", dev="", max_length=64)), rows)
    found = logits if case == "no sigmoid" else 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    model, unpacked = packed(folder, tmp_path)
    np.testing.assert_allclose(model(PAIRS), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(theirs(unpacked, PAIRS, "CrossEncoder"), expected, rtol=1e-4, atol=1e-6)


def test_a_score_by_older_files(scorer, tmp_path):
    folder = shutil.copytree(scorer, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", {**config, "sentence_transformers": {"activation_fn": IDENTITY}})
    np.testing.assert_allclose(packed(folder, tmp_path)[0](PAIRS), theirs(folder, PAIRS, "CrossEncoder"), rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"notes": {"model_type": "CrossEncoder", "activation_fn": "torch.nn.Softmax"}}, "score .* is a .*Softmax"),
        ({"notes": {"model_type": "CrossEncoder"}, "kinds": ("Transformer", "Pooling")}, "makes its scores by"),
        ({"notes": {"model_type": "CrossEncoder"}, "encoder": {"stemming": 1}}, "`stemming: 1` cannot be followed"),
    ],
)
def test_other_scores_are_refused(settings, message, scorer, tmp_path):
    folder = describe(shutil.copytree(scorer, tmp_path / "model"), **{"kinds": ("Transformer",), **settings})
    with pytest.raises(UserError, match=message):
        kind_of(Reranking(train="", dev="")).for_model(folder)


# -- from end to end --------------------------------------------------------------------------------------------


def test_a_student_is_taught_with_the_prompt(loud, tmp_path):
    """The finished folder has the settings, and `evaluate` measures the vectors that sentence-transformers gives."""
    notes = {**PROMPTS, "truncate_dim": 6, "similarity_fn_name": "euclidean"}
    dense = describe(shutil.copytree(loud, tmp_path / "dense"), {}, {"max_seq_length": 9}, notes)
    rows = [{"text": text, "text_pair": WORDS[-i - 1], "label": float(i)} for i, text in enumerate(TEXTS)]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "train.txt").write_text("\n".join(TEXTS))
    task = Embedding(train=str(tmp_path / "train.txt"), dev=str(tmp_path / "dev.jsonl"), max_length=64)
    kind = kind_of(task).for_model(dense)
    ids = kind.encode(Dataset.from_list(rows), load_tokenizer(dense), training=True)["input_ids"]
    assert ids[0] == load_tokenizer(dense)("the great: the river")["input_ids"]
    assert max(map(len, ids)) == 9
    settings = Transfer(steps=2, batch_size=4, learning_rate=1e-3, dropout=0.0)
    sparse = stages.prune_one_shot(
        dense, Prune(objective="hidden", steps=1, learning_rate=1e-3, sparsity=0.6), tmp_path / "sparse"
    )
    student = stages.transfer(sparse, task, settings, tmp_path / "student", teacher=dense)
    first, second = (theirs(student, [row[name] for row in rows]) for name in ("text", "text_pair"))
    assert first.shape == (5, 6)
    expected = np.corrcoef(-np.linalg.norm(first - second, axis=1), [row["label"] for row in rows])[0, 1]
    assert stages.evaluate(student, task)["dev"]["pearson"] == pytest.approx(expected, abs=1e-5)


def test_a_reranker_keeps_the_files_of_a_cross_encoder_alone(scorer, tmp_path):
    """Scores of the finished folder have the prompt and the function of the model that it was made of."""
    notes = {
        "model_type": "CrossEncoder",
        "activation_fn": IDENTITY,
        "prompts": {"q": "a "},
        "default_prompt_name": "q",
    }
    dense = describe(shutil.copytree(scorer, tmp_path / "dense"), {}, HEAD, notes, ("Transformer",))
    rows = [{"query": query, "passage": f"{text} {i}", "label": i} for i, (query, text) in enumerate(PAIRS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Reranking(train=str(tmp_path / "rows.jsonl"), dev=str(tmp_path / "rows.jsonl"))
    tuned = stages.finetune(dense, task, Training(steps=1, batch_size=2, learning_rate=1e-4), tmp_path / "tuned")
    found = ours(tuned, kind_of(task), [{"query": query, "passage": passage} for query, passage in PAIRS])
    np.testing.assert_allclose(theirs(tuned, PAIRS, "CrossEncoder"), found, rtol=1e-4, atol=1e-5)
    describe(dense, {}, None, {})  # files of a model of vectors
    other = stages.finetune(dense, task, Training(steps=1, batch_size=2, learning_rate=1e-4), tmp_path / "other")
    assert not (other / "modules.json").exists()
