"""Experiment trackers: a run for each stage, by the name of its folder, with transformers' own callback for W&B."""

import sys
from pathlib import Path

import pytest

from pruneonce import stages
from pruneonce.errors import UserError
from pruneonce.recipe import Training
from pruneonce.training.trackers import run_name, runs_of_their_own

SHORT = {"steps": 2, "batch_size": 8, "learning_rate": 1e-3}

WANDB = """
runs, run, config = [], None, None

class Config(dict):
    def update(self, values, allow_val_change=False):
        super().update(values)

class Run:
    def __init__(self, name):
        self.name, self.logged, self.code, self.config, self.summary = name, [], None, Config(), {}

    def _label(self, code):
        pass

def init(project, name):
    global run, config
    assert run is None
    run = Run(name)
    config = run.config
    runs.append(run)

def log(values):
    run.logged.append(values)

def finish(exit_code=None):
    global run
    run.code, run = exit_code, None
"""


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """A package with the part of W&B that transformers' callback calls; it notes the runs."""
    package = tmp_path / "packages" / "wandb"
    (package / "sdk" / "lib").mkdir(parents=True)
    for folder in (package, package / "sdk", package / "sdk" / "lib"):
        (folder / "__init__.py").write_text(WANDB if folder == package else "")
    (package / "sdk" / "lib" / "config_util.py").write_text("class ConfigError(Exception): pass\n")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    import wandb

    yield wandb
    for name in [name for name in sys.modules if name.split(".")[0] == "wandb"]:
        del sys.modules[name]


def test_each_stage_has_a_run_with_its_own_name(wandb, encoder, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run/tasks/mood/seed-1/dense", "run/tasks/mood/seed-2/dense"):
        stages.finetune(encoder, task, Training(**SHORT), Path(name), report_to=["wandb"])
    assert [run.name for run in wandb.runs] == ["run/tasks/mood/seed-1/dense", "run/tasks/mood/seed-2/dense"]
    assert [run.code for run in wandb.runs] == [0, 0], "both are ended"
    for run in wandb.runs:
        assert any("train/loss" in values for values in run.logged)
        assert run.config["max_steps"] == 2


def test_a_stage_that_fails_ends_its_run_too(wandb, encoder, task, tmp_path):
    diverging = Training(**{**SHORT, "steps": 20, "learning_rate": 1e12, "max_grad_norm": 1e12})
    with pytest.raises(UserError, match="became"):
        stages.finetune(encoder, task, diverging, tmp_path / "dense", report_to=["wandb"])
    assert wandb.run is None
    assert [run.code for run in wandb.runs] == [1]


def test_a_run_of_the_user_goes_on(wandb, encoder, task, tmp_path):
    wandb.init("mine", "all of it")
    stages.finetune(encoder, task, Training(**SHORT), tmp_path / "dense", report_to=["wandb"])
    assert wandb.run is wandb.runs[0]
    assert len(wandb.runs) == 1
    assert wandb.run.logged


class MLflow:
    def __init__(self):
        self.runs, self.active = [], None

    def active_run(self):
        return self.active

    def start_run(self, name):
        self.active = name

    def end_run(self, status):
        self.runs.append((self.active, status))
        self.active = None


@pytest.mark.parametrize(("failure", "status"), [(None, "FINISHED"), (UserError("no"), "FAILED")])
def test_mlflow_is_ended_between_stages(monkeypatch, failure, status):
    mlflow = MLflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    try:
        with runs_of_their_own():
            mlflow.start_run("one")
            if failure:
                raise failure
    except UserError:
        pass
    assert mlflow.runs == [("one", status)]


def test_names(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_name(Path("runs/bert/tasks/sst2/dense.sweep/2-of-3/dense.partial")) == (
        "runs/bert/tasks/sst2/dense.sweep/2-of-3/dense"
    )
    assert run_name(tmp_path / "teacher.partial" / "head") == "teacher/head"
    assert run_name(Path("/elsewhere/runs/bert/tasks/sst2/seed-1/int8.partial")) == "bert/tasks/sst2/seed-1/int8"
    assert run_name(Path("/sparse.partial")) == "sparse"
