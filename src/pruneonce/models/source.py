"""Reader of a model's configuration and weights, tensor by tensor, without PyTorch or transformers.

This is the torch-free half of the one door for models; `pruneonce.models.loading` is the other.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from pruneonce.console import asking_hub, hub_away
from pruneonce.errors import UserError
from pruneonce.system.durable import must_be_readable, read_json
from pruneonce.wording import first_line

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PROVENANCE = "pruneonce.json"
PICKLE = "pytorch_model.bin"  # read by `pruneonce convert` alone, as all of `PICKLES`
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# Bounds of the numbers in a configuration.
MOST, MOST_LAYERS, MOST_LABELS = 1 << 20, 1000, 1 << 17
FLOATS = {"F64", "F32", "F16", "BF16"}
# Names that wrappers put before those of the model: torch.compile, DataParallel, sentence-transformers.
COMPILED = "_orig_mod."
WRAPPERS = re.compile(r"^(?:module\.|(?:\d+\.)?auto_model\.)+")
OUTER = "model."  # a wrapper if all names have it; else the base model of a head
# Keys of a configuration that name code, or settings of the machine rather than of the model.
IMPLEMENTATION = re.compile(r"_?\w+_implementation(_internal)?")
# Errors without an answer of the hub, by the names of their classes and by transformers' texts.
AWAY = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ReadTimeout"}
AWAY_TEXTS = ("couldn't connect to", "outgoing traffic has been disabled")
DEEPEST = 20  # errors within an error
PIECE = 1 << 22  # bytes that are read at once
HARMLESS = ("eager", "sdpa")  # implementations inside transformers and PyTorch
MACHINE = {
    "configuration_files",
    "custom_pipelines",
    "fusion_config",
    "kernel_config",
    "transformers_weights",
    "use_kernels",
}


@dataclass(frozen=True)
class Stored:
    """Floating-point tensor in a safetensors file.

    Attributes:
        file: the safetensors file.
        name: of the tensor in the file.
        shape: of the tensor.
        dtype: its type, as safetensors calls it.
        mask: the mask to multiply with (torch.nn.utils.prune); None: there is none.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    mask: Stored | None = None

    def read(self) -> npt.NDArray[np.floating[Any]]:
        """Read the numbers in their `shape`; bf16, which NumPy lacks, as float32.

        Raises:
            UserError: the file is damaged, or a number is infinite or undefined.
        """
        numbers = self._numbers()
        if self.mask is not None:
            numbers = numbers * self.mask._numbers()
        if not np.isfinite(numbers).all():
            raise not_finite(self.file.parent, self.name)
        return numbers

    def _numbers(self) -> npt.NDArray[np.floating[Any]]:
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
        folder = Path(snapshot_download(str(source), allow_patterns=[CONFIG, "model*.safetensors", INDEX, PROVENANCE]))
    except Exception as error:  # the hub is away, or has no such model
        raise UserError(f"cannot load a model from {source}: {hub_reason(error)}") from error
    if (folder / CONFIG).is_file() and not has_files(folder, WEIGHTS):
        raise UserError(f"{source} has no safetensors weights; where it has {PICKLE}, {converting(source)}")
    return folder


def hub_reason(error: BaseException) -> str:
    """Reason in one line why the hub gives no model: an error of huggingface_hub, or of transformers around it."""
    chain: list[BaseException] = []
    inner: BaseException | None = error
    while inner is not None and len(chain) < DEEPEST:
        chain.append(inner)
        inner = inner.__cause__ or inner.__context__
    if not any(type(one).__name__ in AWAY or any(text in str(one) for text in AWAY_TEXTS) for one in chain):
        return first_line(error)
    why, remedy = hub_away()
    return f"no folder here has this name, and the Hugging Face hub {why}; {remedy}"


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a model folder, without what names code.

    Raises:
        UserError: there is no configuration, it is damaged, or it names code to run.
    """
    config = read_json(folder / CONFIG)
    if config is None:
        raise UserError(f"{folder} is not a model folder: it has no {CONFIG}")
    return checked(config, str(folder / CONFIG))


def checked(values: Any, name: str, most: int = MOST) -> dict[str, Any]:
    """Check a configuration before transformers sees it; return it without the settings of a machine.

    An implementation of attention or experts that transformers has itself (`eager`, `sdpa`) stays; other names are left
    out, so that transformers chooses, and the name of a repository is refused. `auto_map` is left to the loader.

    Args:
        values: content of the configuration.
        name: of the configuration, for the message.
        most: as for `check_bounds`.

    Raises:
        UserError: the configuration is damaged, its weights are quantized by another library, or it names code to run.
    """
    check_bounds(values, name, most)
    named = values.get("architectures")
    if named is not None and not (isinstance(named, list) and all(isinstance(each, str) for each in named)):
        raise UserError(f"{name} is damaged: `architectures` is not a list of names")
    for key in ("quantization_config", "compression_config"):
        if values.get(key):
            raise UserError(
                f"the weights of {name.removesuffix(f'/{CONFIG}')} are quantized by another library (`{key}`); give "
                "the model before it was quantized"
            )
    try:
        return _without_code(values, name)  # type: ignore[no-any-return]
    except RecursionError:
        raise UserError(f"{name} is damaged: it is nested too deep") from None


def _without_code(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_without_code(inside, name) for inside in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, inside in value.items():
        if IMPLEMENTATION.fullmatch(key) and isinstance(inside, (str, dict, list)):
            if repository := next((text for text in _texts(inside) if "/" in text), None):
                raise UserError(
                    f"cannot load {name}: it wants to run code of its own, which pruneonce never does: `{key}` is "
                    f"{repository!r}; remove the key"
                )
            if inside not in HARMLESS:
                continue
        if key not in MACHINE:
            kept[key] = _without_code(inside, name)
    return kept


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _texts(inside)


def stored_weights(folder: Path) -> dict[str, Stored]:
    """The floating-point tensors of a model folder, by their names in the model, see `unwrapped`.

    Raises:
        UserError: there are no safetensors weights, a file is damaged, or two tensors have one name in the model.
    """
    weights: dict[str, Stored] = {}
    for file in weight_files(folder):
        with reading(file), safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_slice(name)
                if tensor.get_dtype() in FLOATS:
                    weights[name] = Stored(file, name, tuple(tensor.get_shape()), tensor.get_dtype())
    return {short: _masked(weights, name, mask) for short, (name, mask) in unwrapped(weights, str(folder)).items()}


def unread_type(folder: Path, wanted: Collection[str]) -> UserError | None:
    """The error for a model that has a weight, but as numbers of a type that is not read; None where it has none.

    Args:
        folder: of the model.
        wanted: names of weights without floating-point numbers, as in the model; empty: any weight counts.
    """
    for file in weight_files(folder):
        with reading(file), safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118
                dtype = opened.get_slice(name).get_dtype()
                ending = name.rpartition(".")[2]
                is_wanted = any(name.endswith(one) or one.endswith(f".{name}") for one in wanted)
                if dtype not in FLOATS and (is_wanted or (not wanted and ending in ("weight", "bias"))):
                    return UserError(
                        f"{folder} has {name} as {dtype}, which is not read as a weight: another library quantized it; "
                        "give the model before it was quantized, or save it as float32"
                    )
    return None


def _masked(weights: dict[str, Stored], name: str, mask: str | None) -> Stored:
    if mask is None:
        return weights[name]
    if weights[mask].shape != weights[name].shape:
        raise UserError(f"{weights[name].file} is damaged: {mask} has another shape than {name}")
    return replace(weights[name], mask=weights[mask])


def unwrapped(names: Iterable[str], where: str) -> dict[str, tuple[str, str | None]]:
    """Names of a model's tensors without those of wrappers.

    Known wrappers are torch.compile (`_orig_mod.`), DataParallel (`module.`), sentence-transformers (`0.auto_model.`),
    another module around all (`model.`), in any order, and torch.nn.utils.prune: `weight_orig` times `weight_mask` is
    the weight, https://pytorch.org/docs/stable/generated/torch.nn.utils.prune.BasePruningMethod.html.

    Args:
        names: of the tensors in the file.
        where: the model, for the message.

    Returns:
        By the name in the model: the name in the file, and the name of its mask or None.

    Raises:
        UserError: two tensors have one name in the model.
    """
    short = {name: WRAPPERS.sub("", name.replace(COMPILED, "")) for name in names}
    while short and all(name.startswith(OUTER) for name in short.values()):
        short = {name: WRAPPERS.sub("", inner.removeprefix(OUTER)) for name, inner in short.items()}
    by_short = {inner: name for name, inner in short.items()}
    if len(by_short) < len(short):
        twice = sorted(inner for name, inner in short.items() if by_short[inner] != name)[0]
        raise UserError(f"{where} has two tensors for {twice}; save the model anew without its wrapper")
    found: dict[str, tuple[str, str | None]] = {}
    for inner, name in by_short.items():
        pruned = inner.removesuffix("_orig")
        if pruned != inner and f"{pruned}_mask" in by_short:
            if pruned in by_short:
                raise UserError(f"{where} has two tensors for {pruned}; call torch.nn.utils.prune.remove and save anew")
            found[pruned] = (name, by_short[f"{pruned}_mask"])
        elif not (inner.endswith("_mask") and f"{inner.removesuffix('_mask')}_orig" in by_short):
            found[inner] = (name, None)
    return found


def weights_hash(folder: Path) -> str:
    """Hash (sha256) of name, type, shape and bytes of every tensor of a model folder, in the order of names.

    It does not depend on the order or the number of the files, and is the hash that a packed file has of its members
    (`pruneonce.storage.tensors.weights_hash`). Computed once for each state of the files, by their size and time.

    Raises:
        UserError: there are no safetensors weights, or a file is damaged.
    """
    files = weight_files(folder)
    states = tuple((status.st_size, status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in files))
    return _weights_hash(tuple(files), states)


@lru_cache(maxsize=256)
def _weights_hash(files: tuple[Path, ...], states: tuple[tuple[int, ...], ...]) -> str:
    places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for file in files:
        with reading(file), safe_open(file, framework="np"):  # which checks the header
            pass
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        places |= {name: (file, size + 8, entry) for name, entry in header.items() if name != "__metadata__"}
    digest = hashlib.sha256()
    for name, (file, start, entry) in sorted(places.items()):
        digest.update(f"{name} {entry['dtype']} {entry['shape']}\n".encode())
        begin, end = entry["data_offsets"]
        with file.open("rb") as stream:
            stream.seek(start + begin)
            for left in range(end - begin, 0, -PIECE):
                digest.update(stream.read(min(left, PIECE)))
    return digest.hexdigest()


def not_finite(where: str | Path, name: str) -> UserError:
    """The error for a weight with infinite or undefined numbers."""
    return UserError(f"{where} has infinite or undefined numbers (inf, nan) in {name}; give a model that is whole")


def weight_files(folder: Path, weights: str = WEIGHTS) -> list[Path]:
    """The files of a model's weights.

    Args:
        folder: of the model.
        weights: name of the file where there is one; the index of several is called after it.

    Raises:
        UserError: there are no such files, or the index is damaged.
    """
    if (folder / weights).is_file():
        return [folder / weights]
    listed = folder / f"{weights}.index.json"
    index = read_json(listed)
    if index is None:
        if weights == WEIGHTS and has_files(folder, PICKLE):
            raise UserError(f"{folder} has no safetensors weights, only {PICKLE}; {converting(folder)}")
        card = read_json(folder / "pruneonce.json")
        if isinstance(card, dict) and card.get("stage") == "export":
            raise UserError(
                f"{folder} was exported, and the file of the model is not there; remove the folder and export the "
                "model again"
            )
        elsewhere = f", or where another file has the weights, {converting(folder)}" if weights == WEIGHTS else ""
        raise UserError(f"cannot load a model from {folder}: it has no {weights}; save the model anew{elsewhere}")
    named = index.get("weight_map") if isinstance(index, dict) else None
    names = list(named.values()) if isinstance(named, dict) else []
    if not names or not all(isinstance(n, str) and Path(n).name == n and (folder / n).is_file() for n in names):
        raise UserError(f"{listed} is damaged: it does not name the files of the weights")
    return [folder / name for name in sorted(set(names))]


def has_files(folder: Path, weights: str) -> bool:
    """Return whether a folder has the weights of this name, in one file or in several."""
    return any((folder / name).is_file() for name in (weights, f"{weights}.index.json"))


def converting(source: str | Path) -> str:
    """The command that makes a folder with safetensors of a model without them, for messages."""
    return f"`pruneonce convert {shlex.quote(str(source))} DEST` makes a folder of it"


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn the exceptions of safetensors while reading `file` into a `UserError` of one line.

    Raises:
        UserError: the safetensors file is damaged, or may not be read.
    """
    must_be_readable(file)
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
    if path.is_file() and path.suffix in (*PICKLES, ".safetensors"):
        raise UserError(f"{text} is a file of weights, and no model folder; {converting(source)}")
    if looks_local and not path.is_dir():
        raise UserError(f"no model folder at {text}")
    if not path.is_dir():
        asking_hub(text)


def check_bounds(values: Any, name: str, most: int = MOST) -> None:
    """Refuse a configuration with numbers that no model has.

    Args:
        values: content of the configuration.
        name: of the configuration, for the message.
        most: bound of all numbers but those of layers and labels, which have `MOST_LAYERS` and `MOST_LABELS`.

    Raises:
        UserError: the configuration is not an object, or a number in it is out of bounds.
    """
    if not isinstance(values, dict):
        raise UserError(f"{name} is damaged: it is not an object")
    for key, value in values.items():
        bound = MOST_LAYERS if "layers" in key else MOST_LABELS if "labels" in key else most
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) <= bound:
            raise UserError(f"{name} is damaged: `{key}` is {value}")


@contextmanager
def panics_as_errors(message: str) -> Iterator[None]:
    """Turn a panic of a library in Rust, which is no `Exception`, into a `UserError` of one line.

    Raises:
        UserError: the library panicked, as the tokenizers do on damaged files.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{message}: {first_line(error)}") from None
