"""Damaged and hostile input, case after case: a UserError of one line or a good result, in little memory and time.

    python benchmarks/reliability/fuzz.py --count 100000

Cases are drawn by hypothesis, in processes forked off this one, of 500 cases each, so that a crash is seen as one. A
case fails on any exception but UserError, on more than 10 seconds of processor time, or where its process would need
more than 1 GiB beyond what it began with. `--work` keeps the state: started again with the same one, it goes on. The
table goes into benchmarks/results/reliability.md.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import results
import torch
import zstandard
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pruneonce import checkpoints, modelfolder, quantization, recipe, storage
from pruneonce.errors import UserError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # conftest makes tiny models and data

CHUNK = 500
SECONDS = 10.0  # of processor time a case may take
MEMORY = 1 << 30  # bytes a process may ask for beyond what it began with

RECIPE = """name: mine
model: some/encoder
corpus: {source: some/text, block_length: 128}
prune: {sparsity: 0.9, steps: 100, learning_rate: 1.0e-4, warmup: 0.1}
teacher: &t {epochs: 3, batch_size: 32, learning_rate: 3.0e-5}
transfer: *t
tasks:
  mood: {train: a.jsonl, dev: b.jsonl, labels: [good, bad]}
"""
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 400), st.floats(), st.text(max_size=8),
    st.sampled_from([2**31, 2**63, 10**40, "../x", "/etc/passwd", "2026-13-45", "1e999", "gaps", "bytes", "F32"]),
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner))
LINES = st.sampled_from([
    "[" * 400, "{" * 400, "a: &a [*a]", "- !!python/name:os.system", "? [a]", "<<: *t", "steps: " + "9" * 5000,
    "&x [*x, *x]", "\t", "---", "...", "%YAML 9", "!!binary x", "!!timestamp x", "extends: mine", "extends: ../../x",
])  # fmt: skip


def mutated(data: Any, content: bytes) -> bytes:
    """Cut off, with bits flipped (in the head, above all), with a lie about a length, or with a piece of another."""
    how = data.draw(st.sampled_from(["cut", "flip", "flip", "length", "splice"]))
    if how == "cut":
        return content[: data.draw(st.integers(0, len(content) - 1))]
    changed = bytearray(content)
    if how == "flip":
        for _ in range(data.draw(st.integers(1, 4))):
            where = data.draw(st.integers(0, min(400, len(content) - 1)) | st.integers(0, len(content) - 1))
            changed[where] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "length":
        length = data.draw(st.integers(0, 2**64 - 1) | st.sampled_from([len(content), 2**31, 2**40, 2**63]))
        changed[:8] = length.to_bytes(8, "little")
    else:
        start = data.draw(st.integers(0, len(content) - 1))
        changed[start : start + 8] = data.draw(st.binary(max_size=40))
    return bytes(changed)


def places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """Every place in a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def lie(data: Any, value: Any) -> Any:
    """The JSON value with another one somewhere in it."""
    changed = copy.deepcopy(value)
    path = data.draw(st.sampled_from(list(places(value))[1:]))
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(VALUES)
    return changed


class Targets:
    """What is fuzzed. Each case writes its input into an empty folder, and reads it as a user would."""

    def __init__(self, folder: Path):
        import conftest

        self.model = conftest.make_model(folder / "model", conftest.make_tokenizer())
        tensors = load_file(self.model / "model.safetensors")
        for name, weight in tensors.items():
            if weight.ndim == 2 and "embeddings" not in name:
                weight[np.abs(weight) < np.quantile(np.abs(weight), 0.9)] = 0
        save_file(tensors, self.model / "model.safetensors", metadata={"format": "pt"})
        second = shutil.copytree(self.model, folder / "second")
        storage.pack([self.model, second], folder / "family.pruneonce", "int4")
        self.packed = (folder / "family.pruneonce").read_bytes()
        found = load_file(folder / "family.pruneonce")
        self.index = json.loads(zstandard.decompress(found["index"].tobytes()))
        ends = np.cumsum([0, *self.index["streams"]])
        self.streams = [found["data"].tobytes()[start:end] for start, end in pairwise(ends)]
        (self.int4,) = storage.unpack(folder / "family.pruneonce", folder / "int4", "second")
        names = [name for name, _ in quantization_modules(self.model)]
        modelfolder.write_json(
            {name: {"scale": 0.1, "zero_point": 3} for name in names}, self.int4 / quantization.model.INPUTS
        )
        checkpoints.write(folder / "checkpoints", 5, self._fill)
        self.checkpoint = folder / "checkpoints" / "checkpoint-5"
        self.encoder = modelfolder.load_encoder(self.model)

    def _fill(self, folder: Path) -> None:
        for name in ("model.safetensors", "config.json"):
            shutil.copyfile(self.model / name, folder / name)

    def recipe(self, data: Any, folder: Path) -> None:
        how = data.draw(st.sampled_from(["bytes", "lines", "values", "set"]))
        file = folder / "recipe.yaml"
        file.write_text(RECIPE)
        if how == "bytes":
            file.write_bytes(mutated(data, RECIPE.encode()))
        elif how == "lines":
            lines = RECIPE.splitlines()
            for _ in range(data.draw(st.integers(1, 3))):
                lines.insert(data.draw(st.integers(0, len(lines))), data.draw(LINES))
            file.write_text("\n".join(lines))
        elif how == "values":
            import yaml

            file.write_text(json.dumps(lie(data, yaml.safe_load(RECIPE))))
        keys = ("prune.steps", "tasks.mood", "tasks.x.train", "corpus", "prune.sparsity.x", "", "=", "name")
        sets = [f"{data.draw(st.sampled_from(keys))}={data.draw(st.text(max_size=12) | LINES)}"]
        recipe.load(str(file), sets if how == "set" else [])

    def packed_bytes(self, data: Any, folder: Path) -> None:
        (folder / "x.pruneonce").write_bytes(mutated(data, self.packed))
        storage.unpack(folder / "x.pruneonce", folder / "out")

    def packed_lies(self, data: Any, folder: Path) -> None:
        """All hashes are right, and the index says something else; or a stream does."""
        index, streams = self.index, list(self.streams)
        if data.draw(st.booleans()):
            index = lie(data, index)
        else:
            index = copy.deepcopy(index)
            number = data.draw(st.integers(0, len(streams) - 1))
            plain = data.draw(st.binary(max_size=60)) * data.draw(st.sampled_from([1, 1000]))
            streams[number] = zstandard.compress(plain)
            index["streams"][number] = len(streams[number])
        try:
            text = json.dumps(index).encode()
        except (ValueError, UnicodeError):  # lone surrogates
            return
        parts = {"index": zstandard.compress(text), "data": b"".join(streams)}
        metadata = {
            "format": "pruneonce-packed",
            "version": "1",
            "sha256": hashlib.sha256(parts["index"] + parts["data"]).hexdigest(),
        }
        arrays = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
        save_file(arrays, folder / "x.pruneonce", metadata=metadata)
        storage.unpack(folder / "x.pruneonce", folder / "out")

    def grids(self, data: Any, folder: Path) -> None:
        """The scales of a quantized model, and those of its inputs."""
        for name in ("quantization.safetensors", quantization.model.INPUTS):
            content = (self.int4 / name).read_bytes()
            if data.draw(st.booleans()):
                broken = name.endswith("json") and data.draw(st.booleans())
                content = json.dumps(lie(data, json.loads(content))).encode() if broken else mutated(data, content)
            (folder / name).write_bytes(content)
        quantization.restore(copy.deepcopy(self.encoder), folder)

    def model_folder(self, data: Any, folder: Path) -> None:
        shutil.copytree(self.model, folder, dirs_exist_ok=True)
        name = data.draw(st.sampled_from(["model.safetensors", "config.json", "config.json"]))
        content = (self.model / name).read_bytes()
        lies = name == "config.json" and data.draw(st.booleans())
        changed = json.dumps(lie(data, json.loads(content))).encode() if lies else mutated(data, content)
        (folder / name).write_bytes(changed)
        modelfolder.load_encoder(folder)

    def checkpoint_files(self, data: Any, folder: Path) -> None:
        """Every change of a checkpoint is found."""
        shutil.copytree(self.checkpoint, folder / "checkpoint-5")
        name = data.draw(st.sampled_from(sorted(file.name for file in self.checkpoint.iterdir())))
        content = (self.checkpoint / name).read_bytes()
        changed = mutated(data, content)
        (folder / "checkpoint-5" / name).write_bytes(changed)
        same = changed == content
        if name == checkpoints.HASHES:
            try:
                same = json.loads(changed) == json.loads(content)
            except ValueError:
                same = False
        assert (checkpoints.damage(folder / "checkpoint-5") is None) == same


SHARES = {
    "recipe": ("recipes, and `--set`", 45),
    "packed_bytes": ("packed files, damaged", 30),
    "packed_lies": ("packed files, lying: every hash is right", 10),
    "grids": ("scales and input ranges of a quantized model", 8),
    "checkpoint_files": ("checkpoints: each change must be found", 5),
    "model_folder": ("weights and configuration of a model folder", 2),
}


def quantization_modules(model: Path) -> Any:
    encoder = modelfolder.load_encoder(model)
    return [(name, module) for name, module in encoder.named_modules() if isinstance(module, torch.nn.Linear)]


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


def fuzz(count: int, work: Path, number: int) -> dict[str, Any]:
    """Run what is left of `count` cases; gives the state: by target cases, refused, slowest, grown; failures."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "state.json"
    state = json.loads(file.read_text()) if file.is_file() else {"targets": {}, "failures": [], "chunks": 0}
    shutil.rmtree(work / "inputs", ignore_errors=True)
    targets = Targets(work / "inputs")
    context = multiprocessing.get_context("fork")
    for name, (_, share) in SHARES.items():
        mine = {"cases": 0, "refused": 0, "slowest": 0.0, "grown": 0.0, **state["targets"].get(name, {})}
        state["targets"][name] = mine
        while mine["cases"] < count * share // 100:
            answer = context.SimpleQueue()
            some = min(CHUNK, count * share // 100 - mine["cases"])
            state["chunks"] += 1
            arguments = (getattr(targets, name), some, number + state["chunks"], work / "case" / "in", answer)
            process = context.Process(target=_worker, args=arguments)
            process.start()
            process.join(3600)
            found = {"failure": f"a process ended with {process.exitcode}"} if answer.empty() else answer.get()
            if process.is_alive():
                process.kill()
            if "failure" in found:
                state["failures"].append(f"{name}, seed {number + state['chunks']}: {found['failure']}")
                print(state["failures"][-1], flush=True)
                found = {"cases": some, "refused": 0, "slowest": 0.0, "grown": 0.0}
            for key in ("cases", "refused"):
                mine[key] += found[key]
            for key in ("slowest", "grown"):
                mine[key] = max(mine[key], found[key])
            file.write_text(json.dumps(state))
            print(f"{name}: {mine['cases']:,}", flush=True)
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp/pruneonce-fuzz"))
    options = parser.parse_args()
    state = fuzz(options.count, options.work, options.seed)
    rows: list[list[Any]] = [
        [text, found["cases"], found["refused"], f"{found['slowest']:.2f} s", f"{found['grown']:.0f} MB"]
        for name, (text, _) in SHARES.items()
        for found in [state["targets"][name]]
    ]
    rows.append(["in all", sum(row[1] for row in rows), sum(row[2] for row in rows), "", ""])
    rows.append(["failures: another exception, too slow, too large", len(state["failures"]), "", "", ""])
    columns = ["input", "cases", "refused", "slowest, processor time", "memory grown by, a process"]
    results.write("fuzz", f"fuzz.py --count {options.count} --seed {options.seed}", columns, rows)
    raise SystemExit(bool(state["failures"]))


if __name__ == "__main__":
    main()
