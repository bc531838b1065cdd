"""Tasks that go by a name of their own, those of GLUE and SQuAD, with the columns of their hub data sets.

Sources: https://arxiv.org/abs/1804.07461 and https://arxiv.org/abs/1606.05250. Where the labels of the test split were
never published, `dev` is GLUE's development set and there is no `test`.
"""

from __future__ import annotations

import difflib
from typing import Any

from pruneonce.errors import UserError
from pruneonce.recipe.merging import merge


def _glue(name: str, text: str, text_pair: str | None = None, **more: Any) -> dict[str, Any]:
    columns = {"text": text} | ({"text_pair": text_pair} if text_pair else {})
    hub = {"source": "nyu-mll/glue", "subset": name, "train": "train", "dev": "validation"}
    return {"kind": "classification", **hub, **columns, **more}


PRESETS: dict[str, dict[str, Any]] = {
    "cola": _glue("cola", "sentence", metric="matthews_correlation"),
    "sst2": _glue("sst2", "sentence"),
    "mrpc": _glue("mrpc", "sentence1", "sentence2", test="test", metric="f1"),
    "stsb": _glue("stsb", "sentence1", "sentence2", kind="regression", metric="spearman"),
    "qqp": _glue("qqp", "question1", "question2"),
    "mnli": _glue(
        "mnli", "premise", "hypothesis", dev="validation_matched", held_out={"mismatched": "validation_mismatched"}
    ),
    "qnli": _glue("qnli", "question", "sentence"),
    "rte": _glue("rte", "sentence1", "sentence2"),
    "wnli": _glue("wnli", "sentence1", "sentence2"),
    "squad": {"kind": "question-answering", "source": "rajpurkar/squad", "train": "train", "dev": "validation"},
    "squad_v2": {
        "kind": "question-answering",
        "source": "rajpurkar/squad_v2",
        "train": "train",
        "dev": "validation",
        "no_answer": True,
    },
}


# Keys of a preset that locate its data; the others describe its form.
DATA = ("source", "subset", "train", "dev", "test", "held_out")


def with_preset(task: Any, at: str = "") -> Any:
    """Lay a task's values over those of the `preset` that it names; a bare name is a preset without changes.

    With `source: null`, for files of one's own, only columns and metric of the preset are left.

    Raises:
        UserError: there is no such preset.
    """
    if isinstance(task, str):
        task = {"preset": task}
    if not isinstance(task, dict) or "preset" not in task:
        return task
    values = dict(task)
    name = str(values.pop("preset"))
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        where = f"`{at}`: " if at else ""
        raise UserError(f"{where}no task is known as {name!r}, only {', '.join(PRESETS)}{hint}")
    preset = PRESETS[name]
    if values.get("source", preset) is None:
        preset = {key: value for key, value in preset.items() if key not in DATA}
    return merge(preset, values)


def with_presets(tasks: Any) -> Any:
    """Return `tasks` of a recipe, a list of names or a mapping, as a mapping without presets."""
    if isinstance(tasks, list) and all(isinstance(name, str) for name in tasks):
        tasks = {name: name for name in tasks}
    if not isinstance(tasks, dict):
        return tasks
    return {name: with_preset(task, f"tasks.{name}") for name, task in tasks.items()}
