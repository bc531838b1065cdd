"""Names from data on the terminal: no control character, escape sequence or markup of theirs is obeyed."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
from rich.table import Table
from rich.text import Text
from safetensors.numpy import load_file, save_file

from pruneonce import console as consoles
from pruneonce.cli import main, tables
from pruneonce.console import SafeConsole, echo, note, styled
from pruneonce.report import verdict
from pruneonce.wording import shown, shown_lines

HOSTILE = "\x1b[31m[bold]x[/bold]\x1b]0;owned\x07\r\u202e:smile:\u2028[/]\x9b2J"
OBEYED = {"\u202e", "\u2028", "\u2066", "\u200e"}


def assert_plain(text):
    """Nothing but line breaks is obeyed; the name is there to be read."""
    assert not [char for char in text if (unicodedata.category(char) == "Cc" and char != "\n") or char in OBEYED]


@pytest.fixture
def hostile_model(encoder, tmp_path):
    """A model whose folder, provenance and one tensor have hostile names."""
    folder = shutil.copytree(encoder, tmp_path / HOSTILE.replace("/", "|"))
    weights = load_file(folder / "model.safetensors")
    weights[f"encoder.layer.0.{HOSTILE}.weight"] = np.zeros((2, 2), np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    made = {"stage": HOSTILE, "source": HOSTILE, "key": HOSTILE, "pattern": HOSTILE}
    (folder / "pruneonce.json").write_text(json.dumps(made))
    return folder


def said(capsys, *arguments):
    main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert_plain(out + err)
    return out + err


def test_inspect(hostile_model, capsys):
    text = said(capsys, "inspect", hostile_model)
    assert text.count(shown(HOSTILE)) == 2


def test_verify(hostile_model, encoder, capsys):
    assert r"\x1b[31m" in said(capsys, "verify", encoder, "--against", hostile_model)


def test_pack_and_unpack(hostile_model, tmp_path, capsys):
    assert r"\x1b[31m" in said(capsys, "pack", hostile_model, tmp_path / f"{HOSTILE[:5]}.pruneonce")
    assert r"\x1b[31m" in said(capsys, "unpack", tmp_path / f"{HOSTILE[:5]}.pruneonce", tmp_path / "out")


@pytest.mark.parametrize("verb", ["finetune", "evaluate"])
def test_labels_and_columns(verb, encoder, tmp_path, capsys):
    rows = [{"text": "fine", "label": label} for label in (HOSTILE, "good")]
    data = tmp_path / "data.jsonl"
    arguments = ["--train", data] if verb == "finetune" else []
    for number, content in enumerate((rows, [{HOSTILE: "fine"}])):
        data.write_text("".join(json.dumps(row) + "\n" for row in content))
        fast = ["--output", tmp_path / str(number), "--set", "steps=1"] if verb == "finetune" else []
        assert r"\x1b" in said(capsys, verb, encoder, "--kind", "classification", *arguments, "--dev", data, *fast)


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", HOSTILE], ["verify", HOSTILE, "--against", HOSTILE], ["evaluate", HOSTILE, "--dev", HOSTILE],
        ["run", HOSTILE, "--output", "out"], ["plan", HOSTILE], ["recipes", "show", HOSTILE],
        ["methods", "show", HOSTILE],
        ["unpack", HOSTILE, "out"], ["pack", HOSTILE, "x.pruneonce"], [HOSTILE], ["inspect", "a", HOSTILE],
        ["transfer", "a", "--teacher", "b", "--train", HOSTILE, "--dev", HOSTILE, "--output", "out"],
        ["benchmark", HOSTILE], ["export", HOSTILE, "--output", "out"], ["recipes", "keys", HOSTILE],
    ],
)  # fmt: skip
def test_errors(arguments, debug, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "error: " in said(capsys, *debug, *arguments)


def test_results_of_a_run():
    row = {
        "task": HOSTILE, "arm": "sparse", "folder": HOSTILE, "metric": HOSTILE, "split": HOSTILE, "value": 0.5,
        "recovery": 1.0, "size": None,
    }  # fmt: skip
    summary = {"results": [{**row, "task": f"{HOSTILE}{number}"} for number in range(3)], "benchmark": None}
    for some in (1, 3):
        for table in tables.results({**summary, "results": summary["results"][:some]}):
            assert_plain(printed(table))
    speeds = [
        {"batch": 1, "length": 8, "engine": HOSTILE, "model": HOSTILE, "weights": "fp32", "milliseconds": 1.0,
         "low": 1.0, "high": 1.0, "speedup": None}
    ]  # fmt: skip
    for table in [*tables.speeds(speeds), tables.metrics({HOSTILE: {HOSTILE: 0.5}})]:
        text = printed(table)
        assert_plain(text)
        assert "[bold]x[/bold]" in text
    for sentence in verdict(summary):
        assert_plain(printed(sentence))


def printed(value):
    console = SafeConsole(width=400)
    with console.capture() as capture:
        console.print(value)
    return capture.get()


def test_the_consoles_are_safe(capsys):
    for console in (consoles.console, consoles.results, consoles.notes, consoles.errors):
        assert isinstance(console, SafeConsole)
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(Text(HOSTILE))
    for value in (HOSTILE, Text(HOSTILE), styled("[dim]{name}[/dim]", name=HOSTILE), table):
        text = printed(value)
        assert_plain(text)
        assert ":smile:" in text
    echo(HOSTILE)
    note(HOSTILE)
    out, err = capsys.readouterr()
    assert out == err == shown(HOSTILE) + "\n"


def test_styles_are_kept_in_a_terminal():
    console = SafeConsole(force_terminal=True, color_system="standard", width=80)
    with console.capture() as capture:
        console.print(styled("[bold]{name}[/bold]", name=HOSTILE))
    text = capture.get()
    assert text.startswith("\x1b[1m\\x1b[31m")
    assert_plain(text.replace("\x1b[1m", "").replace("\x1b[0m", ""))


def test_readable_text_is_left_alone():
    for text in ("Grüße, 東京, किताब, 👩‍👩‍👧, می‌خواهم, \\x1b", ""):
        assert shown(text) == shown_lines(text) == text
    assert shown("a\nb\tc") == r"a\nb\tc"
    assert shown_lines("a\nb\tc\r") == "a\nb\tc\\r"
    assert shown("\ud83d") == r"\ud83d"
