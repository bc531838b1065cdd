"""How a run's other costs grow: packing a corpus ten times as large, four tasks instead of one; prints JSON.

python -m benchmarks.training.growth corpus --times 10
python -m benchmarks.training.growth tasks --times 4
"""

import json
import random
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import torch
import typer
from transformers import BertConfig, BertForMaskedLM

from benchmarks.training.measure import SHAPES, WORDS, tokenizer
from pruneonce.cli.verbosity import silence_libraries
from pruneonce.data.corpus import token_blocks
from pruneonce.models import load_tokenizer
from pruneonce.recipe import Corpus, Recipe
from pruneonce.runs import pipeline, quickstart

app = typer.Typer()


@app.command()
def corpus(times: int = 1, megabytes: int = 10) -> None:
    """Pack `times` x `megabytes` of text made of MiniLM's own words, in as many files as there are megabytes."""
    model = quickstart.packaged_model()
    made = load_tokenizer(model)
    words = [word for word in made.get_vocab() if word.isalpha()]
    with tempfile.TemporaryDirectory() as folder:
        chosen = random.Random(0)
        line = " ".join(chosen.choices(words, k=150_000))[:1_000_000]
        lines = "\n".join(line[start : start + 500] for start in range(0, len(line), 500))
        for number in range(times * megabytes):
            Path(folder, f"{number:05}.txt").write_text(lines)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = perf_counter()
        train, held_out = token_blocks(Corpus(source=folder, processes=1), made, Path(folder, "cache"))
        seconds = perf_counter() - began
        tokens = 128 * (len(train) + len(held_out))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        "RESULT "
        + json.dumps({"tokens": tokens, "seconds": seconds, "peak_mb": peak / 1024, "at_start_mb": before / 1024})
    )


@app.command()
def tasks(times: int = 1, examples: int = 512) -> None:
    """A run with `times` tasks of `examples` short texts on a random model of MiniLM's shape."""
    silence_libraries()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        torch.manual_seed(0)
        made = tokenizer()
        made.save_pretrained(folder / "model")
        BertForMaskedLM(BertConfig(**SHAPES["minilm"], vocab_size=WORDS)).save_pretrained(folder / "model")
        chosen = random.Random(0)
        texts = [" ".join(f"w{chosen.randrange(1000)}" for _ in range(20)) for _ in range(examples)]
        rows = [json.dumps({"text": text, "label": str(chosen.randrange(2))}) for text in texts]
        for name in ("train.jsonl", "dev.jsonl"):
            (folder / name).write_text("\n".join(rows))
        (folder / "text.txt").write_text("\n".join(texts * 10))
        files = {"train": str(folder / "train.jsonl"), "dev": str(folder / "dev.jsonl")}
        settings = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-4, "dropout": 0.0}
        recipe = Recipe(
            name="growth",
            model=str(folder / "model"),
            corpus={"source": str(folder / "text.txt")},
            prune={"steps": 10, "batch_size": 32, "learning_rate": 1e-4, "every": 1},
            teacher=settings,
            transfer=settings,
            tasks={f"task{number}": files for number in range(times)},
            report_to=[],
        )
        began = perf_counter()
        summary = pipeline.run(recipe, folder / "run")
        seconds = perf_counter() - began
    pruning = next(stage["seconds"] for stage in summary["stages"] if stage["name"] == "sparse")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("RESULT " + json.dumps({"seconds": seconds, "prune": pruning, "peak_mb": peak / 1024}))


if __name__ == "__main__":
    app()
