"""Runs in experiment trackers: each stage has one of its own, by the name of its folder.

transformers' callbacks go on with a run that is active, so that the stages of one process would share the first stage's
run. W&B's run is never ended by its callback, MLflow's is not ended where training fails.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTS = 5  # of a path that is named: runs/reviews/tasks/sentiment/int8


def run_name(folder: Path) -> str:
    """Return the name of a stage's run: its folder relative to the working directory, or else the end of its path."""
    folder = folder.with_name(folder.name.removesuffix(".partial")).absolute()
    here = Path.cwd()
    parts = folder.relative_to(here).parts if folder.is_relative_to(here) else folder.parts[-PARTS:]
    return "/".join(part.removesuffix(".partial") for part in parts if part != folder.anchor)


@contextmanager
def runs_of_their_own() -> Generator[None, None, None]:
    """End the runs that begin within the context, whether training succeeds or fails; a user's own run goes on."""
    before = {name: _is_active(name) for name in ENDS}
    failed = True
    try:
        yield
        failed = False
    finally:
        for name, end in ENDS.items():
            if not before[name] and _is_active(name):
                end(sys.modules[name], failed)


def _end_wandb(wandb: Any, failed: bool) -> None:
    wandb.finish(exit_code=int(failed))


def _end_mlflow(mlflow: Any, failed: bool) -> None:
    mlflow.end_run("FAILED" if failed else "FINISHED")


# By module; a tracker that is not here ends its run by itself.
ENDS: dict[str, Callable[[Any, bool], None]] = {"wandb": _end_wandb, "mlflow": _end_mlflow}


def _is_active(name: str) -> bool:
    """Return whether a tracker has a run; one that nothing has imported has none."""
    module = sys.modules.get(name)
    if module is None:
        return False
    active = getattr(module, "active_run", None)
    return (active() if callable(active) else getattr(module, "run", None)) is not None
