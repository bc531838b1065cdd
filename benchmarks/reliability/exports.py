"""Exported models as targets: engines are native code, which has to be kept from what it cannot bear."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.reliability.mutations import lie, mutated
from pruneonce import stages
from pruneonce.engines import ENGINES, open_engine
from pruneonce.export import FORMATS, files
from pruneonce.export.openvino import convert
from pruneonce.models import PROVENANCE, read_provenance
from pruneonce.recipe import Benchmark, Classification
from pruneonce.system import durable

SPEED = {"batch_sizes": [1], "lengths": [8], "seconds": 0.001, "texts": 0}
VERBS = ("open", "evaluate", "benchmark")


class Exports:
    """A tiny int8 classifier, exported for each engine."""

    def __init__(self, folder: Path):
        from shared.exports import task_model
        from shared.models import WORDS, make_tokenizer

        chosen = random.Random(0)
        rows = [{"text": " ".join(chosen.choices(WORDS, k=5)), "label": number % 2} for number in range(4)]
        folder.mkdir()
        data = folder / "data.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.task = Classification(train=str(data), dev=str(data), labels=["LABEL_0", "LABEL_1"])
        model = task_model(folder / "model", "bert", make_tokenizer(), "int8")
        onnx = stages.export(model, folder / "onnx")
        openvino = shutil.copytree(onnx, folder / "openvino", ignore=shutil.ignore_patterns("*.onnx"))
        convert(onnx / "model.onnx", openvino)  # as `export` would, without exporting once more
        self.folders = {"onnxruntime": onnx, "openvino": openvino}
        _record(openvino, "openvino")

    def damaged(self, data: Any, folder: Path) -> None:
        """Any file of the folder; each change of one that an engine reads must be found before it is there."""
        engine = self._copy(data, folder)
        name = data.draw(st.sampled_from(sorted(file.name for file in folder.iterdir())))
        content = (folder / name).read_bytes()
        lies = name.endswith("json") and data.draw(st.booleans())
        changed = json.dumps(lie(data, json.loads(content))).encode() if lies else mutated(data, content)
        (folder / name).write_bytes(changed)
        self._use(data, folder, engine)
        assert name not in FORMATS[ENGINES[engine].format].files or changed == content, (
            f"{name} is damaged, and was opened"
        )

    def lying(self, data: Any, folder: Path) -> None:
        """The file is damaged and its hash is right, as none but an attacker makes it: the engine is on its own."""
        engine = self._copy(data, folder)
        name = data.draw(st.sampled_from(FORMATS[ENGINES[engine].format].files))
        (folder / name).write_bytes(mutated(data, (folder / name).read_bytes()))
        _record(folder, ENGINES[engine].format)
        self._use(data, folder, engine)

    def _copy(self, data: Any, folder: Path) -> str:
        engine: str = data.draw(st.sampled_from(sorted(self.folders)))
        shutil.copytree(self.folders[engine], folder, dirs_exist_ok=True)
        return engine

    def _use(self, data: Any, folder: Path, engine: str) -> None:
        verb = data.draw(st.sampled_from(VERBS))
        if verb == "open":
            open_engine(folder, engine)
        elif verb == "evaluate":
            stages.evaluate(folder, self.task, cache=folder.parent)
        else:
            stages.benchmark({"model": folder}, Benchmark(engines=[engine], **SPEED))


def _record(folder: Path, format: str) -> None:
    made = read_provenance(folder) or {}
    durable.write_json({**made, "files": files.hashes(folder, format)}, folder / PROVENANCE)
