"""Kill a run at random moments, start it again, and compare what it makes with an uninterrupted run.

    python -m benchmarks.reliability.kill --count 50
    python -m benchmarks.reliability.kill --work-of product-quantize --count 10
    python -m benchmarks.reliability.kill --work-of torchrun --count 10

Processes that run a tiny recipe with dropout and every stage: teacher preparation with a new head, pruning, two tasks
with two seeds each, a sweep, both baselines, int8 by training and by calibration, packing, exports, timing. They are
forked off this one, which has imported the package; with `--no-fork` each is a `python -m pruneonce run`. With
`--work-of product-quantize` they make codebooks of a model of that recipe. With `--work-of torchrun` two processes
under torchrun run the recipe, and one of the two is killed.

SIGKILL comes at a moment that is drawn anew each time: most while a checkpoint is being written, others while a
finished model is, during an export, or at any time. After each kill, all that is under a final name must be whole;
after each run, every tensor, log, record, export and packed file equal to those of the reference. `--work` keeps the
state: started again with the same one, it goes on. The table goes into
benchmarks/results/reliability.json and its page.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.reliability import page
from benchmarks.reliability.made import content, unreadable
from benchmarks.reliability.tiny import make_inputs
from pruneonce import cli

TESTS = Path(__file__).parents[2] / "tests"
sys.path.insert(0, str(TESTS))  # shared.models makes tiny models


@dataclass(frozen=True)
class Moment:
    """When to kill: how often this is drawn, what is being written, how many of those may pass, how long to wait."""

    share: int
    patterns: tuple[str, ...] = ()
    passing: int = 1
    waits: tuple[float, ...] = (0, 0.01, 0.1)


MOMENTS = {
    "while a checkpoint is written": Moment(5, ("*/checkpoint-*.partial",), 8),
    "while a model is written": Moment(2, ("*.partial/pruneonce.json*",), 4),
    "during an export": Moment(1, ("*-onnx.partial",), 1, (0, 4)),
    "any time": Moment(2),
}


# Of every run, the undisturbed one too: tokenizers keep in their file whether the hub was asked.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
RUN, PRODUCT, TORCHRUN = "run", "product-quantize", "torchrun"


def command(work_of: str, inputs: Path, output: Path) -> list[str]:
    """Arguments of pruneonce that make `output`; product quantization needs a finished run in `inputs/run`."""
    if work_of != PRODUCT:
        return ["run", str(inputs / "recipe.yaml"), "--output", str(output)]
    seed = inputs / "run" / "tasks" / "mood" / "seed-1"
    data = [part for split in ("train", "dev") for part in (f"--{split}", str(inputs / f"mood-{split}.jsonl"))]
    settings = ["epochs=2", "batch_size=8", "checkpoint_every=2", "learning_rate=1e-3"]
    sets = [part for setting in settings for part in ("--set", setting)]
    return [
        PRODUCT,
        str(seed / "sparse"),
        "--teacher",
        str(seed / "dense"),
        *data,
        *sets,
        "--output",
        str(output / "codebooks"),
    ]


class Run:
    """A process that makes a folder: one of its own, or, to save the imports, one that is forked off this."""

    def __init__(self, arguments: list[str], output: Path, forked: bool, torchrun: bool = False):
        self.log = output.with_name(f"{output.name}.log")
        self.torchrun = torchrun
        if forked and not torchrun:
            self.process: Any = multiprocessing.get_context("fork").Process(target=self._run, args=(arguments,))
            self.process.start()
        else:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if torchrun else []
            with self.log.open("w") as log:
                whole = [sys.executable, *launcher, "-m", "pruneonce", *arguments]
                self.process = subprocess.Popen(whole, stdout=log, stderr=log, env=os.environ | ENVIRONMENT)

    def _run(self, arguments: list[str]) -> None:
        os.environ |= ENVIRONMENT
        with self.log.open("w") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        sys.exit(cli.main(arguments))

    def code(self, wait: bool = False) -> int | None:
        """The exit code, None while it runs."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait() if wait else self.process.poll()
        if wait:
            self.process.join()
        return self.process.exitcode  # type: ignore[no-any-return]

    def kill(self, chosen: random.Random) -> bool:
        """Kill the process; under torchrun, one of its workers, after which the others end.

        Returns:
            Whether it was killed; it may have come to its end just before.
        """
        if not self.torchrun:
            os.kill(self.process.pid, signal.SIGKILL)
        else:
            with suppress(psutil.NoSuchProcess):
                children = psutil.Process(self.process.pid).children()
                workers = [child for child in children if "pruneonce" in child.cmdline()]
                # Where there are none, they have not begun.
                (chosen.choice(workers) if workers else psutil.Process(self.process.pid)).kill()
        code = self.code(wait=True)
        if not self.torchrun and code != -signal.SIGKILL:
            self.finish()
        return code != 0

    def finish(self) -> None:
        if self.code(wait=True):
            raise SystemExit(f"a run failed with {self.code()}:\n{self.log.read_text()}")


def being_written(run: Path, moment: Moment) -> set[Path]:
    """What a process is writing now of what the moment is about."""
    paths = (Path(folder) / name for folder, folders, files in os.walk(run) for name in [*folders, *files])
    return {path for path in paths if any(path.match(pattern) for pattern in moment.patterns)}


def kill_at(moment: Moment, process: Run, run: Path, chosen: random.Random, whole: float) -> bool:
    """Wait for the moment and kill the process; False if it ended before."""
    deadline = time.monotonic() + (3600 if moment.patterns else chosen.uniform(0, whole / 8))
    left = chosen.randrange(moment.passing)
    before: set[Path] = set()
    while process.code() is None and time.monotonic() < deadline:
        now = being_written(run, moment) if moment.patterns else set()
        if now - before:
            if not left:
                time.sleep(chosen.uniform(0, chosen.choice(moment.waits)))
                break
            left -= 1
        before |= now
        time.sleep(0.003)
    if process.code() is not None:
        process.finish()
        return False
    return process.kill(chosen)


def kill(count: int, work: Path, seed: int, forked: bool = True, work_of: str = RUN) -> dict[str, Any]:
    """Kill `count` times; gives the state: kills by moment, runs, differences."""
    inputs = work / "inputs"
    if not (inputs / "recipe.yaml").is_file():
        make_inputs(inputs)
    if work_of == PRODUCT:
        Run(command(RUN, inputs, inputs / "run"), inputs / "run", forked).finish()
    start = partial(Run, forked=forked, torchrun=work_of == TORCHRUN)
    reference = work / "reference"
    began = time.monotonic()
    start(command(work_of, inputs, reference), reference).finish()  # a second time, it finds everything made
    file = work / "state.json"
    state = json.loads(file.read_text()) if file.is_file() else {"seconds": time.monotonic() - began}
    state = {"kills": {}, "finished": 0, "different": [], "unreadable": [], "starts": 0, **state}
    expected = content(reference)
    while True:
        done = sum(state["kills"].values())
        chosen = random.Random(f"{seed} {state['starts']}")
        run = work / f"run-{state['finished']}"
        process = start(command(work_of, inputs, run), run)
        state["starts"] += 1
        shares = [0 if work_of == PRODUCT and "export" in name else one.share for name, one in MOMENTS.items()]
        moment = chosen.choices(list(MOMENTS), shares)[0]
        if done < count and kill_at(MOMENTS[moment], process, run, chosen, state["seconds"]):
            state["kills"] = dict(Counter(state["kills"]) + Counter([moment]))
            state["unreadable"] += unreadable(run)
            print(f"{done + 1}/{count}: killed, {moment}; run {state['finished']}", flush=True)
        else:
            process.finish()
            found = content(run)
            state["different"] += [
                f"run {state['finished']}: {key}"
                for key in expected.keys() | found.keys()
                if expected.get(key) != found.get(key)
            ]
            state["finished"] += 1
            shutil.rmtree(run)
            print(f"run {state['finished']} finished", flush=True)
            if done >= count:
                return state
        file.write_text(json.dumps(state))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-fork", action="store_true")
    parser.add_argument("--work-of", choices=(RUN, PRODUCT, TORCHRUN), default=RUN)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    work = options.work or Path(f"/tmp/pruneonce-kill-{options.work_of}")
    state = kill(options.count, work, options.seed, not options.no_fork, options.work_of)
    rows = [[f"killed: {moment}", number] for moment, number in state["kills"].items()]
    rows += [
        ["killed in all", sum(state["kills"].values())],
        ["processes started", state["starts"]],
        ["runs that came to their end, each killed on the way or not", state["finished"]],
        ["files or checkpoints under a final name that were not whole after a kill", len(state["unreadable"])],
        ["tensors, logs or records of a finished run that differ from the reference", len(state["different"])],
    ]
    name = "kill" if options.work_of == RUN else f"kill {options.work_of}"
    page.write(name, ["what", {"name": "count", "format": "{:,}"}], rows)
    for problem in [*state["unreadable"], *state["different"]]:
        print(problem)
    raise SystemExit(bool(state["unreadable"] or state["different"]))


if __name__ == "__main__":
    main()
