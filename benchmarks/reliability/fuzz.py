"""Damaged and hostile input, case after case: a UserError of one line or a good result, in little memory and time.

    python -m benchmarks.reliability.fuzz --count 100000
    python -m benchmarks.reliability.fuzz --count 100000 --of runtime

The second line gives packed files to pruneonce-runtime, each to be loaded and run once.

Cases are drawn by hypothesis, in processes forked off this one, of 250 cases each, so that a crash is seen as one. A
case fails on any exception but UserError, on more than 10 seconds of processor time, or where its process would need
more than 1 GiB beyond what it began with. `--work` keeps the state: started again with the same one, it goes on. The
table goes into benchmarks/results/reliability.json, and onto its page.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.reliability import page
from benchmarks.reliability.runtime import Runtime
from benchmarks.reliability.targets import RUNTIME_SHARES, SHARES, Share, Targets
from pruneonce.errors import UserError

TESTS = Path(__file__).parents[2] / "tests"
sys.path.insert(0, str(TESTS))  # `shared` makes tiny models and data

COLUMNS: list[Any] = ["input", {"name": "cases", "format": "{:,}"}, {"name": "refused", "format": "{:,}"}]
COLUMNS += [{"name": "slowest, processor time", "format": "{:,.2f} s"}]
COLUMNS += [{"name": "memory grown by, a process", "format": "{:,.0f} MB"}]
# What can be fuzzed: what makes its inputs, the shares of its targets, and the section of the page.
Group = tuple[Callable[[Path], Any], dict[str, Share], str]
GROUPS: dict[str, Group] = {
    "package": (Targets, SHARES, "fuzz"),
    "runtime": (Runtime, RUNTIME_SHARES, "fuzz runtime"),
}
CHUNK = 250
SECONDS = 10.0  # of processor time a case may take
MEMORY = 1 << 30  # bytes a process may ask for beyond what it began with


def check(case: Callable[[Any, Path], None], count: int, number: int, folder: Path) -> dict[str, Any]:
    """Run `count` cases; raises at the first that fails."""
    found = {"cases": 0, "refused": 0, "slowest": 0.0}

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        found["cases"] += 1
        began = time.process_time()
        said = "accepted"
        try:
            case(data, folder)
        except UserError as error:
            said = str(error).strip()
            found["refused"] += 1
        assert said, "an error without words"
        assert "\n" not in said, f"more than a line: {said}"
        took = time.process_time() - began
        found["slowest"] = max(found["slowest"], took)
        assert took < SECONDS, f"{took:.1f} s"
        outside = [path for path in folder.parent.iterdir() if path != folder]
        assert not outside, f"written outside: {outside}"

    run()
    return found


def _worker(case: Any, count: int, number: int, folder: Path, answer: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    began = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (began + MEMORY, began + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = check(case, count, number, folder)
        found["grown"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        answer.put(found)
    except BaseException as error:
        notes = " ".join(getattr(error, "__notes__", []))
        answer.put({"failure": f"{type(error).__name__}: {error} {notes}"[:1500]})


def fuzz(group: Group, count: int, work: Path, number: int, minutes: float) -> dict[str, Any]:
    """Run what is left of `count` cases; gives the state: by target cases, refused, slowest, grown; failures.

    All targets advance together, so that what is stopped has tried each in its share.
    """
    make, shares, _ = group
    ends = time.monotonic() + 60 * minutes
    work.mkdir(parents=True, exist_ok=True)
    file = work / "state.json"
    none = {"cases": 0, "refused": 0, "slowest": 0.0, "grown": 0.0}
    state = {"targets": dict.fromkeys(shares, none), "failures": [], "chunks": 0}
    state = json.loads(file.read_text()) if file.is_file() else state
    shutil.rmtree(work / "inputs", ignore_errors=True)
    targets = make(work / "inputs")
    wanted = {name: max(1, count * share.percent // 100) for name, share in shares.items()}
    while time.monotonic() < ends:
        name = min(wanted, key=lambda name: state["targets"][name]["cases"] / wanted[name])
        mine = state["targets"][name]
        some = min(CHUNK, wanted[name] - mine["cases"])
        if some <= 0:
            break
        state["chunks"] += 1
        found = _forked(getattr(targets, name), some, number + state["chunks"], work / "case" / "in")
        if "failure" in found:
            state["failures"].append(f"{name}, seed {number + state['chunks']}: {found['failure']}")
            print(state["failures"][-1], flush=True)
            found = {**none, "cases": some}
        added = {key: mine[key] + found[key] for key in ("cases", "refused")}
        state["targets"][name] = {**added, **{key: max(mine[key], found[key]) for key in ("slowest", "grown")}}
        file.write_text(json.dumps(state))
        print(f"{name}: {added['cases']:,}", flush=True)
    return state


def _forked(case: Any, count: int, number: int, folder: Path) -> dict[str, Any]:
    """What `check` finds in a process of its own, or `{"failure": why}`."""
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    process = context.Process(target=_worker, args=(case, count, number, folder, answer))
    process.start()
    process.join(3600)
    found = {"failure": f"a process ended with {process.exitcode}"} if answer.empty() else answer.get()
    if process.is_alive():
        process.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=sorted(GROUPS), default="package", help="pruneonce, or pruneonce-runtime")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then; the same command goes on")
    parser.add_argument("--work", type=Path, default=Path("/tmp/pruneonce-fuzz"))
    options = parser.parse_args()
    _, shares, section = group = GROUPS[options.of]
    state = fuzz(group, options.count, options.work / options.of, options.seed, options.minutes)
    rows: list[list[Any]] = [
        [share.title, found["cases"], found["refused"], found["slowest"], found["grown"]]
        for name, share in shares.items()
        for found in [state["targets"][name]]
    ]
    rows.append(["in all", sum(row[1] for row in rows), sum(row[2] for row in rows), None, None])
    rows.append(["failures: another exception, too slow, too large", len(state["failures"]), None, None, None])
    page.write(section, COLUMNS, rows)
    raise SystemExit(bool(state["failures"]))


if __name__ == "__main__":
    main()
