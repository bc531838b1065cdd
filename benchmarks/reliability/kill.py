"""Kill a run at random moments, start it again, and compare what it makes with an uninterrupted run.

    python benchmarks/reliability/kill.py --count 50

Processes that run a tiny recipe with dropout: teacher preparation with a new head, pruning, a task with both baselines.
They are forked off this one, which has imported the package; with `--no-fork` each is a `python -m pruneonce run`.

SIGKILL comes at a moment that is drawn anew each time: while a checkpoint is being written (half of them), while a
finished model is (a fifth), or at any time. After each kill, all that is under a final name must be whole; after each
run, every tensor, log and provenance equal to those of the reference. `--work` keeps the state: started again with the
same one, it goes on. The table goes into benchmarks/results/reliability.md.
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
from pathlib import Path
from typing import Any

import results
import yaml
from safetensors import safe_open

from pruneonce import checkpoints, cli

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # conftest makes tiny models and data

MOMENTS = {"while a checkpoint is written": 5, "while a model is written": 2, "any time": 3}
# What differs between any two runs. A packed file holds times too, so of its sizes those of its tensors are compared.
CLOCK = ("seconds", "created", "bytes", "files_bytes", "index_bytes")
MODELS = ("teacher", "sparse", "one-shot", *(f"tasks/mood/{arm}" for arm in ("dense", "sparse", "one-shot", "gradual")))


def make_inputs(folder: Path) -> Path:
    """A model, a corpus, a task, and a recipe over them that takes seconds."""
    import conftest

    folder.mkdir(parents=True, exist_ok=True)
    chosen = random.Random(0)
    corpus = folder / "text.txt"
    corpus.write_text("".join(" ".join(chosen.choices(conftest.WORDS, k=20)) + "\n" for _ in range(100)))
    for split, size in (("train", 64), ("dev", 32)):
        rows = [
            {"text": " ".join(chosen.choices(conftest.WORDS, k=8)), "label": f"{index % 2}"} for index in range(size)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    conftest.make_model(folder / "model", conftest.make_tokenizer())
    training = {"batch_size": 8, "learning_rate": 1e-3, "checkpoint_every": 2}
    values = {
        "name": "kill",
        "model": str(folder / "model"),
        "corpus": {"source": str(corpus), "block_length": 16, "validation": 0.1},
        "prepare": {**training, "steps": 8, "head_steps": 3},
        "prune": {**training, "steps": 12, "objective": "both", "every": 2, "nested": False, "warmup": 2},
        "teacher": {**training, "epochs": 1},
        "transfer": {**training, "epochs": 1},
        "tasks": {"mood": {split: str(folder / f"{split}.jsonl") for split in ("train", "dev")}},
        "baselines": {"one_shot": True, "gradual": {**training, "epochs": 1, "every": 1}},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    return recipe


class Run:
    """A process that runs a recipe: one of its own, or, to save the imports, one that is forked off this."""

    def __init__(self, recipe: Path, output: Path, forked: bool):
        command = ["run", str(recipe), "--output", str(output)]
        self.log = output.with_name(f"{output.name}.log")
        if forked:
            self.process: Any = multiprocessing.get_context("fork").Process(target=self._run, args=(command,))
            self.process.start()
        else:
            with self.log.open("w") as log:
                command = [sys.executable, "-m", "pruneonce", *command]
                self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def _run(self, command: list[str]) -> None:
        with self.log.open("w") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        sys.exit(cli.main(command))

    def code(self, wait: bool = False) -> int | None:
        """The exit code, None while it runs."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait() if wait else self.process.poll()
        if wait:
            self.process.join()
        return self.process.exitcode  # type: ignore[no-any-return]

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        assert self.code(wait=True) == -signal.SIGKILL

    def finish(self) -> None:
        if self.code(wait=True):
            raise SystemExit(f"a run failed with {self.code()}:\n{self.log.read_text()}")


def content(run: Path) -> dict[str, Any]:
    """All that a run made, without the clock: tensors as bytes, JSON as text."""
    found: dict[str, Any] = {}
    for model in MODELS:
        for file in sorted((run / model).glob("*.safetensors")):
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118
                    found[f"{model}/{file.name}: {name}"] = opened.get_tensor(name).tobytes()
        for name in ("pruneonce.json", "metrics.json", "config.json"):
            found[f"{model}/{name}"] = _record(run, run / model / name)
    for file in sorted((run / "tasks" / "mood").glob("*.json")):
        found[file.name] = _record(run, file)
    found["summary.json"] = _record(run, run / "summary.json")
    return found


def _record(run: Path, file: Path) -> Any:
    return _without_clock(json.loads(file.read_text().replace(str(run), "RUN")))


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clock(inside) for key, inside in value.items() if key not in CLOCK}
    return [_without_clock(inside) for inside in value] if isinstance(value, list) else value


def unreadable(run: Path) -> list[str]:
    """What is under a final name and not whole."""
    bad = [
        f"{path}: {checkpoints.damage(path)}"
        for path in run.rglob("checkpoint-*")
        if path.suffix != ".partial" and ".partial" in str(path) and checkpoints.damage(path)
    ]
    for model in MODELS:
        folder = run / model
        if folder.is_dir():
            try:
                json.loads((folder / "pruneonce.json").read_text())
                with safe_open(folder / "model.safetensors", framework="np") as opened:
                    for name in opened.keys():  # noqa: SIM118
                        opened.get_tensor(name)
            except Exception as error:
                bad.append(f"{folder}: {error}")
    for file in run.rglob("*.json"):
        if ".partial" not in str(file):
            try:
                json.loads(file.read_text())
            except ValueError as error:
                bad.append(f"{file}: {error}")
    return bad


def being_written(run: Path, moment: str) -> set[Path]:
    """The checkpoints, or the models, that a process is writing now."""
    pattern = "*/checkpoint-*.partial" if moment == "while a checkpoint is written" else "*.partial/pruneonce.json*"
    paths = (Path(folder) / name for folder, folders, files in os.walk(run) for name in [*folders, *files])
    return {path for path in paths if path.match(pattern)}


def kill_at(moment: str, process: Run, run: Path, chosen: random.Random, whole: float) -> bool:
    """Wait for the moment and kill the process; False if it ended before."""
    deadline = time.monotonic() + (chosen.uniform(0, whole) if moment == "any time" else 600)
    left = chosen.randrange(5)  # of such moments are let pass
    before: set[Path] = set()
    while process.code() is None:
        if time.monotonic() > deadline:
            break
        now = set() if moment == "any time" else being_written(run, moment)
        if now - before:
            if not left:
                time.sleep(chosen.choice([0, chosen.uniform(0, 0.01), chosen.uniform(0, 0.1)]))
                break
            left -= 1
        before |= now
        time.sleep(0.001)
    if process.code() is not None:
        process.finish()
        return False
    process.kill()
    return True


def kill(count: int, work: Path, seed: int, forked: bool = True) -> dict[str, Any]:
    """Kill `count` times; gives the state: kills by moment, runs, differences."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    recipe = work / "inputs" / "recipe.yaml"
    if not recipe.is_file():
        make_inputs(recipe.parent)
    reference = work / "reference"
    began = time.monotonic()
    Run(recipe, reference, forked).finish()  # a second time, it finds everything made
    file = work / "state.json"
    state = json.loads(file.read_text()) if file.is_file() else {"seconds": time.monotonic() - began}
    state = {"kills": {}, "finished": 0, "different": [], "unreadable": [], "starts": 0, **state}
    expected = content(reference)
    while True:
        done = sum(state["kills"].values())
        chosen = random.Random(f"{seed} {state['starts']}")
        run = work / f"run-{state['finished']}"
        process = Run(recipe, run, forked)
        state["starts"] += 1
        moment = chosen.choices(list(MOMENTS), list(MOMENTS.values()))[0]
        if done < count and kill_at(moment, process, run, chosen, state["seconds"]):
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
    parser.add_argument("--work", type=Path, default=Path("/tmp/pruneonce-kill"))
    options = parser.parse_args()
    state = kill(options.count, options.work, options.seed, not options.no_fork)
    rows = [[f"killed: {moment}", number] for moment, number in state["kills"].items()]
    rows += [
        ["killed in all", sum(state["kills"].values())],
        ["processes started", state["starts"]],
        ["runs that came to their end, each killed on the way or not", state["finished"]],
        ["files or checkpoints under a final name that were not whole after a kill", len(state["unreadable"])],
        ["tensors, logs or records of a finished run that differ from the reference", len(state["different"])],
    ]
    results.write("kill", f"kill.py --count {options.count} --seed {options.seed}", ["", "count"], rows)
    for problem in [*state["unreadable"], *state["different"]]:
        print(problem)
    raise SystemExit(bool(state["unreadable"] or state["different"]))


if __name__ == "__main__":
    main()
