"""Reader of a model's configuration and weights, tensor by tensor, without PyTorch or transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from pruneonce.console import asking_hub
from pruneonce.errors import UserError
from pruneonce.system.durable import read_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# Bounds of the numbers in a configuration.
MOST, MOST_LAYERS = 1 << 20, 1000
FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Stored:
    """Floating-point tensor in a safetensors file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> npt.NDArray[np.floating[Any]]:
        """Read the numbers in their `shape`; bf16, which NumPy lacks, as float32."""
        with reading(self.file):
            if self.dtype == "BF16":
                with safe_open(self.file, framework="pt") as opened:
                    return opened.get_tensor(self.name).float().numpy()  # type: ignore[no-any-return]
            with safe_open(self.file, framework="np") as opened:
                return opened.get_tensor(self.name)  # type: ignore[no-any-return]


def local_files(source: str | Path) -> Path:
    """The folder of a model; for a hub id, the cached folder with its configuration and weights.

    Raises:
        UserError: there is no model.
    """
    must_exist(source)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=[CONFIG, "model*.safetensors", INDEX]))
    except Exception as error:  # the hub is away, or has no such model
        raise UserError(f"cannot load a model from {source}: {first_line(error)}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a model folder.

    Raises:
        UserError: there is no configuration, or it is damaged.
    """
    must_be_bounded(folder)
    config = read_json(folder / CONFIG)
    if config is None:
        raise UserError(f"{folder} is not a model folder: it has no {CONFIG}")
    return dict(config)


def stored_weights(folder: Path) -> dict[str, Stored]:
    """The floating-point tensors of a model folder, by name.

    Raises:
        UserError: there are no safetensors weights, or a file is damaged.
    """
    weights: dict[str, Stored] = {}
    for file in _files(folder):
        with reading(file), safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_slice(name)
                if tensor.get_dtype() in FLOATS:
                    weights[name] = Stored(file, name, tuple(tensor.get_shape()), tensor.get_dtype())
    return weights


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = read_json(folder / INDEX)
    if index is None:
        raise UserError(f"cannot load a model from {folder}: it has no {WEIGHTS}; save the model anew")
    names = set(index["weight_map"].values()) if isinstance(index, dict) and "weight_map" in index else set()
    if not names or any(Path(name).name != name or not (folder / name).is_file() for name in names):
        raise UserError(f"{folder / INDEX} is damaged: it does not name the files of the weights")
    return [folder / name for name in sorted(names)]


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn the exceptions of safetensors while reading `file` into a `UserError` of one line.

    Raises:
        UserError: the safetensors file is damaged.
    """
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"cannot load a model from {file.parent}: {file.name}: {first_line(error)}") from error


def must_exist(source: str | Path) -> None:
    """Refuse a local path without a model, which transformers would take for a hub id; say that the hub is asked.

    Raises:
        UserError: there is no model folder at the path.
    """
    text = str(source)
    looks_local = text.startswith((".", "/", "~")) or text.count("/") > 1 or isinstance(source, Path)
    path = Path(source)
    if path.is_dir() and not (path / CONFIG).is_file():
        raise UserError(f"{text} is not a model folder: it has no {CONFIG}")
    if looks_local and not path.is_dir():
        raise UserError(f"no model folder at {text}")
    if not path.is_dir():
        asking_hub(text)


def must_be_bounded(source: str | Path) -> None:
    """Refuse a configuration with numbers so large (of layers, labels, tokens) that transformers would never end.

    Raises:
        UserError: the configuration is damaged.
    """
    file = Path(source) / CONFIG
    if not file.is_file():
        return
    values = read_json(file)
    check_bounds(values, str(file))


def check_bounds(values: Any, name: str, most: int = MOST) -> None:
    """Refuse a configuration with numbers that no model has.

    Args:
        values: content of the configuration.
        name: of the configuration, for the message.
        most: bound of all numbers but those of layers, which have `MOST_LAYERS`.

    Raises:
        UserError: the configuration is not an object, or a number in it is out of bounds.
    """
    if not isinstance(values, dict):
        raise UserError(f"{name} is damaged: it is not an object")
    for key, value in values.items():
        bound = MOST_LAYERS if "layers" in key else most
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) <= bound:
            raise UserError(f"{name} is damaged: `{key}` is {value}")


def first_line(error: Exception) -> str:
    """First line of an exception's message, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
