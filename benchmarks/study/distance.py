"""How far a sparse model's hidden states are from the dense one's, by what it reads. No training, a minute a model."""

from pathlib import Path
from typing import Any

import torch

from pruneonce.losses.distillation import hidden_distillation, states
from pruneonce.models import load_encoder

TEXTS = 200  # of each kind
BATCH = 20
LONGEST = 256  # tokens


def texts(tokenizer: Any, sentences: list[str], tasks: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[Any]]:
    """Token ids by what they are: blocks of running text, sentences of the same corpus, examples of tasks.

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
def distances(sparse: Path, dense: str, kinds: dict[str, list[Any]], tokenizer: Any) -> dict[str, float]:
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
