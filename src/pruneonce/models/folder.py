"""Saving a model folder: a plain Hugging Face folder, with provenance beside the weights.

Saving is atomic: a folder is written as `NAME.partial` and renamed, so that a folder called `NAME` is complete
(`pruneonce.system.durable`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from pruneonce.models.card import write_card
from pruneonce.models.loading import load_tokenizer
from pruneonce.models.provenance import CONFIGURATION, LIBRARIES, METRICS, PROVENANCE, SHA256, configuration_of
from pruneonce.models.sentence_transformers import copy_sentence_transformer, type_for
from pruneonce.models.source import weights_hash
from pruneonce.system import durable, locks
from pruneonce.system.durable import partial, write_json

# Files and folders that an unfinished model folder has beside its model.
BEGUN = "begun.json"
SCRATCH = (BEGUN, "checkpoints", "cache", "head", locks.NAME)


def save_model(
    model: nn.Module,
    output: Path,
    *,
    source: str | Path,
    provenance: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Path:
    """Write a model folder.

    Args:
        model: the model.
        output: the folder to write.
        source: folder or hub id of the original model. Its tokenizer is copied as it lies there, since one in use
            keeps the truncation of its last call. Its sentence-transformers files are copied where they fit the head
            of this model.
        provenance: the record of the stage, without versions.
        metrics: content of metrics.json.
    """
    folder = partial(output)
    with durable.writing(output, "run it again: it goes on from the last checkpoint"):
        folder.mkdir(parents=True, exist_ok=True)
        # transformers would write the names of the hub, of which one weight may be three Linears, for gte and others
        model.save_pretrained(folder, save_original_format=False)  # type: ignore[operator]
        load_tokenizer(source).save_pretrained(folder)
        copy_sentence_transformer(source, folder, type_for(model.config))
        versions = {name: version(name) for name in LIBRARIES}
        hashes = {SHA256: weights_hash(folder), CONFIGURATION: configuration_of(folder)}
        write_json({**provenance, "versions": versions, **hashes}, folder / PROVENANCE)
        write_json(dict(metrics), folder / METRICS)
        write_card(folder)
        publish_folder(output)
    return output


def publish_folder(output: Path) -> None:
    """Rename `partial(output)` to `output`, then remove its scratch files."""
    durable.publish(partial(output), output)
    remove_scratch(output)


def remove_scratch(folder: Path) -> None:
    """Remove the scratch files of a finished folder, such as those left by a killed process."""
    for name in SCRATCH:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            (folder / name).unlink(missing_ok=True)
