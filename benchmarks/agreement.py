"""How far a model in an engine is from the same model in PyTorch, on a split of its task."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruneonce import recipe
from pruneonce.engines.session import Session
from pruneonce.metrics import glue
from pruneonce.tasks import kind_of
from pruneonce.tasks.prediction import in_batches


def compared(
    task: recipe.Task, tokenizer: Any, ways: dict[Any, Session], reference: Any, cache: Path
) -> dict[Any, Any]:
    """On test, of each of `ways`: the accuracy; the largest, the typical (median) difference of the logits from those
    of `reference`, one of `ways`, whose largest logit is `range`; and how many classes are others."""
    kind = kind_of(task)
    examples = kind.encode(kind.load(cache).splits["test"], tokenizer)
    labels = examples.with_format("numpy")["labels"][:]
    collate = kind.collate(tokenizer)
    logits = {name: np.stack(in_batches(partial(_logits, engine), examples, collate)) for name, engine in ways.items()}
    expected = logits[reference]
    return {
        name: {
            "accuracy": glue.classification(values, labels)["accuracy"],
            "largest": float(np.abs(values - expected).max()),
            "typical": float(np.median(np.abs(values - expected))),
            "changed": int((values.argmax(1) != expected.argmax(1)).sum()),
            "examples": len(labels),
            "range": float(np.abs(expected).max()),
        }
        for name, values in logits.items()
    }


def _logits(engine: Session, batch: Any) -> torch.Tensor:
    return torch.from_numpy(engine(batch)["logits"])
