"""One display of progress: a live line where it can be drawn again, lines where it cannot, none where it is quiet."""

import io
import logging
import sys
from types import SimpleNamespace

import pytest
from transformers import trainer

from pruneonce import stages
from pruneonce.console import _Progress, logger
from pruneonce.recipe import Training
from pruneonce.training import progress


def shown(monkeypatch, widgets=False, **kwargs):
    """What a bar of ten steps writes to a console."""
    file = io.StringIO()
    made = _Progress(file=file, width=80, **kwargs)
    if not made.is_jupyter:
        made.file = file
    monkeypatch.setattr(progress, "console", made)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: widgets or None)
    bar = progress.Bar("finetune")
    state = SimpleNamespace(max_steps=10, global_step=0)
    bar.on_train_begin(None, state, None)
    live = bar.progress.live.is_started
    for step in range(1, 11):
        state.global_step = step
        bar.on_step_end(None, state, None)
        bar.on_log(None, state, None, {"loss": 1 / step, "sparsity": 0.5})
    bar.on_train_end(None, state, None)
    return live, file.getvalue()


def test_lines_in_a_file(monkeypatch):
    live, text = shown(monkeypatch)
    assert not live
    assert len(text.splitlines()) == 10
    assert "10/10  loss 0.1000  sparsity 50.0 %" in text.splitlines()[-1]


def test_one_line_in_a_terminal(monkeypatch):
    live, text = shown(monkeypatch, force_terminal=True)
    assert live
    assert text.count("\n") <= 2
    assert "10/10" in text


@pytest.mark.parametrize("widgets", [True, False])
def test_in_a_notebook(widgets, monkeypatch):
    """Live only with the widgets that it is drawn in; rich would warn and draw nothing without."""
    made = _Progress(force_jupyter=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: widgets or None)
    assert made.is_jupyter
    assert made.is_live is widgets
    monkeypatch.setattr(progress, "console", made)
    assert progress.Bar("finetune").progress.disable is not widgets


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_where_it_is_quiet(terminal, monkeypatch):
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.manager._clear_cache()
    try:
        live, text = shown(monkeypatch, force_terminal=terminal)
    finally:
        monkeypatch.undo()
        logger.manager._clear_cache()
    assert (live, text) == (False, "")


def test_the_display_of_notebooks_is_not_added(monkeypatch, encoder, task, tmp_path):
    """transformers adds one of its own there, which stands in for the usual one."""

    class Notebook(trainer.ProgressCallback):
        def on_train_begin(self, *args, **kwargs):
            raise AssertionError("two displays")

    monkeypatch.setattr(trainer, "DEFAULT_PROGRESS_CALLBACK", Notebook)
    monkeypatch.setattr(sys.modules["pruneonce.training.train"], "DEFAULT_PROGRESS_CALLBACK", Notebook)
    made = stages.finetune(encoder, task, Training(steps=2, learning_rate=0.001, batch_size=4), tmp_path / "out")
    assert made.is_dir()
