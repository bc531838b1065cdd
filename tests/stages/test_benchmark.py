"""What is timed, in what order, and how it is told. Models are tiny, engines real; no test looks at a duration."""

import itertools
import json
import os
import re
import shutil
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from shared.exports import task_model
from shared.models import make_model
from shared.pages import Page
from transformers import AutoConfig

from pruneonce import recipe, stages, storage
from pruneonce.cli import main, tables
from pruneonce.console import console
from pruneonce.engines import ENGINES, timing
from pruneonce.engines.timing import Turns, figures, in_turns, unevenness, watched
from pruneonce.errors import UserError
from pruneonce.recipe import Benchmark
from pruneonce.report import verdict, write_report
from pruneonce.report.speed import fastest, milliseconds, notes, sentence
from pruneonce.stages.benchmark import _fastest, _text_batches
from pruneonce.system import packages

OURS = ["pruneonce"] if find_spec("pruneonce_runtime") else []  # which `make setup` installs
FAST = Benchmark(batch_sizes=[1, 2], lengths=[8, 16], seconds=0.02, texts=5)
TEXTS = ["the river", "a great city of stone and water", "poor music", "winter", "the train was not fine", "paper"]


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("timed")
    made = {name: task_model(folder / name, "bert", tokenizer, name) for name in ("fp32", "int8")}
    return made | {"exported": stages.export(made["int8"], folder / "exported")}


@pytest.fixture(scope="module")
def found(models):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Turns, "is_busy", lambda self, name, threads: False)  # the machine of a test may be
        return stages.benchmark(models, FAST, TEXTS)


# -- timing -----------------------------------------------------------------------------------------------------


def test_works_take_turns():
    made = []
    works = {name: [lambda name=name: made.append(name)] for name in ("a", "b", "c")}
    passes = in_turns(works, 0.0, 4)
    assert [len(each) for each in passes.values()] == [4, 4, 4]
    assert made[:3] == ["a", "b", "c"], "the warm-up"
    assert [name for name, _ in itertools.groupby(made[3:])] == ["a", "b", "c"] * 4


def test_a_pass_makes_all_calls_in_order():
    made = []
    works = {"texts": [lambda i=i: made.append(i) for i in range(3)]}
    passes = in_turns(works, 0.0, 2)
    assert [len(one) for one in passes["texts"]] == [3, 3]
    assert made == [0, 1, 2, 0, 0, 1, 2, 0, 1, 2], "warm-up, one call to fill the caches, two passes"


def test_short_calls_fill_their_time():
    passes = in_turns({"a": [lambda: None]}, 0.01, 2)
    assert len(passes["a"]) > 10


def test_figures():
    told = figures([[0.001, 0.003], [0.002, 0.004], [0.005, 0.005]], sequences=8)
    assert told["milliseconds"] == pytest.approx(3.5)
    assert (told["low"], told["high"]) == (pytest.approx(2.25), pytest.approx(4.75))
    assert told["per_second"] == pytest.approx(8 / 0.006), "the median pass took 6 ms"
    assert told["runs"] == 6


def test_equal_calls_that_differ_are_uneven_and_different_texts_are_not():
    texts = [[0.001, 0.009], [0.001, 0.009], [0.0011, 0.0089]]
    assert unevenness(texts) < 0.1
    assert unevenness([[0.001], [0.0011], [0.001], [0.002], [0.0019], [0.0021]]) > 0.5
    assert Turns({"a": texts}, others=0.0).is_busy("a", threads=1) is False
    assert Turns({"a": [[0.001], [0.003]]}, others=0.0).is_busy("a", threads=1) is True


@pytest.mark.parametrize(("others", "busy"), [(0.1, False), (1.0, True)])
def test_a_program_beside_a_benchmark_makes_it_busy(others, busy, monkeypatch):
    """All processors are timed on; another program takes a part of one of them, seen once the time is long enough."""
    began = time.perf_counter()
    monkeypatch.setattr(timing, "seconds_of_others", lambda: others * (time.perf_counter() - began))
    turns = watched({"a": [lambda: time.sleep(0.002)]}, 0.6, 2)
    assert turns.others == pytest.approx(others, rel=0.05)
    turns.passes["a"] = [[0.002], [0.002]]
    assert turns.is_busy("a", threads=os.cpu_count()) is busy
    assert turns.is_busy("a", threads=1) is (busy and os.cpu_count() == 1)
    assert watched({"a": [lambda: None]}, 0.0, 2).others is None, "too short to tell"


def test_busy_rows_are_not_compared(models, monkeypatch):
    monkeypatch.setattr(Turns, "is_busy", lambda self, name, threads: name == "int8")
    settings = Benchmark(engines=["torch", "onnxruntime"], batch_sizes=[1], lengths=[8], seconds=0.01)
    found = stages.benchmark(models, settings)
    assert found["busy"] is True
    assert {row["model"] for row in found["rows"] if row["busy"]} == {"int8"}
    assert all((row["speedup"] is None) == row["busy"] for row in found["rows"])
    assert sentence(found["rows"]).endswith(" ms a text of 8 tokens, on a busy machine: no times are compared.")
    (line,) = [line for line in notes(found) if line.startswith("NOT RELIABLE")]
    assert "while int8 in ONNX Runtime was timed" in line


# -- the stage --------------------------------------------------------------------------------------------------


def test_every_cell_is_there(found):
    able = {
        "fp32": ["torch", "onnxruntime", "openvino", *OURS],
        "int8": ["onnxruntime", "openvino", *OURS],
        "exported": ["onnxruntime"],
    }
    lengths = [8, 16, "real"]
    assert len(found["rows"]) == sum(map(len, able.values())) * 2 * 3
    assert {(r["model"], r["engine"], r["batch"], r["length"]) for r in found["rows"]} == {
        (name, engine, batch, length)
        for name, engines in able.items()
        for engine in engines
        for batch in (1, 2)
        for length in lengths
    }
    assert [(s["model"], s["engine"]) for s in found["skipped"]] == [("int8", "torch")]
    assert {(r["model"], r["weights"]) for r in found["rows"]} == {
        ("fp32", "fp32"),
        ("int8", "int8"),
        ("exported", "int8"),
    }


def test_what_a_row_tells(found):
    for row in found["rows"]:
        assert 0 < row["low"] <= row["milliseconds"] <= row["high"]
        assert row["per_second"] > 0
        assert row["runs"] >= {"real": 2}.get(row["length"], 5)
        assert row["precision"] == "fp32" or row["engine"] == "openvino"
        assert row["speedup"] == 1 if row["model"] == "fp32" else row["speedup"] > 0
    assert found["texts"] == {"number": 5, "median_tokens": found["texts"]["median_tokens"], "most_tokens": 9}
    assert found["machine"]["threads"] == torch.get_num_threads()
    libraries = {"torch", "onnxruntime", "openvino", *(["pruneonce_runtime"] if OURS else [])}
    assert {"processor", "instructions", *libraries} <= found["machine"].keys()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_real_texts_are_not_padded_alone_and_little_in_batches(models, tokenizer):
    alone = _text_batches(models["fp32"], TEXTS, 1, 8)
    assert [batch["input_ids"].shape for batch in alone] == [(1, min(8, len(tokenizer(t)["input_ids"]))) for t in TEXTS]
    assert all(batch["attention_mask"].all() for batch in alone)
    together = _text_batches(models["fp32"], TEXTS, 2, 8)
    widths = [batch["input_ids"].shape[1] for batch in together]
    assert widths == sorted(widths)
    assert sum(int(batch["attention_mask"].sum()) for batch in together) == sum(b["input_ids"].size for b in alone)
    (pair,) = _text_batches(models["fp32"], [("the river", "a city")], 1, 16)
    assert np.array_equal(pair["input_ids"], [tokenizer("the river", "a city")["input_ids"]])


def test_real_texts_get_the_prompt_and_the_limit_of_the_model(models, tokenizer, tmp_path):
    folder = shutil.copytree(models["fp32"], tmp_path / "model")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    notes = {"prompts": {"q": "the great "}, "default_prompt_name": "q"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(notes))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    (batch,) = _text_batches(folder, ["river stone city river stone"], 1, 16)
    assert np.array_equal(batch["input_ids"], [tokenizer("the great river stone city")["input_ids"]])
    (folder / "sentence_bert_config.json").write_text('{"unknown": 7}')  # which evaluation refuses
    (batch,) = _text_batches(folder, ["river stone city"], 1, 16)
    assert np.array_equal(batch["input_ids"], [tokenizer("river stone city")["input_ids"]])


def test_mistakes(models):
    with pytest.raises(UserError, match=r"`lengths` is 512, but .* takes at most 128 tokens"):
        stages.benchmark({"m": models["fp32"]}, Benchmark(lengths=[512]))
    with pytest.raises(UserError, match="cannot be timed in openvino; add the engine onnxruntime"):
        stages.benchmark({"m": models["exported"]}, Benchmark(engines=["openvino"]))
    with pytest.raises(UserError, match="cannot be timed in torch; add the engine onnxruntime"):
        stages.benchmark({"m": models["int8"]}, Benchmark(engines=["torch"]))
    with pytest.raises(UserError, match="cannot be timed in pruneonce; add the engine onnxruntime"):
        stages.benchmark({"m": models["exported"]}, Benchmark(engines=["pruneonce"]))
    with pytest.raises(UserError, match="no model folder at"):
        stages.benchmark({"m": models["fp32"] / "nowhere"}, Benchmark())


@pytest.mark.skipif(not OURS, reason="pruneonce-runtime is not installed")
def test_packed_files_are_timed_in_the_engine_for_them(models, tmp_path):
    file, family = tmp_path / "int8.pruneonce", tmp_path / "family.pruneonce"
    storage.pack([models["int8"]], file, "fp32")
    shutil.copytree(models["fp32"], tmp_path / "again")
    storage.pack([models["fp32"], tmp_path / "again"], family, "fp32")
    given = {"dense": models["fp32"], "packed": file, "member": family / "again"}
    settings = FAST.model_copy(update={"engines": ["torch", "pruneonce"], "batch_sizes": [1], "lengths": [8]})
    rows = stages.benchmark(given, settings, TEXTS[:2])["rows"]
    assert [(row["model"], row["engine"], row["weights"]) for row in rows if row["length"] == 8] == [
        ("dense", "torch", "fp32"),
        ("dense", "pruneonce", "fp32"),
        ("packed", "pruneonce", "int8"),
        ("member", "pruneonce", "fp32"),
    ]
    with pytest.raises(UserError, match=r"packed.pruneonce cannot be timed in torch; add the engine pruneonce$"):
        stages.benchmark({"m": file.rename(tmp_path / "packed.pruneonce")}, Benchmark(engines=["torch"]))
    with pytest.raises(UserError, match=r"holds several models; name one of them: .*/family.pruneonce/fp32, "):
        stages.benchmark({"m": family}, FAST)


def test_what_an_engine_cannot_run_is_told(encoder, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: name)
    make_model(tmp_path / "mlm", tokenizer, head=True)
    found = stages.benchmark({"m": tmp_path / "mlm"}, FAST.model_copy(update={"engines": ["torch", "pruneonce"]}))
    assert found["skipped"] == [{"model": "m", "engine": "pruneonce", "why": "it runs no vocabulary head"}]
    assert {row["engine"] for row in found["rows"]} == {"torch"}
    other = AutoConfig.for_model("albert")
    assert ENGINES["pruneonce"].limits(other) == "it does not know the architecture albert"


# -- the command line -------------------------------------------------------------------------------------------


def test_the_verb(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"sentence": text}) + "\n" for text in TEXTS))
    usual = torch.get_num_threads()
    arguments = [
        *("benchmark", str(models["fp32"]), str(models["exported"]), "--engine", "torch", "--engine", "onnxruntime"),
        *("--batch-size", "1", "--length", "8", "--threads", "2", "--seconds", "0.02"),
        *("--texts", "texts.jsonl", "--text", "sentence", "--set", "texts=3", "--output", "speed"),
    ]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"] == Benchmark(
        engines=["torch", "onnxruntime"], batch_sizes=[1], lengths=[8], threads=2, seconds=0.02, texts=3
    ).model_dump(mode="json")
    assert [(r["model"], r["engine"], r["length"]) for r in told["rows"]] == [
        *(("fp32", "torch", length) for length in (8, "real")),
        *((name, "onnxruntime", length) for length in (8, "real") for name in ("fp32", "exported")),
    ]
    assert (told["machine"]["threads"], torch.get_num_threads()) == (2, usual)
    summary = json.loads((tmp_path / "speed" / "summary.json").read_text())
    assert (summary["name"], summary["benchmark"]) == ("speed", told)
    assert "How fast the models are" in (tmp_path / "speed" / "report.html").read_text()
    assert main(arguments) == 2
    assert "speed already holds something" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "tensorrt"], "`engines.0`: Input should be 'torch', 'onnxruntime', 'openvino' or 'pruneonce'"),
        (["--length", "1"], "`lengths.0`: Input should be greater than or equal to 2"),
        (["--seconds", "0"], "`seconds`: Input should be greater than 0"),
        (["--set", "lenghts=[8]"], "unknown key `lenghts`; did you mean `lengths`?"),
        (["--text", "sentence"], "name columns of --texts FILE, which is missing"),
        (["--texts", "texts.jsonl"], "no column 'text', only 'sentence'"),
        (["--texts", "nowhere.jsonl"], "no such file: nowhere.jsonl"),
        (["./nowhere"], "no model folder at ./nowhere"),
        (["--length", "512", "--engine", "torch"], "`lengths` is 512, but"),
    ],
)
def test_a_mistake_is_one_line(options, message, encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"sentence": "the river"}\n')
    assert main(["benchmark", str(encoder), *options, "--output", "speed"]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["texts.jsonl"]


def test_the_faster_way_of_an_engine_is_kept(monkeypatch):
    taken = {"": 4.0, "zeros skipped": 1.0}
    monkeypatch.setitem(_fastest.__globals__, "in_turns", lambda works, *_: {n: [[taken[n]]] for n in works})
    ways, grid = dict.fromkeys(taken, print), {(1, 8): {}, (2, 8): {}}
    assert _fastest(ways, grid) == "zeros skipped"
    taken[""] = 0.5
    assert _fastest(ways, grid) == ""


def test_the_notes_name_the_way_that_was_kept():
    measured = timed()
    assert not [line for line in notes(measured) if "zeros skipped" in line]
    measured["rows"][-1]["variant"] = "zeros skipped"
    model = measured["rows"][-1]["model"]
    assert [line for line in notes(measured) if line.startswith(f"{model} runs in") and "zeros skipped" in line]


# -- tables and the report --------------------------------------------------------------------------------------


def row(model, engine, milliseconds, batch=1, length="real", first=10.0):
    return {
        "model": model,
        "engine": engine,
        "weights": "int8" if model == "int8" else "fp32",
        "precision": "bf16" if engine == "openvino" else "fp32",
        "batch": batch,
        "length": length,
        "milliseconds": milliseconds,
        "low": 0.9 * milliseconds,
        "high": 1.2 * milliseconds,
        "per_second": 1000 * batch / milliseconds,
        "runs": 5,
        "speedup": first / milliseconds,
    }


def timed(**changes):
    rows = [
        row(model, engine, ms * batch, batch, length)
        for batch, length in [(1, 128), (1, "real"), (32, 128), (32, "real")]
        for model, engine, ms in [
            ("dense", "torch", 16.1),
            ("dense", "openvino", 6.2),
            ("strange model of <mine>", "openvino", 7.0),
            ("int8", "openvino", 3.1),
        ]
    ]
    machine = {"processor": "a processor", "instructions": ["avx2", "avx_vnni"], "threads": 2, "torch": "2.13.0"}
    skipped = [{"model": "int8", "engine": "torch", "why": "for a reason"}]
    texts = {"number": 100, "median_tokens": 21, "most_tokens": 60}
    settings = Benchmark().model_dump(mode="json")
    return {"machine": machine, "settings": settings, "texts": texts, "rows": rows, "skipped": skipped, **changes}


def test_the_sentence():
    assert sentence(timed()["rows"]) == (
        "Int8 in OpenVINO takes 3.10 ms a text, 5.2 times less than dense in PyTorch and 2.0 times less than dense in "
        "OpenVINO."
    )


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [row("dense", "torch", 10.0), row("int8", "onnxruntime", 25.0)],
            "Int8 in ONNX Runtime takes 25.0 ms a text, 2.5 times as long as dense in PyTorch.",
        ),
        (
            [row("dense", "torch", 10.0), row("sparse", "torch", 10.2), row("sparse", "openvino", 11.0)],
            "Sparse in PyTorch takes 10.2 ms a text, about as long as dense in PyTorch.",
        ),
        ([row("dense", "torch", 120.0, 8, 64)], "Dense in PyTorch takes 120 ms a batch of 8 texts of 64 tokens."),
        (
            [row("dense", "torch", 10.0), row("dense", "openvino", 5.0)],
            "Dense in OpenVINO takes 5.00 ms a text, 2.0 times less than dense in PyTorch.",
        ),
    ],
)
def test_the_sentence_is_honest(rows, told):
    assert sentence(rows) == told


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0514, "0.051"), (3.14159, "3.14"), (31.4159, "31.4"), (3141.5, "3,142")]
)
def test_milliseconds(value, shown):
    assert milliseconds(value) == shown


def build(folder, summary):
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


def test_a_page_with_a_benchmark_alone(tmp_path):
    found = timed()
    html = build(tmp_path, {"name": "speed", "machine": found["machine"], "benchmark": found})
    page = Page(html)
    cells = [cell.split() for cell in page.cells]
    assert ["3.10", "2.79-3.72", "323/s", "3.2", "times"] in cells
    assert ["16.1", "14.5-19.3", "62/s"] in cells, "the first is not compared with itself"
    pictures = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) == 2
    assert all(label.startswith("Milliseconds, bars from 0: dense in PyTorch") for label in pictures)
    for text in (
        "How fast the models are",
        "avx2, avx_vnni",
        "int8 is not timed in PyTorch: for a reason",
        "21 tokens",
    ):
        assert text in html
    for text in ("No task was measured", "How to use the models", "<mine>", "#01020"):
        assert text not in html
    assert "var(--dense)" in re.search(r"<figure>.*?</figure>", html, re.S)[0]
    assert verdict({"benchmark": found}) == [sentence(found["rows"])]


def test_a_page_of_a_busy_machine_compares_no_times(tmp_path):
    found = timed()
    for busy in found["rows"]:
        busy.update(busy=True, speedup=None)
    html = build(tmp_path, {"name": "speed", "machine": found["machine"], "benchmark": found})
    assert "NOT RELIABLE: the machine was busy while dense in PyTorch, dense in OpenVINO" in html
    assert not re.search(r"\d times", re.sub("<[^>]*>", "", html))
    assert fastest(found["rows"], "int8") is None


def test_the_sentence_joins_those_of_a_run():
    said = verdict({"benchmark": timed(), "sparsity": {"encoder": 0.9}})
    assert said[0] == "90.0 % of the encoder's weights are zero."
    assert said[1].startswith("Int8 in OpenVINO takes 3.10 ms")
    assert said[2] == "No task was measured in this run."


def test_the_table(capsys):
    one, many = tables.speeds(timed()["rows"])
    with console.capture() as captured:
        console.print(one)
    shown = captured.get()
    assert "batch 1" in shown
    assert "real texts" in shown
    line = next(line for line in shown.splitlines() if "int8" in line)
    assert line.split()[:3] == ["openvino", "int8", "int8"]
    assert "3.10  3.2x" in line
    assert many.row_count == one.row_count == 4


@pytest.mark.parametrize("missing", [(), ("pruneonce_runtime",), ("onnxruntime", "openvino", "pruneonce_runtime")])
def test_the_defaults_are_the_engines_that_are_installed(missing, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name in missing else name)
    installed = [name for name, engine in ENGINES.items() if engine.library not in missing]
    assert recipe.Benchmark().engines == installed
    assert "torch" in installed
