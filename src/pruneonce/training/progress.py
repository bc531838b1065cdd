"""Progress bar of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from pruneonce.console import console
from pruneonce.wording import percent


class Bar(TrainerCallback):
    """Progress line with step, time left, loss and sparsity; without a terminal, a line for each tenth of the run."""

    def __init__(self, title: str):
        self.title = title
        self.progress = Progress(
            TextColumn("  {task.description:<20}", markup=False),
            BarColumn(bar_width=10),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_live or console.quiet,
        )
        self.task = self.progress.add_task(title, total=None, note="")
        self.tenths = 0  # number of printed tenths

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.start()
        self.progress.update(self.task, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        note = f"loss {logs['loss']:.4f}"
        if "sparsity" in logs:
            note += f"  sparsity {percent(logs['sparsity'])}"
        self.progress.update(self.task, note=note)
        tenth = 10 * state.global_step // state.max_steps
        if not console.is_live and tenth > self.tenths:
            self.tenths = tenth
            console.print(f"  {self.title:<20} {state.global_step}/{state.max_steps}  {note}", soft_wrap=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.stop()
