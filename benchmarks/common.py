"""What the programs share: their arguments, how a result was made, what is kept of an interrupted program."""

import json
import shlex
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pruneonce.system import machine

Data = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with a folder for each task.")]

TREC_DEV = 500  # examples: TREC has no dev split, so the last of its training examples are one


def made(*, note: str = "", libraries: tuple[str, ...] = ("torch", "transformers", "pruneonce")) -> dict[str, Any]:
    """How a result was made, as `tables.provenance` takes it: command, date, machine, versions.

    Args:
        note: seeds, and what else is to be known.
    """
    module = sys.modules["__main__"].__spec__
    command = ["python", "-m", module.name if module else Path(sys.argv[0]).stem, *sys.argv[1:]]
    where = machine.accelerator() or f"{machine.processor()}, {torch.get_num_threads()} threads"
    return {
        "command": shlex.join(command),
        "date": str(date.today()),
        "machine": where,
        "versions": {library: version(library) for library in libraries},
        "note": note,
    }


def kept(file: Path, measure: Callable[[], Any]) -> Any:
    """The content of a JSON file or, where it is missing, what `measure` gives, written to it."""
    if not file.is_file():
        found = measure()
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f"{file.name}.partial")
        aside.write_text(json.dumps(found, indent=1), encoding="utf-8")
        aside.replace(file)
    return json.loads(file.read_text(encoding="utf-8"))


def splits(folder: Path) -> dict[str, str]:
    """The files of a task: `train`, `dev` and `test` (.jsonl)."""
    return {split: str(folder / f"{split}.jsonl") for split in ("train", "dev", "test")}


def split_trec(source: Path, folder: Path) -> None:
    """TREC's training examples (`source`) as `train` and `dev` (.jsonl) in a folder."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    write_lines(folder / "train.jsonl", lines[:-TREC_DEV])
    write_lines(folder / "dev.jsonl", lines[-TREC_DEV:])


def write_lines(file: Path, lines: list[str]) -> None:
    """Write a file once; one that is there stays as it is."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines), encoding="utf-8")


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` gives in a new process, whose peak memory is then its own."""
    from joblib.externals.loky import ProcessPoolExecutor

    with ProcessPoolExecutor(max_workers=1) as process:
        return process.submit(work, *arguments).result()
