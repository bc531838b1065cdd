"""From Python, stages are as quiet as on the command line, and the libraries' settings are as before."""

import os
import subprocess
import sys
import warnings

import datasets
import huggingface_hub.utils as hub
import pytest
from shared.processes import ONE_THREAD
from transformers.utils import logging as transformers

from pruneonce.system.libraries import quiet, silenced

CODE = """
import sys
from pathlib import Path
import pruneonce
from pruneonce import stages
from pruneonce.recipe import Classification, Prune, Training

encoder, data, output = map(Path, sys.argv[1:])
task = Classification(train=str(data / "train.jsonl"), dev=str(data / "dev.jsonl"), max_length=16)
dense = stages.finetune(encoder, task, Training(epochs=1, learning_rate=0.001), output / "dense")
stages.evaluate(dense, task)
stages.prune_one_shot(encoder, Prune(steps=1, learning_rate=1, sparsity=0.8), output / "pruned")
pruneonce.load(dense)
"""


def spoken(code, *arguments, **environment):
    usual = {name: value for name, value in os.environ.items() if "VERBOSITY" not in name and "PROGRESS" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**usual, **ONE_THREAD, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def test_stages_from_python_are_quiet(encoder, task_files, tmp_path):
    assert spoken(CODE, encoder, task_files, tmp_path) == ""


def test_debugging_shows_them(encoder):
    """Which is also to say that there is something to silence."""
    level = "import logging; logging.getLogger('pruneonce').setLevel(logging.DEBUG)"
    code = f"import sys, pruneonce; {level}; pruneonce.load(sys.argv[1])"
    assert "Loading weights" in spoken(code, encoder)


@pytest.fixture
def talkative(monkeypatch):
    """All libraries as talkative as a user may have made them."""
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    monkeypatch.delenv("DATASETS_VERBOSITY", raising=False)
    before = state()
    transformers.enable_progress_bar()
    datasets.enable_progress_bars()
    transformers.set_verbosity_info()
    datasets.logging.set_verbosity_debug()
    yield
    transformers.set_verbosity(before[0])
    datasets.logging.set_verbosity(before[1])
    (datasets.disable_progress_bars if before[4] else datasets.enable_progress_bars)()
    (transformers.enable_progress_bar if before[2] else transformers.disable_progress_bar)()


def state():
    return (
        transformers.get_verbosity(),
        datasets.logging.get_verbosity(),
        transformers.is_progress_bar_enabled(),
        hub.are_progress_bars_disabled(),
        datasets.are_progress_bars_disabled(),
    )


@pytest.mark.parametrize("hub_shows", [True, False])
@pytest.mark.parametrize("transformers_show", [True, False])
def test_settings_are_as_before(transformers_show, hub_shows, talkative):
    if not transformers_show:
        transformers.disable_progress_bar()
    (hub.enable_progress_bars if hub_shows else hub.disable_progress_bars)()
    before = state()
    with silenced():
        assert state() == (40, 40, False, True, True)
    assert state() == before


def test_a_verbosity_in_the_environment_stands(talkative, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    with silenced():
        assert state()[:2] == (20, 40)


def test_warnings_are_silenced_and_come_back():
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.filterwarnings("error", message="of mine")
        with silenced():
            warnings.warn("of a library", stacklevel=1)
        with pytest.warns(UserWarning, match="of a library"):
            warnings.warn("of a library", stacklevel=1)
        with pytest.raises(UserWarning):
            warnings.warn("of mine", stacklevel=1)


def test_a_filter_for_all_warnings_stands():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with silenced(), pytest.raises(UserWarning):
            warnings.warn("of a library", stacklevel=1)


def test_a_quiet_function_is_the_same_function():
    @quiet
    def double(number: int) -> int:
        """Twice."""
        return 2 * number

    assert (double(3), double.__name__, double.__doc__) == (6, "double", "Twice.")
