"""`export --into`: each format in its folder, under the names that clients look for."""

import shutil

import pytest
from shared.clients import bert_tokenizer, make_classifier, make_embedder

from pruneonce import cli, stages
from pruneonce.engines import engine_of
from pruneonce.errors import UserError
from pruneonce.models.card import is_unedited

ONNX = {"model.onnx", "model_quantized.onnx", "model_int8.onnx"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with weights, and one without that the same model was exported into."""
    root = tmp_path_factory.mktemp("models")
    embedder = make_embedder(root / "embedder", bert_tokenizer(root))
    stages.export_into(embedder, embedder)
    stages.export_into(embedder, root / "other", formats=["onnx"])
    return embedder, root / "other"


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "embedder")


def test_the_names_that_clients_look_for(made):
    embedder, other = made
    for folder in made:
        assert {file.name for file in (folder / "onnx").glob("*.onnx")} == ONNX
        assert len({(folder / "onnx" / name).stat().st_ino for name in ONNX}) == 1, "one file under three names"
        assert (folder / "1_Pooling" / "config.json").is_file()
        assert (folder / "tokenizer.json").is_file()
        assert is_unedited((folder / "README.md").read_text())
    assert (embedder / "openvino" / "openvino_model.xml").is_file()
    assert not (other / "model.safetensors").exists()
    assert "AutoModel." not in (other / "README.md").read_text(), "there are no weights for transformers"


def test_run_again_it_completes_what_is_there(copied):
    kept = (copied / "onnx" / "model.onnx").stat().st_mtime_ns
    (copied / "onnx" / "model_int8.onnx").unlink()  # as after a kill
    (copied / "onnx" / "model_int8.onnx.partial").write_text("half")
    shutil.rmtree(copied / "openvino")
    stages.export_into(copied, copied)
    assert {file.name for file in (copied / "onnx").iterdir() if "onnx" in file.name} == ONNX
    assert (copied / "onnx" / "model.onnx").stat().st_mtime_ns == kept
    assert (copied / "openvino" / "openvino_model.bin").is_file()


def test_nothing_is_overwritten(copied):
    (copied / "README.md").write_text("mine")
    (copied / "onnx" / "model_int8.onnx").unlink()
    (copied / "onnx" / "model_int8.onnx").write_text("mine")
    with pytest.raises(UserError, match=r"model_int8.onnx is another file than model.onnx; remove it"):
        stages.export_into(copied, copied, formats=["onnx"])
    shutil.rmtree(copied / "onnx")
    (copied / "onnx").mkdir()
    (copied / "onnx" / "model.onnx").write_text("mine")
    with pytest.raises(UserError, match="onnx already holds something else"):
        stages.export_into(copied, copied, formats=["onnx"])
    shutil.rmtree(copied / "onnx")
    stages.export_into(copied, copied, formats=["onnx"])
    assert (copied / "README.md").read_text() == "mine"


def test_another_model_does_not_go_into_the_same_folder(made, tmp_path):
    classifier = make_classifier(tmp_path / "classifier", bert_tokenizer(tmp_path), "fp32")
    with pytest.raises(UserError, match="other already holds something else"):
        stages.export_into(classifier, made[1])
    written = stages.export_into(classifier, classifier, formats=["onnx"])
    assert [file.name for file in written] == ["model.onnx"], "fp32 weights have one name"


def test_the_verb(copied, capsys):
    assert cli.main(["export", str(copied)]) == 2
    assert "give either --output" in capsys.readouterr().err
    assert cli.main(["export", str(copied), "--into", str(copied), "--format", "onnx"]) == 0
    said = capsys.readouterr().out
    assert "onnx/model_quantized.onnx: " in said
    assert "pruneonce push" in said


def test_license_language_and_base_come_from_the_model(made, tmp_path):
    embedder = shutil.copytree(made[0], tmp_path / "embedder")
    (embedder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\nbase_model: user/name\n---\nmine\n")
    stages.export_into(embedder, tmp_path / "other", formats=["onnx"])
    card = (tmp_path / "other" / "README.md").read_text()
    for line in ("license: apache-2.0", "language: en", "base_model: user/name"):
        assert line in card.splitlines(), line


def test_a_folder_of_exports_alone_names_those_inside(made):
    _, other = made
    with pytest.raises(UserError, match=r"other holds exports and no weights; give .*other/onnx"):
        engine_of(other)
    assert engine_of(other / "onnx") == "onnxruntime"
    assert engine_of(made[0]) is None
