"""sentence-transformers files of a model folder, and their copy to the models made from it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from pruneonce.console import console
from pruneonce.errors import UserError
from pruneonce.system.durable import read_json
from pruneonce.wording import first_line

MODULES, NOTES = "modules.json", "config_sentence_transformers.json"
# Settings of the encoder; the first of these files counts. Those after the first are names of earlier versions.
ENCODERS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Files of a sentence-transformers model beside the encoder itself.
SENTENCE_TRANSFORMER = (MODULES, *ENCODERS, NOTES)
EMBEDDER, RERANKER = "SentenceTransformer", "CrossEncoder"  # types of models, as in NOTES
# A module's folder, and its files to copy: data only, and no pickle.
MODULE = r"(\d+_[A-Za-z]\w*)?"
MODULE_FILES = ("config.json", "model.safetensors")


def local_folder(source: str | Path) -> Path:
    """The folder of a model; for a hub id, the cached folder with the files that sentence-transformers adds."""
    if Path(source).is_dir():
        return Path(source)
    return Path(snapshot_download(str(source), allow_patterns=["*.json", "*/*.json", "[0-9]_*/*.safetensors"]))


def type_for(config: Any) -> str:
    """Return the type of sentence-transformers model that a model with this configuration can be; empty: none."""
    name = str((config.architectures or [""])[0])
    if name.endswith("ForSequenceClassification"):
        is_reranker = config.num_labels == 1 and config.problem_type == "multi_label_classification"
        return RERANKER if is_reranker else ""
    return "" if name.endswith(("ForTokenClassification", "ForQuestionAnswering")) else EMBEDDER


def copy_sentence_transformer(model: str | Path, folder: Path, kind: str = EMBEDDER) -> None:
    """Copy the sentence-transformers files of a model; a fault in them is printed, and does not stop the run.

    Args:
        model: model folder or hub id to copy from.
        folder: model folder to copy to.
        kind: type of the model in `folder`, as `type_for` gives it; files for another type are left out.
    """
    if not kind:
        return
    try:
        source = local_folder(model)
        modules = read_json(source / MODULES)
        if type_noted(source) != kind:
            return
    except (OSError, UserError) as error:  # the hub is away, or the file is damaged
        console.print(f"  no sentence-transformers files from {model}: {first_line(error)}", soft_wrap=True)
        return
    if modules is None:
        return
    paths = [module.get("path") for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []
    if not paths or not all(isinstance(path, str) and re.fullmatch(MODULE, path) for path in paths):
        console.print(f"  no sentence-transformers files from {model}: its modules are in odd places", soft_wrap=True)
        return
    names = [*SENTENCE_TRANSFORMER, *(f"{path}/{name}" for path in paths if path for name in MODULE_FILES)]
    for name in names:
        if (source / name).is_file() and _is_inside(source / name, source):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)


def type_noted(folder: Path) -> str:
    """Return the type of a sentence-transformers model by its files; by default one that makes vectors."""
    notes = read_json(folder / NOTES)
    return str(notes.get("model_type", EMBEDDER)) if isinstance(notes, dict) else EMBEDDER


def _is_inside(file: Path, folder: Path) -> bool:
    """Return whether a file, links followed, is inside a model folder; the hub's cache links to its blobs."""
    root = folder.resolve()
    roots = [root, *([root.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [])]
    return any(file.resolve().is_relative_to(root) for root in roots)
