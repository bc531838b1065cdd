"""The distance of sparse models' hidden states from the dense model's, by kind of text: OUTPUT/distance/RUN.json.

    python -m benchmarks.study.distance sparse-90 sparse-95 --output runs/study

It takes the sparse models of finished runs (`python -m benchmarks.study.run`), which then writes the table. It trains
nothing and takes a minute for each model.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
import typer

from benchmarks.common import kept
from benchmarks.study import data
from benchmarks.study.runs import Runs
from pruneonce import recipe
from pruneonce.losses.distillation import hidden_distillation, states
from pruneonce.models import load_encoder, load_tokenizer

TEXTS = 200  # of each kind
BATCH = 20
LONGEST = 256  # tokens


def texts(tokenizer: Any, sentences: list[str], tasks: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[Any]]:
    """Token ids by kind: blocks of running text, sentences of the same corpus, examples of tasks.

    Args:
        sentences: of the corpus, in their order.
        tasks: texts, or pairs of texts, by name.
    """
    running = tokenizer(" ".join(sentences[: 60 * TEXTS]), add_special_tokens=False, verbose=False)["input_ids"]
    first, last = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    found: dict[str, list[Any]] = {}
    for length in (LONGEST, 128, 64, 32, 16):
        body, apart = length - 2, max(length, 64)
        starts = range(0, TEXTS * apart, apart)
        found[f"blocks of {length}"] = [{"input_ids": [*first, *running[at : at + body], *last]} for at in starts]
    encoded = [tokenizer(sentence) for sentence in sentences]
    found["sentences of up to 16"] = [one for one in encoded if len(one["input_ids"]) <= 16][:TEXTS]
    cut = {"truncation": True, "max_length": LONGEST}
    for name, examples in tasks.items():
        chosen = examples[:TEXTS]
        found[name] = [tokenizer(*one, **cut) for one in chosen]
        if len(chosen[0]) > 1:
            found[f"{name}, joined to one text"] = [tokenizer(" ".join(one), **cut) for one in chosen]
    return found


@torch.no_grad()
def distances(sparse: Path, dense: Path, kinds: dict[str, list[Any]], tokenizer: Any) -> dict[str, float]:
    """The loss of hidden states by kind of text: 0 for a model like the dense one, 1 for one that says nothing."""
    ours, theirs = (load_encoder(model).eval() for model in (sparse, dense))
    found = {}
    for kind, examples in kinds.items():
        inputs = sorted(examples, key=lambda example: len(example["input_ids"]))  # little padding
        total = 0.0
        for first in range(0, len(inputs), BATCH):
            chosen = inputs[first : first + BATCH]
            batch = tokenizer.pad(chosen, return_tensors="pt")
            outputs = [model(**batch, output_hidden_states=True) for model in (ours, theirs)]
            mask = batch["attention_mask"]
            total += hidden_distillation(*(states(output, mask) for output in outputs)).item() * len(chosen)
        found[kind] = total / len(inputs)
    return found


def main(runs: list[str], output: Path = Path("runs/study")) -> None:
    known = Runs(data.RECIPE.with_name("study.yaml"))
    os.chdir(output)
    tokenizer = load_tokenizer("model")
    lines = Path("data/embedding/train.jsonl").read_text(encoding="utf-8").splitlines()
    sentences = [json.loads(line)["text"] for line in lines]
    tasks = [name for name, task in recipe.load(str(data.RECIPE)).tasks.items() if task.trains_teacher]
    kinds = texts(tokenizer, sentences, {task: data.examples(task, "dev") for task in tasks})
    for run in runs:
        sparse = known.pretraining(run).folder / "sparse"
        found = kept(
            Path("distance") / f"{run}.json", lambda sparse=sparse: distances(sparse, Path("model"), kinds, tokenizer)
        )  # type: ignore[misc]
        print(run, ", ".join(f"{kind} {value:.3f}" for kind, value in found.items()))


if __name__ == "__main__":
    typer.run(main)
