"""The study, many pieces at a time: a small model's step keeps neither a GPU nor a processor of many cores busy.

    python benchmarks/study/parallel.py ../shared/data --output runs/study --processes 16 --minutes 9 --table study-gpu

These are all but the distances, which take no training. What is wanted first is begun first; when the minutes are over,
what is unfinished is broken off, a training with a checkpoint, and the table is written of what there is. The same
command goes on, and so does `study.py`. Processes share a GPU well where NVIDIA's MPS runs (`nvidia-cuda-mps-control
-d`): see ../results/gpu.md.
"""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated, Any

import inputs
import torch
import typer
from models import Study, start_of
from reading import SETTINGS, new_pairs_of
from study import ARMS, ZEROS, has_arm, how, write_table

from pruneonce import stages  # noqa: F401  # loaded once, before there are processes
from pruneonce.cli import silence_libraries

# How much of the study, the first first: (zeros, seed).
ROUNDS = (
    *(("0.9", 1), ("0.9", 2), ("0.95", 1), ("0.95", 2), ("0.9", 3), ("0.95", 3)),
    *(("0.85", 1), ("0.8", 1), ("0.85", 2), ("0.8", 2), ("0.85", 3), ("0.8", 3)),
)
GRACE = 60  # seconds that a training has for its step and its checkpoint


@dataclass
class Job:
    """A piece of the study, and the names of those that must be there before."""

    run: Callable[[], Any]
    needs: list[str] = field(default_factory=list)


def jobs_of(study: Study) -> dict[str, Job]:
    """All pieces by name, in the order in which they are wanted."""
    return starts(study) | main_table(study) | ablations(study) | sizes(study)


def starts(study: Study) -> dict[str, Job]:
    """What transfers begin with."""
    jobs = {"corpus": Job(partial(study.pack, "corpus")), "long texts": Job(partial(study.pack, "long_blocks"))}
    jobs["words"] = Job(study.with_words, ["corpus"])
    for zeros in ZEROS:
        of_corpus = ["sparse", *(arm for arm in SETTINGS["other_pretraining"] if has_arm(arm, zeros))]
        needs: dict[str, list[str]] = {arm: ["corpus"] for arm in of_corpus}
        needs |= {f"{arm}-long-blocks".removeprefix("sparse-"): [f"{arm}-{zeros}", "long texts"] for arm in of_corpus}
        needs |= {arm: ["words"] for arm in ("masked-words", "both") if has_arm(arm, zeros)} | {"one-shot": []}
        jobs |= {f"{name}-{zeros}": Job(partial(study.start, name, zeros), of) for name, of in needs.items()}
    return jobs


def pairs(study: Study, task: str, said: dict[str, Any]) -> dict[str, Job]:
    """What makes a task's new pairs, if it has any."""
    new = new_pairs_of(said)
    if not new.get("neighbours"):
        return {}
    return {" ".join(["pairs of", task, *map(str, new.values())]): Job(partial(study.task, task, **new))}


def main_table(study: Study) -> dict[str, Job]:
    jobs = {}
    for seed, task in product(sorted({seed for _, seed in ROUNDS}), SETTINGS["tasks"]):
        jobs[f"{task} dense {seed}"] = Job(partial(study.result, "dense", "0", task, seed))
    for (zeros, seed), arm, task in product(ROUNDS, ARMS, SETTINGS["tasks"]):
        if arm == "dense" or not has_arm(arm, zeros):
            continue
        of_sparse = arm in ("int8", "int8-trained", "gradual")  # made of prune-once's model, or with its budget
        start = f"{task} sparse-{zeros} {seed}" if of_sparse else f"{start_of(arm, task)}-{zeros}"
        new = pairs(study, task, SETTINGS["tasks"][task])
        needs = [*new, f"{task} dense {seed}", start]
        jobs |= new
        jobs[f"{task} {arm}-{zeros} {seed}"] = Job(partial(study.result, arm, zeros, task, seed), needs)
    return jobs


def ablations(study: Study) -> dict[str, Job]:
    jobs = {"full-blocks-0.9": Job(partial(study.full_blocks, "0.9"), ["corpus"])}
    for name, changes in SETTINGS["pretraining"].items():
        needs = ["corpus" if changes.get("objective", "hidden") == "hidden" else "words"]
        jobs[f"short {name}"] = Job(partial(study.short, name), needs)
    for ablation, said in SETTINGS["transfer_ablation"].items():
        for name, task in product(said["variants"], said["tasks"]):
            start = said["variants"][name].get("start")
            of = f"short {start}" if start else f"{said['arm']}-{ablation.rpartition('-')[2]}"
            new = pairs(study, task, {**said["base"], **said["variants"][name]})
            needs = [*new, f"{task} dense 1", *([] if said["arm"] == "gradual" else [of])]
            jobs |= new
            run = partial(study.variant_result, ablation, name, task, 1)
            jobs[f"{ablation}: {name}, {task}"] = Job(run, needs)
    return jobs


def sizes(study: Study) -> dict[str, Job]:
    jobs = {}
    for zeros in ZEROS:
        needs = [f"{task} {arm}-{zeros} 1" for task, arm in product(SETTINGS["family"], ("sparse", "int8"))]
        jobs[f"sizes {zeros}"] = Job(partial(study.sizes, zeros, 1), needs)
    return jobs


def chosen(jobs: dict[str, Job], only: list[str]) -> list[str]:
    """The names of the jobs with the first of `only` in them, then of the next; what they need comes before."""
    names: dict[str, None] = {}

    def add(name: str) -> None:
        for need in jobs[name].needs:
            add(need)
        names[name] = None

    for part in only:
        for name in jobs:
            if part in name:
                add(name)
    return list(names)


def run(jobs: dict[str, Job], names: list[str], processes: int, threads: int, seconds: float, logs: Path) -> list[str]:
    """Run jobs, each when those that it needs are done, and give the names of what was done in time."""
    end = time.monotonic() + seconds
    context = multiprocessing.get_context("fork")
    logs.mkdir(parents=True, exist_ok=True)
    idle, workers = [], []
    for number in range(processes):
        link, other = context.Pipe()
        workers.append(context.Process(target=work, args=(other, jobs, threads, logs / f"{number}.txt"), daemon=True))
        workers[-1].start()
        idle.append(link)
    left, done = list(names), []
    busy: dict[Connection, tuple[str, float]] = {}
    while time.monotonic() < end:
        ready = [name for name in left if set(jobs[name].needs) <= set(done)]
        for name in ready[: len(idle)]:
            link = idle.pop()
            link.send(name)
            busy[link] = (name, time.monotonic())
            left.remove(name)
        if not busy:
            break  # all is done, or waits for something that failed
        for link in wait(list(busy), timeout=1.0):
            error = link.recv()  # type: ignore[union-attr]
            name, began = busy.pop(link)  # type: ignore[arg-type]
            idle.append(link)
            print(f"{time.monotonic() - began:6.0f} s  {name}{': ' + error if error else ''}", flush=True)
            if not error:
                done.append(name)
    print(f"{len(done)} done, {len(busy)} broken off, {len(left)} not begun")
    for worker in workers:
        worker.terminate()  # a training writes a checkpoint after its step
    for worker in workers:
        worker.join(GRACE)
        worker.kill()
    return done


def work(link: Connection, jobs: dict[str, Job], threads: int, log: Path) -> None:
    """Run the jobs whose names come, and answer each with what went wrong."""
    with log.open("a", buffering=1, encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        torch.set_num_threads(threads)
        while True:
            job, error = jobs[link.recv()], ""
            try:
                job.run()
            except Exception:
                error = traceback.format_exc()
            link.send(error)


def main(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    output: Path = Path("runs/study"),
    processes: int = 16,
    threads: Annotated[int, typer.Option(help="of each process")] = 1,
    minutes: Annotated[float, typer.Option(help="0: write the table alone")] = 60.0,
    only: Annotated[list[str], typer.Option(help="jobs with this in their names, and what they need")] = [""],  # noqa: B006
    table: Annotated[str, typer.Option(help="name of the table in benchmarks/results")] = "study",
) -> None:
    study = Study(data, output)
    inputs.prepare(data, output)
    jobs = jobs_of(study)
    done = run(jobs, chosen(jobs, only), processes, threads, 60 * minutes, output / "logs") if minutes else []
    command = f"parallel.py ../shared/data --processes {processes} --minutes {minutes:g} --table {table}"
    command += "" if threads == 1 else f" --threads {threads}"
    command += "".join(f' --only "{part}"' for part in only if part)
    write_table(table, output, how(command, f"shared by {processes} processes") if done else "")


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
