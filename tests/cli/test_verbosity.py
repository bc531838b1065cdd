"""`--quiet`, `--verbose` and PRUNEONCE_VERBOSITY: what is printed, where, and that nothing of it stays."""

import logging
import os
import subprocess
import sys

import pytest
from shared.processes import ONE_THREAD

from pruneonce.cli import main
from pruneonce.console import console, logger

FAST = ["--set", "epochs=1", "--set", "batch_size=16", "--set", "task.max_length=16"]


def finetune(encoder, task_files, output):
    task = [part for split in ("train", "dev") for part in (f"--{split}", str(task_files / f"{split}.jsonl"))]
    return ["finetune", str(encoder), *task, "--output", str(output), *FAST]


def said(capsys, arguments):
    assert main(arguments) == 0
    return capsys.readouterr()


def test_by_default_progress_and_results(encoder, task_files, tmp_path, capsys):
    shown = said(capsys, finetune(encoder, task_files, tmp_path / "out"))
    assert "  finetune " in shown.out
    assert "6/6" in shown.out
    assert f"made {tmp_path / 'out'}: " in shown.out
    assert shown.err == ""
    assert "already made" in said(capsys, finetune(encoder, task_files, tmp_path / "out")).out


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
@pytest.mark.parametrize("before", [True, False])
def test_quiet_has_results_alone(flag, before, encoder, task_files, tmp_path, capsys):
    verb = finetune(encoder, task_files, tmp_path / "out")
    shown = said(capsys, [flag, *verb] if before else [*verb, flag])
    made, following = shown.out.splitlines()
    assert made.startswith(f"made {tmp_path / 'out'}: ")
    assert following.startswith("next: pruneonce transfer")
    assert shown.err == ""
    assert len(said(capsys, [flag, *verb]).out.splitlines()) == 2, "nor that it is made already"


def test_quiet_shows_tables_and_errors(encoder, capsys):
    assert said(capsys, ["-q", "inspect", str(encoder)]).out == said(capsys, ["inspect", str(encoder)]).out != ""
    assert main(["-q", "recipes", "show", "no.yaml"]) == 2
    assert capsys.readouterr().err == "error: no recipe file at no.yaml\n"


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_verbose_says_what_is_read_and_written(flag, encoder, task_files, tmp_path, capsys):
    shown = said(capsys, [*finetune(encoder, task_files, tmp_path / "out"), flag])
    assert f"pruneonce: BertForSequenceClassification loaded from {encoder}\n" in shown.err
    assert f"pruneonce: {tmp_path / 'out'} is written\n" in shown.err
    assert "6/6" in shown.out


def test_by_environment(monkeypatch, capsys):
    monkeypatch.setenv("PRUNEONCE_VERBOSITY", "verbose")
    assert "pruneonce: recipe read from " in said(capsys, ["recipes", "show", "quickstart"]).err
    assert said(capsys, ["recipes", "show", "quickstart", "-q"]).err == "", "an option goes before it"
    monkeypatch.setenv("PRUNEONCE_VERBOSITY", "normal")
    assert said(capsys, ["recipes", "show", "quickstart"]).err == ""
    monkeypatch.setenv("PRUNEONCE_VERBOSITY", "loud")
    assert main(["recipes", "list"]) == 2
    assert capsys.readouterr().err == "error: PRUNEONCE_VERBOSITY is 'loud'; it is one of quiet, normal, verbose\n"


def test_not_both(capsys):
    assert main(["-v", "recipes", "list", "--quiet"]) == 2
    assert "give one of --quiet and --verbose" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["-q"], ["-v"]])
def test_nothing_of_it_stays(flags, capsys):
    before = (logger.level, list(logger.handlers), console.quiet)
    assert main([*flags, "recipes", "show", "no.yaml"]) == 2
    assert (logger.level, logger.handlers, console.quiet) == before


def test_the_libraries_speak_where_asked(encoder, task_files, tmp_path):
    """transformers reports the new head of a fine-tuned model; only a process of its own has its usual settings."""
    environment = {name: value for name, value in os.environ.items() if "VERBOSITY" not in name} | ONE_THREAD
    arguments = [sys.executable, "-m", "pruneonce", "-v", *finetune(encoder, task_files, tmp_path / "out")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert "classifier.weight" in done.stderr


def test_a_logger_of_ones_own_level(caplog, capsys):
    """From Python, the level of the logger decides."""
    console.print("shown")
    logger.setLevel(logging.WARNING)
    try:
        console.print("hidden")
    finally:
        logger.setLevel(logging.INFO)
    console.print("shown again")
    assert capsys.readouterr().out == "shown\nshown again\n"
