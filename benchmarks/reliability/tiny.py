"""A recipe with every stage, over a model, a corpus and two tasks that are tiny: it takes a minute."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import yaml


def make_inputs(folder: Path) -> Path:
    """Write all of it into `folder`; gives the recipe."""
    from shared.models import WORDS

    folder.mkdir(parents=True, exist_ok=True)
    chosen = random.Random(0)

    def words(number: int) -> str:
        return " ".join(chosen.choices(WORDS, k=number))

    (folder / "text.txt").write_text("".join(words(20) + "\n" for _ in range(100)))
    # The first one is timed. Exports take longest, so one task has them.
    plain = {"int8": None, "int8_ptq": None}
    tasks: dict[str, Any] = {"score": {"kind": "regression", "quantize": plain}, "mood": {}}
    for task, label in (("score", "0.{}"), ("mood", "{}")):
        for split, size in (("train", 32), ("dev", 16)):
            file = folder / f"{task}-{split}.jsonl"
            rows = [{"text": words(8), "label": label.format(number % 2)} for number in range(size)]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            tasks[task][split] = str(file)
    _make_model(folder / "model")
    training = {"batch_size": 8, "learning_rate": 1e-3, "checkpoint_every": 2}
    values = {
        "name": "kill",
        "model": str(folder / "model"),
        "seeds": [1, 2],
        "corpus": {"source": str(folder / "text.txt"), "block_length": 16, "validation": 0.1},
        "prepare": {**training, "steps": 8, "head_steps": 3},
        "prune": {**training, "steps": 12, "objective": "both", "every": 2, "nested": False, "warmup": 2},
        "teacher": {**training, "epochs": 1, "sweep": {"learning_rate": [1e-3, 2e-3]}},
        "transfer": {**training, "epochs": 1},
        "quantize": {"int8": {**training, "epochs": 1}, "int8_ptq": {"examples": 16}},
        "tasks": tasks,
        "baselines": {"one_shot": True, "gradual": {**training, "epochs": 1, "every": 1}},
        "export": ["onnx"],
        "benchmark": {"engines": ["torch"], "batch_sizes": [1], "lengths": [8], "seconds": 0.01, "texts": 4},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values, sort_keys=False))
    return recipe


def _make_model(folder: Path) -> None:
    """An encoder of one layer: exporters take seconds for each."""
    from shared.models import CONFIGS, make_tokenizer
    from transformers import AutoModel

    config = copy.deepcopy(CONFIGS["bert"])
    config.num_hidden_layers = 1
    AutoModel.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
