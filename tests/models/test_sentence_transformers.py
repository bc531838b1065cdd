"""What was a sentence-transformers model still is one, for plain `SentenceTransformer(path)`."""

import json
import shutil

import numpy as np
import pytest

from pruneonce import stages
from pruneonce.models import copy_sentence_transformer
from pruneonce.models import sentence_transformers as its_files
from pruneonce.recipe import Classification, Corpus, Prune, Training

PRUNE = Prune(objective="hidden", steps=6, batch_size=4, learning_rate=1e-3, every=1)
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


@pytest.fixture
def sentence_encoder(encoder, tmp_path):
    """The tiny encoder with mean pooling and normalisation."""
    folder = shutil.copytree(encoder, tmp_path / "sentence-encoder")
    (folder / "modules.json").write_text(json.dumps(MODULES))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": false}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}'
    )
    return folder


def check(folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    vectors = model.encode(["good river", "great city of stone"], show_progress_bar=False)
    assert vectors.shape == (2, 32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0, 1.0], abs=1e-5), "the Normalize module is there"
    assert model.max_seq_length == 24


@pytest.mark.filterwarnings("ignore::DeprecationWarning:sentence_transformers")
def test_a_local_one(sentence_encoder, corpus_file, task_files, tmp_path):
    corpus = Corpus(source=str(corpus_file), block_length=16)
    sparse = stages.prune(sentence_encoder, corpus, PRUNE, tmp_path / "sparse")
    check(sparse)
    task = Classification(train=str(task_files / "train.jsonl"), dev=str(task_files / "dev.jsonl"))
    classifier = stages.finetune(sparse, task, Training(steps=1, learning_rate=1e-3), tmp_path / "classifier")
    assert not (classifier / "modules.json").exists(), "with a task head it is no longer one"


def test_one_from_the_hub(sentence_encoder, tmp_path, monkeypatch):
    """The hub is not to be had in tests; what it would have put into the cache is."""
    asked = []
    monkeypatch.setattr(its_files, "snapshot_download", lambda source, **_: asked.append(source) or sentence_encoder)
    copy_sentence_transformer("someone/model", tmp_path)
    assert asked == ["someone/model"]
    assert (tmp_path / "1_Pooling" / "config.json").is_file()


def test_a_hub_that_is_away_costs_nothing_else(tmp_path, monkeypatch, capsys):
    def away(source, **_):
        raise OSError("no route to host")

    monkeypatch.setattr(its_files, "snapshot_download", away)
    copy_sentence_transformer("someone/model", tmp_path)
    assert not list(tmp_path.iterdir())
    assert "no route to host" in capsys.readouterr().out


def test_a_module_outside_the_folder_is_not_copied(sentence_encoder, corpus_file, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("x")
    (sentence_encoder / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "../secret", "type": "sentence_transformers.models.Pooling"}])
    )
    sparse = stages.prune(
        sentence_encoder, Corpus(source=str(corpus_file), block_length=16), PRUNE, tmp_path / "sparse"
    )
    assert not list(tmp_path.rglob("sparse/**/key"))
    assert sorted(p.name for p in tmp_path.glob("secret/*")) == ["key"]
    assert sparse.is_dir()
