"""Engines side by side: the same inputs give the same logits and the same accuracy, whichever runs the model."""

import ast
import faulthandler
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shared.processes import Started

from pruneonce import engines, stages, storage
from pruneonce.cli import main
from pruneonce.engines import engine_of, open_engine, open_file, openvino
from pruneonce.errors import UserError
from pruneonce.export import Options
from pruneonce.recipe import Calibrate, Training
from pruneonce.system import machine, packages

LIBRARIES = ("pruneonce_runtime", "onnxruntime", "openvino")  # in the order of docs/engines.md
ROOT = Path(__file__).parents[2]
BATCH = {
    "input_ids": torch.tensor([[2, 30, 7, 33, 3], [2, 41, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    "token_type_ids": torch.zeros(2, 5, dtype=torch.int64),
}


@pytest.fixture(scope="module")
def folders(encoder, task, tmp_path_factory):
    """A task model that has learned something, in int8: for every engine what it opens."""
    folder = tmp_path_factory.mktemp("engines")
    learned = stages.finetune(encoder, task, Training(epochs=12, batch_size=16, learning_rate=1e-3), folder / "dense")
    int8 = stages.calibrate(learned, task, Calibrate(examples=64), folder / "int8")
    found = {"torch": int8, "onnxruntime": stages.export(int8, folder / "onnx")}
    found["openvino"] = stages.export(int8, folder / "openvino", format="openvino")
    if engines.ENGINES["pruneonce"].is_installed:
        storage.pack([int8], folder / "int8.pruneonce", "fp32")
        found["pruneonce"] = folder / "int8.pruneonce"
    return found


def test_accuracy_is_measured_in_the_engine_that_a_folder_is_for(folders, task):
    found = {engine: stages.evaluate(folder, task, splits=["test"])["test"] for engine, folder in folders.items()}
    assert found["torch"]["accuracy"] > 0.7, "it has learned something to lose"
    assert all(metrics.keys() == found["torch"].keys() for metrics in found.values())
    assert all(metrics["examples"] == 40 for metrics in found.values())
    for metrics in found.values():  # an example on the edge may fall to either side
        assert metrics["accuracy"] == pytest.approx(found["torch"]["accuracy"], abs=1.5 / 40)


def test_logits_agree(folders):
    found = {engine: open_engine(folder, engine, exact=True)(BATCH) for engine, folder in folders.items()}
    expected = found["torch"]["logits"]
    assert expected.shape == (2, 2)
    for outputs in found.values():
        assert outputs.keys() == {"logits"}
        np.testing.assert_allclose(outputs["logits"], expected, atol=0.02 * np.abs(expected).max())
        assert np.array_equal(outputs["logits"].argmax(1), expected.argmax(1))


def test_what_an_engine_tells(folders):
    usual = torch.get_num_threads()
    try:
        for engine, folder in folders.items():
            assert engine_of(folder) == (None if engine == "torch" else engine)
            opened = open_engine(folder, engine, 2, exact=True)
            assert (opened.name, opened.precision, opened.threads) == (engine, "fp32", 2)
            assert set(opened.inputs) == set(BATCH) - ({"token_type_ids"} if len(opened.inputs) == 2 else set())
            arrays = {name: value.numpy() for name, value in BATCH.items()}
            assert np.array_equal(opened(arrays)["logits"], opened(BATCH)["logits"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(usual)
    assert open_engine(folders["openvino"], "openvino").precision == ("bf16" if machine.has_bf16() else "fp32")


def test_exact_products_without_vnni(folders, monkeypatch):
    """ONNX Runtime takes other kernels then; our graphs let it, and the result is the same."""
    expected = open_engine(folders["onnxruntime"], "onnxruntime")(BATCH)["logits"]
    monkeypatch.setattr(machine, "overflows_int8", lambda: True)
    found = open_engine(folders["onnxruntime"], "onnxruntime")(BATCH)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_openvino_is_right_without_vnni(folders, monkeypatch):
    expected = open_engine(folders["torch"], "torch")(BATCH)["logits"]
    monkeypatch.setattr(machine, "overflows_int8", lambda: True)
    found = open_engine(folders["openvino"], "openvino", exact=True)(BATCH)["logits"]
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_settings_of_onnx_runtime_without_vnni(folders, tmp_path, monkeypatch):
    import onnxruntime

    made = stages.export(folders["torch"], tmp_path / "safe", options=Options(safe=True))
    monkeypatch.setattr(machine, "overflows_int8", lambda: True)
    entries = []

    class Recording(onnxruntime.SessionOptions):
        def add_session_config_entry(self, key, value):
            entries.append(key)
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Recording)
    found = {}
    for folder in (folders["onnxruntime"], made):
        entries.clear()
        open_engine(folder, "onnxruntime")
        found[folder] = "session.x64quantprecision" in entries
        assert "optimization.disable_specified_optimizers" in entries
    assert found == {folders["onnxruntime"]: True, made: True}  # that --safe suits its kernels is an assumption


def test_openvino_skips_zeros_where_the_processor_can(folders, monkeypatch):
    file = folders["openvino"] / "openvino_model.xml"
    monkeypatch.setattr(machine, "instruction_sets", lambda: ["avx512_vnni"])
    assert openvino.alternatives(file, 1) == {}
    monkeypatch.setattr(machine, "instruction_sets", lambda: ["avx512_vnni", "amx_int8"])
    given = []
    compile_model = openvino.core().compile_model

    class Core:
        def compile_model(self, file, device, settings):
            given.append(settings)
            return compile_model(file, device, settings)

    monkeypatch.setattr(openvino, "core", Core)
    (session,) = openvino.alternatives(file, 1).values()
    usual = open_file(file, "openvino", 1)
    key = "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"
    assert [settings.get(key) for settings in given] == [0.7, None]
    np.testing.assert_array_equal(session(BATCH)["logits"], usual(BATCH)["logits"])


def test_mistakes(folders, encoder, tmp_path):
    with pytest.raises(UserError, match="no engine 'tensorrt'; there are torch, onnxruntime, openvino"):
        open_engine(encoder, "tensorrt")
    with pytest.raises(UserError, match=r"has no model\.onnx.*--format onnx"):
        open_engine(encoder, "onnxruntime")
    with pytest.raises(UserError, match=r"has no openvino_model\.xml"):
        open_engine(folders["onnxruntime"], "openvino")
    (tmp_path / "model.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"has no hashes of its files in pruneonce\.json; remove the folder and export"):
        open_engine(tmp_path, "onnxruntime")
    with pytest.raises(UserError, match=r"ONNX Runtime cannot open .*model\.onnx"):
        open_file(tmp_path / "model.onnx", "onnxruntime")
    (tmp_path / "openvino_model.xml").write_text("<nothing")
    with pytest.raises(UserError, match=r"OpenVINO cannot open .*openvino_model\.xml"):
        open_file(tmp_path / "openvino_model.xml", "openvino")


@pytest.mark.parametrize("verb", ["evaluate", "benchmark"])
@pytest.mark.parametrize(
    ("engine", "name"),
    [("onnxruntime", "model.onnx"), ("openvino", "openvino_model.xml"), ("openvino", "openvino_model.bin")],
)
def test_a_damaged_export_never_gets_into_an_engine(engine, name, verb, folders, task, tmp_path, monkeypatch, capsys):
    """One bit in the middle, which either engine would take for a weight and calculate with."""
    damaged = shutil.copytree(folders[engine], tmp_path / "damaged")
    content = bytearray((damaged / name).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / name).write_bytes(content)
    monkeypatch.setitem(engines.ENGINES, engine, replace(engines.ENGINES[engine], open=None))
    options = ["--test", task.test] if verb == "evaluate" else ["--engine", engine, "--length", "8"]
    assert main([verb, str(damaged), *options]) == 2
    said = capsys.readouterr().err.strip().removeprefix("labels: negative 0, positive 1; from the model\n")
    assert said.endswith(f"{name} is damaged: it is not what was written; remove the folder and export the model again")
    assert "\n" not in said
    (damaged / name).unlink()
    with pytest.raises(UserError, match=rf"cannot read .*{name}: No such file|has no {name}"):
        open_engine(damaged, engine)


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": 3}', "{"])
def test_a_record_of_an_export_that_is_none(text, folders, tmp_path):
    made = shutil.copytree(folders["onnxruntime"], tmp_path / "made")
    (made / "pruneonce.json").write_text(text)
    with pytest.raises(UserError, match=r"pruneonce\.json is damaged|has no hashes of its files"):
        open_engine(made, "onnxruntime")


def test_what_an_engine_fails_at_is_said_in_a_line(folders):
    opened = open_engine(folders["onnxruntime"], "onnxruntime")
    beyond = {name: value + 10_000 for name, value in BATCH.items()}
    with pytest.raises(UserError, match=r"ONNX Runtime cannot run .*model\.onnx: [^\n]*$"):
        opened(beyond)
    with pytest.raises(UserError, match="takes `input_ids`, which its tokenizer does not give"):
        opened({})


def test_a_bare_encoder_cannot_be_evaluated(encoder, task, tmp_path):
    made = stages.export(encoder, tmp_path / "onnx")
    named = task.model_copy(update={"labels": ["LABEL_0", "LABEL_1"], "label": "number"})
    for split in ("train", "dev", "test"):
        lines = Path(getattr(task, split)).read_text().replace('"label"', '"old"').splitlines()
        numbered = [line[:-1] + f', "number": {index % 2}}}' for index, line in enumerate(lines)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(numbered))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "dev", "test")}
    with pytest.raises(UserError, match="has no head for this task: it gives last_hidden_state, pooler_output"):
        stages.evaluate(made, named.model_copy(update=files))


@pytest.mark.parametrize(
    ("engine", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino"), ("pruneonce", "runtime")]
)
def test_a_missing_engine_is_named(engine, extra, folders, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"needs {engine}.*pip install 'pruneonce\[{extra}\]'"):
        open_engine(folders.get(engine, folders["torch"]), engine)
    assert engines.open_engine(folders["torch"], "torch").name == "torch", "which needs neither"


def test_instruction_sets_are_those_that_linux_lists(monkeypatch):
    told = machine.instruction_sets()
    assert set(told) <= set(machine.INSTRUCTIONS)
    if not Path("/proc/cpuinfo").is_file():
        pytest.skip("no Linux")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert set(told) <= set(machine.instruction_sets())


def test_features_of_arm_are_read(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert {"asimddp", "i8mm"} <= machine._flags(tmp_path / "cpuinfo")
    assert machine._flags(tmp_path / "nothing") == set()


@pytest.mark.parametrize(
    ("machine_name", "told", "overflows"),
    [("x86_64", ["avx2"], True), ("x86_64", ["avx2", "avx_vnni"], False), ("aarch64", [], False)],
)
def test_who_overflows(machine_name, told, overflows, monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: machine_name)
    monkeypatch.setattr(machine, "instruction_sets", lambda: told)
    assert machine.overflows_int8() is overflows


def test_the_examples_in_the_documentation_run(folders, tmp_path, monkeypatch, capsys):
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/engines.md").read_text(encoding="utf-8"), re.M | re.S)
    assert ["import " + name in code for name, code in zip(LIBRARIES, examples, strict=True)] == [True] * 3
    monkeypatch.chdir(folders["torch"].parent)
    for code in examples[1:]:
        exec(compile(code, "docs/engines.md", "exec"), {})
    shown = capsys.readouterr().out.split()
    assert len(shown) == 2
    assert set(shown) <= {"negative", "positive"}
    if "pruneonce" not in folders:
        pytest.skip("pruneonce-runtime is not installed")
    without_torch = f"import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n{examples[0]}"
    done = subprocess.run([sys.executable, "-c", without_torch], capture_output=True, text=True, check=True)
    label, labels, *kernels = done.stdout.splitlines()
    assert label in ("negative", "positive")
    assert ast.literal_eval(labels)[0] == label, "of the same text"
    assert len(kernels) > 12 or "plain numpy" in kernels[0]


def outlive_a_signal(folder):
    faulthandler.enable()
    one, two = (open_engine(folder, "openvino") for _ in range(2))
    del one
    del two
    signal.signal(signal.SIGTERM, lambda *_: print("alive"))
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_finds_its_way_after_two_models_were_closed(folders, tmp_path):
    """OpenVINO moves the signal stack: with a core for each model the process ended here with a segmentation fault."""
    done = Started(tmp_path, outlive_a_signal, folders["openvino"]).finish()
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-500:]
