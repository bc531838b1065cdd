"""Pack the family's int8 models into one file, at each share of zeros, and keep the bytes: OUTPUT/packed/ZEROS.json.

    python -m benchmarks.study.family --output runs/study

It takes the models of finished runs (`python -m benchmarks.study.run`), which then writes the table.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from benchmarks.common import kept
from benchmarks.study.runs import Job, Runs
from pruneonce import storage

HERE = Path(__file__).parent


def packed(models: list[Path]) -> dict[str, Any]:
    """Bytes of the models in one file, and of the dense ones."""
    with TemporaryDirectory() as aside:
        size = storage.pack(models, Path(aside) / "family.pruneonce", "fp32").to_json()
    whole, encoder = size["parts"]["model"], size["parts"]["encoder"]
    ours = {"bytes": size["bytes"], "encoder": encoder["packed_bytes"]}
    return {**ours, "dense": whole["dense_bytes"], "dense_encoder": encoder["dense_bytes"]}


def main(output: Path = Path("runs/study"), seed: int = 1, run: str = "sparse") -> None:
    runs = Runs(HERE / "study.yaml")
    for name in [name for name in runs.runs if name.removeprefix(f"{run}-").isdigit()]:
        jobs = [Job(name, task, seed) for task in runs.settings["family"]]
        models = [output / job.folder / "tasks" / str(job.task) / f"seed-{seed}" / "int8-ptq" for job in jobs]
        if all((model / "pruneonce.json").is_file() for model in models):
            zeros = name.rpartition("-")[2]
            found = kept(output / "packed" / f"{zeros}.json", lambda models=models: packed(models))  # type: ignore[misc]
            print(f"{zeros} %: {found['bytes']:,} bytes")


if __name__ == "__main__":
    typer.run(main)
