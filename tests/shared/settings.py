"""Canonical settings, one table each, that parametrize the tests which all of a table have to pass.

A new kind of task, pattern or stage gets a row here and enters those tests, as does an architecture in CONFIGS of
shared/models.py; a method enters them when it is registered. Tests compare the tables with what the package has.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from pruneonce import stages
from pruneonce.plugins import plugins
from pruneonce.recipe import (
    Classification,
    Corpus,
    Embedding,
    Gradual,
    Prepare,
    ProductQuantize,
    Prune,
    Quantize,
    QuestionAnswering,
    Regression,
    Reranking,
    Task,
    TokenClassification,
    Training,
    Transfer,
)
from shared.models import WORDS, make_model

Inputs = dict[str, Any]
Stage = Callable[[Path], Path]  # from the output folder to itself

PATTERNS = ("unstructured", "1x4", "4x1", "4x4", "3x5", "row", "column", "2:4", "4:8", "1:4")
BLOCKS = tuple(name for name in PATTERNS if name != "unstructured" and ":" not in name)

STEPS = {"steps": 12, "batch_size": 4, "learning_rate": 1e-3, "dropout": 0.1}
PRUNING = {**STEPS, "every": 2, "end": 8, "warmup": 2}
EPOCHS = {"epochs": 2.2, "batch_size": 16, "accumulate": 2, "learning_rate": 1e-3, "dropout": 0.1}  # 7 steps of `task`

# -- kinds of tasks ---------------------------------------------------------------------------------------------


def _lines(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def _pairs(folder: Path) -> str:
    """40 pairs, one in ten of which is alike."""
    rows = [
        {"text": f"the {word}", "text_pair": f"a {other}", "label": int(word == other)}
        for word in WORDS[20:30]
        for other in WORDS[20:24]
    ]
    return _lines(folder / "pairs.jsonl", rows)


def _classification(folder: Path) -> Classification:
    pairs = _pairs(folder)
    return Classification(train=pairs, dev=pairs, text_pair="text_pair")


def _regression(folder: Path) -> Regression:
    pairs = _pairs(folder)
    return Regression(train=pairs, dev=pairs, text_pair="text_pair")


def _reranking(folder: Path) -> Reranking:
    pairs = _pairs(folder)
    return Reranking(train=pairs, dev=pairs, query="text", passage="text_pair")


def _embedding(folder: Path) -> Embedding:
    (folder / "texts.txt").write_text("".join(f"{word} {other}\n" for word in WORDS[:8] for other in WORDS[8:13]))
    return Embedding(train=str(folder / "texts.txt"), dev=_pairs(folder), max_length=16)


def _token_classification(folder: Path) -> TokenClassification:
    rows = [{"tokens": ["the", word, "of", "stone"], "tags": ["O", "B-X", "I-X", "O"]} for word in WORDS[:40]]
    tagged = _lines(folder / "tagged.jsonl", rows)
    return TokenClassification(train=tagged, dev=tagged)


def _question_answering(folder: Path) -> QuestionAnswering:
    rows = [
        {
            "id": str(number),
            "question": "which was bad",
            "context": f"the {word} of the awful river",
            "answers": {"text": ["awful river"], "answer_start": [len(f"the {word} of the ")]},
        }
        for number, word in enumerate(WORDS[:40])
    ]
    asked = _lines(folder / "questions.jsonl", rows)
    return QuestionAnswering(train=asked, dev=asked, max_length=32, doc_stride=8, max_answer_length=4)


# A tiny task of each kind over files in a folder: 40 examples, the same for training and for dev.
KINDS: dict[str, Callable[[Path], Task]] = {
    "classification": _classification,
    "regression": _regression,
    "question-answering": _question_answering,
    "token-classification": _token_classification,
    "embedding": _embedding,
    "reranking": _reranking,
}

# -- stages -----------------------------------------------------------------------------------------------------


def make_inputs(folder: Path, tokenizer: PreTrainedTokenizerFast, corpus_file: Path, task_files: Path) -> Inputs:
    """What the STAGES take, by name: model folders, corpora and tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(source=str(corpus_file), block_length=16, validation=0.01)
    task = Classification(**{split: str(task_files / f"{split}.jsonl") for split in ("train", "dev")})
    bare = make_model(folder / "bare", tokenizer)
    dense = make_model(folder / "dense", tokenizer, "distilbert", head=True)
    return {
        "bare": bare,
        "dense": dense,
        "corpus": corpus,
        "streamed": corpus.model_copy(update={"streaming": True}),
        "task": task,
        **{kind: make(folder) for kind, make in KINDS.items()},
        "sparse": stages.prune_one_shot(dense, Prune(**PRUNING), folder / "sparse"),
        "teacher": stages.finetune(dense, task, Training(**{**EPOCHS, "epochs": 1}), folder / "teacher"),
    }


def prepare(inputs: Inputs) -> Stage:
    return partial(stages.prepare, inputs["bare"], inputs["corpus"], Prepare(**STEPS, head_steps=6))


def prune(inputs: Inputs, source: str = "dense", corpus: str = "corpus", **changes: Any) -> Stage:
    return partial(stages.prune, inputs[source], inputs[corpus], Prune(**{**PRUNING, **changes}))


def finetune(inputs: Inputs, task: str = "task", **changes: Any) -> Stage:
    return partial(stages.finetune, inputs["dense"], inputs[task], Training(**{**EPOCHS, **changes}))


def from_teacher(
    stage: Callable[..., Path],
    section: type[Transfer],
    inputs: Inputs,
    task: str = "task",
    teacher: str = "teacher",
    **changes: Any,
) -> Stage:
    source = "dense" if section is Gradual else "sparse"
    settings = section(**{**EPOCHS, **changes})
    return partial(stage, inputs[source], inputs[task], settings, teacher=inputs[teacher])


transfer = partial(from_teacher, stages.transfer, Transfer)
gradual = partial(from_teacher, stages.transfer_gradual, Gradual, every=1, end=4, nested=False)
quantize = partial(from_teacher, stages.quantize, Quantize)

# Every stage that trains, on the inputs of `make_inputs`: STAGES[name](inputs)(output).
STAGES: dict[str, Callable[..., Stage]] = {
    "prepare": prepare,
    "prune": prune,
    "prune, hidden": partial(prune, source="bare", objective="hidden", rewind=False),
    "prune, both, not nested": partial(prune, objective="both", nested=False, until=11),
    "prune, global": partial(prune, allocation="global", kd_tokens="masked", accumulate=2),
    "prune, checkpointed activations": partial(prune, activation_checkpointing=True),
    "prune, in pieces": partial(prune, objective="both", pieces=[1, 2]),
    "prune, streamed": partial(prune, corpus="streamed", objective="hidden"),
    "finetune": finetune,
    "transfer": partial(transfer, task_weight=0.5, kd_weight=0.5),
    "transfer, embedding": partial(transfer, task="embedding", teacher="dense", epochs=6, hidden_weight=0),
    "gradual": gradual,
    "quantize": partial(quantize, averaging=0.1),
    "quantize, 4 bits": partial(quantize, bits=4, granularity="group", group_size=8),
    "product quantize": partial(from_teacher, stages.product_quantize, ProductQuantize, centroids=16),
}

# Every kind of task; there is nothing to fine-tune an embedding on but its teacher, and `finetune` is a classification.
STAGES |= {
    f"finetune, {kind}": partial(finetune, task=kind, epochs=6)
    for kind in sorted(KINDS.keys() - {"classification", "embedding"})
}

# Every registered method in every stage that it trains in, with the options of its example.
METHODS: dict[str, Callable[..., Stage]] = {
    f"{stage}, {name}": partial(STAGES[stage], method={"name": name, **plugin.example})
    for name, plugin in plugins().items()
    for stage in ("finetune", "gradual", "prune", "quantize", "transfer")
    if stage in plugin.stages
}
