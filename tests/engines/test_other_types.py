"""An architecture that the engine pruneonce-runtime does not know: a line says so, and everything else goes on."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from benchmarks.architectures import tiny_config, tokenizer, write_data
from pruneonce import stages, storage
from pruneonce.cli import main
from pruneonce.errors import UserError
from pruneonce.export import graph
from pruneonce.recipe import Benchmark


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convbert")
    torch.manual_seed(0)
    config = tiny_config("convbert")
    config.label2id, config.id2label = {"0": 0, "1": 1}, {0: "0", 1: "1"}
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    _, task = write_data(folder)
    return folder, task


def test_evaluate_says_so_in_a_line_and_measures_the_packed_file(classifier, capsys):
    pytest.importorskip("pruneonce_runtime")
    folder, task = classifier
    with pytest.raises(UserError, match=r"pruneonce does not run .*: it does not know the architecture convbert$"):
        stages.measure(folder / "model", task, engine="pruneonce")
    storage.pack([folder / "model"], folder / "model.pruneonce")
    with pytest.raises(UserError, match="convbert"):
        stages.evaluate(folder / "model.pruneonce", task)


def test_benchmark_leaves_the_engine_out_with_the_reason(classifier, capsys):
    pytest.importorskip("pruneonce_runtime")
    folder, _ = classifier
    fast = Benchmark(engines=["torch", "pruneonce"], batch_sizes=[1], lengths=[8], seconds=0.01, threads=1)
    found = stages.benchmark({"m": folder / "model"}, fast)
    why = "it does not know the architecture convbert"
    assert found["skipped"] == [{"model": "m", "engine": "pruneonce", "why": why}]
    assert {row["engine"] for row in found["rows"]} == {"torch"}
    size = ("--batch-size", "1", "--length", "8", "--seconds", "0.01")
    typed = ["benchmark", str(folder / "model"), "--engine", "torch", "--engine", "pruneonce", *size]
    assert main(typed) == 0
    assert why in " ".join(capsys.readouterr().out.split())


def test_a_type_whose_code_the_exporter_does_not_follow_is_refused_in_a_line(classifier, tmp_path, monkeypatch):
    folder, _ = classifier

    def fails(*_, **__):
        raise torch.onnx.OnnxExporterError("many\nlines")

    monkeypatch.setattr(graph.torch.onnx, "export", fails)
    with pytest.raises(UserError, match=r"a convbert, cannot be exported: .*use it in PyTorch"):
        stages.export(folder / "model", tmp_path / "onnx", format="onnx")
