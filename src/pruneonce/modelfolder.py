"""Model folders: plain Hugging Face folders, with provenance beside the weights.

Loading goes through transformers' Auto classes, from safetensors only and never with remote code. Saving is atomic: a
folder is written as `NAME.partial` and renamed, so that one that exists is whole (durable.py).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData, snapshot_download
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from pruneonce import durable, locks
from pruneonce.console import console
from pruneonce.durable import file_hash, partial, read_json, write_json
from pruneonce.errors import UserError

PROVENANCE = "pruneonce.json"
METRICS = "metrics.json"
# What makes a folder a sentence-transformers model, beside the encoder itself.
SENTENCE_TRANSFORMER = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
TASK_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
# A configuration's numbers may be this large.
MOST, MOST_LAYERS = 1 << 20, 1000
# What an unfinished folder has beside its model.
BEGUN = "begun.json"
SCRATCH = (BEGUN, "checkpoints", "cache", "head", locks.NAME)
# A module's folder, and what of it is taken along: data only, and no pickle.
MODULE = r"(\d+_[A-Za-z]\w*)?"
MODULE_FILES = ("config.json", "model.safetensors")
LIBRARIES = ("pruneonce", "torch", "transformers")

CARD = """---
{{ card_data }}
---

# {{ title }}

{{ text }}

`pruneonce.json` holds the settings and the versions that made this model. Load it with plain `transformers`:

```python
from transformers import {{ auto_class }}

model = {{ auto_class }}.from_pretrained("path/to/this/folder")
```
"""


def load(auto_class: Any, source: str | Path, **config: Any) -> Any:
    """`auto_class.from_pretrained(source)` in fp32; `config` entries override the model's configuration.

    Raises:
        UserError: no model there, no safetensors weights, or remote code would be needed.
    """
    return load_reporting(auto_class, source, **config)[0]


def load_reporting(auto_class: Any, source: str | Path, **config: Any) -> tuple[Any, set[str]]:
    """As `load`, and the names of the parameters that were not in the file and so are newly initialised."""
    with _loading("load a model", source):
        model, info = auto_class.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,  # left out, transformers would ask
            **config,
        )
    return model, set(info["missing_keys"])


def load_encoder(source: str | Path, **config: Any) -> Any:
    """The bare encoder, whatever the head it was saved with; without a pooler if the file has none."""
    model, missing = load_reporting(AutoModel, source, **config)
    if any(name.startswith("pooler.") for name in missing):
        model.pooler = None  # transformers would leave a random one
    return model


def load_as_saved(source: str | Path) -> Any:
    """The model with the head, or without one, that it was saved with.

    Raises:
        UserError: as `load`, or the configuration names no model class of transformers.
    """
    name = (load_config(source).architectures or ["none"])[0]
    if name.endswith("Model"):
        return load_encoder(source)
    if not hasattr(transformers, name):
        raise UserError(f"{source} has a config.json whose `architectures` names no class of transformers: {name}")
    return load(getattr(transformers, name), source)


def load_tokenizer(source: str | Path) -> Any:
    with _loading("load a tokenizer", source):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def load_config(source: str | Path) -> Any:
    with _loading("read a model configuration", source):
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


@contextmanager
def _loading(what: str, source: str | Path) -> Generator[None, None, None]:
    """Turns what transformers raises for a folder or hub id that is not right into one line."""
    _must_exist(source)
    _must_be_bounded(source)
    try:
        yield
    except Exception as error:  # what is damaged, or made to do harm, fails anywhere inside transformers, in any way
        if "trust_remote_code" in str(error):
            raise UserError(
                f"cannot {what} from {source}: it wants to run code of its own, which pruneonce never does; use "
                "a model of an architecture that transformers has"
            ) from error
        raise UserError(f"cannot {what} from {source}: {_first_line(error)}") from error


def without_dropout(config: Any, dropout: float | None) -> dict[str, float]:
    """Overrides that set every dropout probability of this architecture to `dropout` (none if it is None)."""
    return {} if dropout is None else dict.fromkeys(dropouts(config), dropout)


def dropouts(config: Any) -> list[str]:
    """Names of this architecture's dropout probabilities."""
    return [
        key
        for key, value in config.to_dict().items()
        if "dropout" in key and isinstance(value, (int, float)) and not isinstance(value, bool)
    ]


def content_key(source: str | Path) -> str:
    """What identifies a model as an input: its provenance key, a hash of its weights' bytes, or the hub id."""
    path = Path(source)
    if not path.is_dir():
        return f"hub:{source}"
    made = read_provenance(path)
    if made and "key" in made:
        return str(made["key"])
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.json")])
    return key_of([(file.name, file_hash(file)) for file in files])


def key_of(*parts: Any) -> str:
    """A hash of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read_provenance(folder: str | Path) -> dict[str, Any] | None:
    """
    Raises:
        UserError: the file is damaged.
    """
    file = Path(folder) / PROVENANCE
    made = read_json(file)
    if made is not None and not isinstance(made, dict):
        raise UserError(f"{file} is damaged: it is not an object")
    return made


def save(
    model: nn.Module,
    tokenizer: Any,
    output: Path,
    *,
    source: str | Path,
    provenance: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Path:
    """Write a model folder.

    Args:
        source: where the model came from: sentence-transformers' files are taken along from there, unless this model
            has a task head, with which it is no longer one.
    """
    folder = partial(output)
    with durable.writing(output, "run it again: it goes on from the last checkpoint"):
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
        if not type(model).__name__.endswith(TASK_HEADS):
            copy_sentence_transformer(source, folder)
        versions = {name: version(name) for name in LIBRARIES}
        write_json({**provenance, "versions": versions}, folder / PROVENANCE)
        write_json(dict(metrics), folder / METRICS)
        _write_card(type(model).__name__, folder, provenance)
        publish(output)
    return output


def publish(output: Path) -> None:
    """Give what is in `partial(output)` its name, and only then remove what served to make it."""
    durable.publish(partial(output), output)
    clear(output)


def clear(folder: Path) -> None:
    """Remove what served to make a finished folder, where a process was killed before it could."""
    for name in SCRATCH:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            (folder / name).unlink(missing_ok=True)


def local(source: str | Path) -> Path:
    """The folder of a model; of one on the hub, the cached folder with the files that sentence-transformers adds."""
    if Path(source).is_dir():
        return Path(source)
    return Path(snapshot_download(str(source), allow_patterns=["*.json", "*/*.json", "[0-9]_*/*.safetensors"]))


def copy_sentence_transformer(model: str | Path, folder: Path) -> None:
    """Take along sentence-transformers' files; what is wrong with them is no reason to lose what was trained."""
    try:
        source = local(model)
        modules = read_json(source / "modules.json")
    except (OSError, UserError) as error:  # the hub is away, or the file is damaged
        console.print(f"  no sentence-transformers files from {model}: {_first_line(error)}", soft_wrap=True)
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


def _is_inside(file: Path, folder: Path) -> bool:
    """Whether a file of a model, links followed, is one; a folder in the hub's cache links to its blobs."""
    root = folder.resolve()
    roots = [root, *([root.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [])]
    return any(file.resolve().is_relative_to(root) for root in roots)


def _write_card(model_class: str, folder: Path, provenance: Mapping[str, Any]) -> None:
    auto = "AutoModel"
    for head in (*TASK_HEADS, "ForMaskedLM", "ForPreTraining"):
        if model_class.endswith(head):
            auto = "AutoModelForMaskedLM" if head == "ForPreTraining" else f"AutoModel{head}"
    zeros = provenance["sparsity"]["encoder"]
    text = f"Made by pruneonce's stage `{provenance['stage']}`; {zeros:.1%} of the encoder's Linear weights are zero."
    card = ModelCard.from_template(
        ModelCardData(library_name="transformers", tags=["pruneonce"]),
        template_str=CARD,
        title=folder.name.removesuffix(".partial"),
        text=text,
        auto_class=auto,
    )
    (folder / "README.md").write_text(card.content, encoding="utf-8")


def _must_exist(source: str | Path) -> None:
    """A path that is not there would be taken for a hub id, with a puzzling message."""
    text = str(source)
    looks_local = text.startswith((".", "/", "~")) or text.count("/") > 1 or isinstance(source, Path)
    path = Path(source)
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"{text} is not a model folder: it has no config.json")
    if looks_local and not path.is_dir():
        raise UserError(f"no model folder at {text}")


def _must_be_bounded(source: str | Path) -> None:
    """Numbers of layers, labels or tokens without bound would keep transformers busy for ever."""
    file = Path(source) / "config.json"
    if not file.is_file():
        return
    values = read_json(file)
    if not isinstance(values, dict):
        raise UserError(f"{file} is damaged: it is not an object")
    for key, value in values.items():
        most = MOST_LAYERS if "layers" in key else MOST
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) <= most:
            raise UserError(f"{file} is damaged: `{key}` is {value}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
