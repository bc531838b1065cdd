"""What the study measured, as one file that is kept in the repository: models come and go, their numbers stay."""

import json
from itertools import product
from pathlib import Path
from typing import Any

Found = dict[str, Any]


def slug(name: str) -> str:
    """A variant's name as that of a folder."""
    return name.replace(",", "").replace(" %", "").replace(" ", "-")


def update(file: Path, output: Path, settings: dict[str, Any], how: str = "") -> Found:
    """`file` (.json) with everything that is finished in `output` laid over what it held, written and returned.

    Args:
        how: the latest run's command, date, machine and versions; empty: nothing was run.

    Returns:
        `tasks[task][arm-zeros][seed]`: the metrics by split; `transfer[ablation][task][variant][seed]`: the same of
        ablations; `pretrained[model]` and `spent[task][arm-zeros]`: tokens and minutes of a training, and the losses on
        held-out text; `distance[model][what is read]`; `sizes[zeros]`: of packed models, see `Study.sizes`; `how`.
    """
    known: Found = read(file) if file.is_file() else {}
    _lay_over(known, _collect(output, settings) | ({"how": how} if how else {}))
    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return known


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _collect(output: Path, settings: dict[str, Any]) -> Found:
    found: Found = {}
    for task in settings["tasks"]:
        for file in sorted((output / "tasks" / task).glob("seed-*/*.json")):
            _put(found, read(file), "tasks", task, file.stem, _seed(file))
        for seed in sorted((output / "tasks" / task).glob("seed-*"))[:1]:
            for model in _finished(seed):
                _put(found, _spent(model), "spent", task, model.name)
    for title, ablation in settings["transfer_ablation"].items():
        for task, name in product(ablation["tasks"], ablation["variants"]):
            for file in (output / "transfer" / title / task).glob(f"seed-*/{slug(name)}.json"):
                _put(found, read(file), "transfer", title, task, name, _seed(file))
    for model in _finished(output / "pretrained"):
        _put(found, _spent(model), "pretrained", model.name)
    for file in sorted((output / "distance").glob("*.json")):
        _put(found, read(file), "distance", file.stem)
    for file in sorted((output / "sizes").glob("*.json")):
        _put(found, {name: _bytes(packed) for name, packed in read(file).items()}, "sizes", file.stem)
    return found


def _finished(folder: Path) -> list[Path]:
    """Models that were trained."""
    files = folder.glob("*/pruneonce.json")
    return sorted(file.parent for file in files if read(file)["training"]["tokens"])


def _seed(file: Path) -> str:
    return file.parent.name.removeprefix("seed-")


def _spent(model: Path) -> dict[str, float]:
    made = read(model / "pruneonce.json")["training"]
    losses = read(model / "metrics.json")["final"] if (model / "metrics.json").is_file() else {}
    spent = {"tokens": made["tokens"], "minutes": round(made["seconds"] / 60, 1)}
    return spent | {name: round(losses[name], 4) for name in ("loss", "hidden") if name in losses}


def _bytes(packed: dict[str, Any]) -> dict[str, int]:
    whole, encoder = packed["parts"]["model"], packed["parts"]["encoder"]
    return {
        "file": packed["bytes"],
        "encoder": encoder["packed_bytes"],
        "dense": whole["dense_bytes"],
        "dense encoder": encoder["dense_bytes"],
    }


def _put(found: Found, value: Any, *keys: str) -> None:
    *path, last = keys
    for key in path:
        found = found.setdefault(key, {})
    found[last] = value


def _lay_over(known: Found, new: Found) -> None:
    for key, value in new.items():
        if isinstance(value, dict):
            _lay_over(known.setdefault(key, {}), value)
        else:
            known[key] = value
