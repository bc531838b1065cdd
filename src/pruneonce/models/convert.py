"""Reader of other libraries' model files: pickles, prefixes, masks and packed zeros, for the stage `convert`.

Pickles are read by a process of its own (`pruneonce.models.unpickling`), which writes safetensors. Everything after
that is done with safetensors and the one door for models.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig

from pruneonce.errors import UserError
from pruneonce.models.architectures import base_of, check_supported
from pruneonce.models.loading import (
    POOLER,
    build,
    class_of,
    config_of,
    load_tokenizer,
    outline,
    read_weights,
    wanted,
)
from pruneonce.models.provenance import PROVENANCE, key_of
from pruneonce.models.sentence_transformers import copy_sentence_transformer
from pruneonce.models.source import (
    CONFIG,
    FLOATS,
    INDEX,
    OUTER,
    PICKLE,
    PICKLES,
    WEIGHTS,
    Stored,
    checked,
    has_files,
    must_exist,
    reading,
    unwrapped,
    weight_files,
)
from pruneonce.system.durable import file_hash, read_json, write_json
from pruneonce.wording import first_line

# Pickles beside a model that are not its weights.
OTHER = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states).*")
# Files about a model: its tokenizer and its modules of sentence-transformers. All are data.
ABOUT = (".json", ".txt", ".model")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
SECONDS, SECONDS_PER_MB = 120, 1  # that reading a pickle may take
# The environment of the process that reads a pickle: no tokens of the hub.
KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT", "OMP_NUM_THREADS")
# NNCF's masks, which are buffers of operations before a module: https://github.com/openvinotoolkit/nncf
NNCF = re.compile(r"(.+)\.pre_ops\.\d+\.op\.(?:(weight|bias)_ctx\.)?_?binary_mask")
NNCF_MODULE = "nncf_module."
# Names of masks, and of scores whose zeros a threshold decides (movement pruning), that are of no use alone.
LONE = re.compile(r".*(?:(?:weight|bias|binary)_mask|mask_scores)")
# Parts of compressed-tensors' bitmask formats, https://github.com/neuralmagic/compressed-tensors
VALUES, BITS, SHAPE, ROWS = ".compressed", ".bitmask", ".shape", ".row_offsets"
BITMASKS = ("sparse-bitmask", "sparse-24-bitmask", "dense")


@dataclass(frozen=True)
class Foreign:
    """Model as another library left it.

    Attributes:
        name: as the user gave it.
        files: of the weights; pickles, or safetensors.
        about: folder of the configuration and the tokenizer.
    """

    name: str
    files: list[Path]
    about: Path

    @property
    def key(self) -> str:
        """Hash of the content of all files that a conversion reads."""
        names = sorted(file for file in self.about.iterdir() if file.suffix in ABOUT and file.is_file())
        weights = [(file.suffix, file_hash(file)) for file in self.files]
        return key_of(weights, [(file.name, file_hash(file)) for file in names])

    @property
    def parent(self) -> str:
        """Key of the model as an input, as `content_key` has it for hub ids."""
        return self.key if Path(self.name).exists() else f"hub:{self.name}"


@dataclass(frozen=True)
class Converted:
    """Model that was read, and what was done for it.

    Attributes:
        model: in fp32.
        left_out: names in the file of the tensors that are not in `model`, without masks.
        masks: number of masks that were applied.
        lacking: name of the head's class that the configuration names and the file has not; None: it has all.
    """

    model: Any
    left_out: list[str]
    masks: int
    lacking: str | None


def find(source: str | Path, config: str | Path | None = None) -> Foreign:
    """Find the files of a model; of a hub id, download its data files.

    Args:
        source: file of weights, model folder or hub id.
        config: folder or hub id of the configuration and the tokenizer; None: they are beside the weights.

    Raises:
        UserError: there is no model, no configuration, or more than one file that could be the weights.
    """
    path = Path(source)
    folder = path.parent if path.is_file() else path if path.is_dir() else _download(str(source))
    files = [path] if path.is_file() else _weights(folder)
    if (folder / PROVENANCE).is_file():
        raise UserError(f"{folder} was made by pruneonce: there is nothing to convert")
    about = folder if config is None else Path(config) if Path(config).is_dir() else _download(str(config))
    if not (about / CONFIG).is_file():
        raise UserError(f"{about} has no {CONFIG}; give a folder with it and the tokenizer: `--config FOLDER`")
    return Foreign(str(source), files, about)


def _download(name: str) -> Path:
    """The cached folder of a hub id, with its data files; pickles only where there are no safetensors."""
    must_exist(name)
    from huggingface_hub import snapshot_download

    wanted = [*(f"*{ending}" for ending in ABOUT), "*.safetensors"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
        if not has_files(folder, WEIGHTS):
            folder = Path(snapshot_download(name, allow_patterns=[*wanted, "pytorch_model*.bin"]))
    except Exception as error:  # the hub is away, or has no such model
        raise UserError(f"cannot load a model from {name}: {first_line(error)}") from error
    return folder


def _weights(folder: Path) -> list[Path]:
    for name in (WEIGHTS, PICKLE):
        if has_files(folder, name):
            return weight_files(folder, name)
    found = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix in (*PICKLES, ".safetensors") and file.is_file() and not OTHER.fullmatch(file.name)
    ]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"{folder} has several files that could be the weights ({names}); give one of them as SOURCE")
    if not found:
        raise UserError(f"{folder} has no weights: no safetensors, and no {', '.join(PICKLES)}")
    return found


def read(foreign: Foreign, scratch: Path) -> Converted:
    """Read a model of another library.

    Args:
        foreign: as `find` gives it.
        scratch: empty folder for intermediate files; afterwards `scratch/about` has the configuration and the
            tokenizer, as the other functions of this package read them.

    Raises:
        UserError: a file is damaged or holds more than tensors, weights are missing, or the architecture is not
            supported.
    """
    about = scratch / "about"
    about.mkdir(parents=True)
    config = _copy_about(foreign, about)
    check_supported(config)
    _check_tokenizer(foreign, about)
    stored: dict[str, Stored] = {}
    for number, file in enumerate(foreign.files):
        files = [file] if file.suffix == ".safetensors" else _unpickled(file, scratch / f"read-{number}")
        for name, weight in _tensors(files).items():
            if name in stored:
                raise UserError(f"{foreign.name} has two tensors for {name}: in {stored[name].file} and {weight.file}")
            stored[name] = weight
    weights, masks = _plain(_unpacked(stored, scratch / "unpacked"), foreign.name)
    return _built(config, weights, masks, foreign.name)


def _copy_about(foreign: Foreign, folder: Path) -> PreTrainedConfig:
    """Copy the configuration and the tokenizer to `folder`; return the configuration."""
    for file in foreign.about.iterdir():
        if file.suffix in ABOUT and file.is_file() and file.name not in (CONFIG, INDEX, f"{PICKLE}.index.json"):
            shutil.copyfile(file, folder / file.name)
    copy_sentence_transformer(foreign.about, folder)
    values = read_json(foreign.about / CONFIG)
    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if not _is_bitmask(key, value)}
    values = checked(values, str(foreign.about / CONFIG))
    write_json(values, folder / CONFIG)
    return config_of(values, foreign.name)


def _check_tokenizer(foreign: Foreign, folder: Path) -> None:
    """Refuse a folder without a tokenizer, for which transformers would make one without words."""
    instead = "give a folder with the configuration and the tokenizer: `--config FOLDER`"
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{foreign.about} has no tokenizer ({', '.join(TOKENIZERS)}); {instead}")
    try:
        load_tokenizer(folder)
    except UserError as error:
        raise UserError(f"{str(error).replace(str(folder), str(foreign.about))}; {instead}") from error


def _is_bitmask(key: str, value: Any) -> bool:
    """Return whether an entry of a configuration says that weights are packed by bitmasks, and not quantized."""
    if key not in ("quantization_config", "compression_config") or not isinstance(value, dict):
        return False
    zeros = value.get("sparsity_config")
    is_ours = isinstance(zeros, dict) and zeros.get("format") in BITMASKS
    return is_ours and not value.get("config_groups") and not value.get("kv_cache_scheme")


def _unpickled(file: Path, folder: Path) -> list[Path]:
    """Read a pickle in a process of its own; return the safetensors files that it wrote.

    Raises:
        UserError: the file is damaged, holds more than tensors, or asks for too much memory or time.
    """
    folder.mkdir()
    seconds = SECONDS + SECONDS_PER_MB * (file.stat().st_size >> 20)
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    # `-P`: no module of the folder that the user is in.
    command = [sys.executable, "-P", "-m", "pruneonce.models.unpickling", file.absolute(), folder.absolute(), seconds]
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{file} takes more than {seconds} seconds to read, so it is damaged") from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise UserError(f"{file} is damaged: the process that read it ended with {how}") from None
    if "error" in answer:
        raise UserError(f"{file} {answer['error']}")
    return [folder / f"{number:05}.safetensors" for number in range(answer["files"])]


def _tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """All tensors of safetensors files, of any type."""
    found = {}
    for file in files:
        with reading(file), safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_slice(name)
                found[name] = Stored(file, name, tuple(tensor.get_shape()), tensor.get_dtype())
    return found


def _unpacked(stored: dict[str, Stored], folder: Path) -> dict[str, Stored]:
    """Write the tensors that compressed-tensors packed by bitmasks as plain ones.

    A packed tensor is its values other than zero, row by row, and a bit for each number, lowest first and rows filled
    up to whole bytes.
    """
    packed = [name.removesuffix(VALUES) for name in stored if name.endswith(VALUES) and _part(name, BITS) in stored]
    if not packed:
        return stored
    folder.mkdir()
    parts = {name + part for name in packed for part in (VALUES, BITS, SHAPE, ROWS)}
    found = {name: weight for name, weight in stored.items() if name not in parts}
    for number, name in enumerate(packed):
        file = folder / f"{number:05}.safetensors"
        save_file({name: _dense(name, {part: stored.get(name + part) for part in (VALUES, BITS, SHAPE)})}, file)
        found |= _tensors([file])
    return found


def _part(name: str, part: str) -> str:
    return name.removesuffix(VALUES) + part


def _dense(name: str, parts: Mapping[str, Stored | None]) -> Tensor:
    tensors = {part: _tensor(stored) for part, stored in parts.items() if stored is not None}
    shape = [int(size) for size in tensors[SHAPE].flatten()] if SHAPE in tensors else []
    values, bits = tensors[VALUES].flatten(), tensors[BITS]
    file = next(stored.file for stored in parts.values() if stored is not None)
    if len(shape) != 2 or min(shape) < 1 or bits.dtype != torch.uint8 or [*bits.shape] != [shape[0], -(-shape[1] // 8)]:
        raise UserError(f"{file} is damaged: the bitmask of {name} has not the shape of its weight")
    mask = torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, count=shape[1], bitorder="little")).bool()
    if int(mask.sum()) != len(values):
        raise UserError(f"{file} is damaged: the bitmask of {name} has another number of ones than there are values")
    dense = torch.zeros(shape, dtype=values.dtype)
    dense[mask] = values
    return dense


def _tensor(stored: Stored) -> Tensor:
    return read_weights({"": replace(stored, mask=None)})[""]


def _plain(stored: dict[str, Stored], where: str) -> tuple[dict[str, Stored], int]:
    """The floating-point tensors by their names in the model, with their masks; and the number of masks.

    Raises:
        UserError: a mask belongs to no weight, or is none.
    """
    renamed: dict[str, str] = {}
    for name in stored:
        if match := NNCF.fullmatch(name):
            renamed[f"{match[1]}.{match[2] or 'weight'}_mask"] = name
    for name in [name for name in stored if name not in set(renamed.values())]:
        renamed[f"{name}_orig" if f"{name}_mask" in renamed else name] = name
    names = unwrapped([name.replace(NNCF_MODULE, "") for name in renamed], where)
    by_name = {name.replace(NNCF_MODULE, ""): stored[old] for name, old in renamed.items()}
    weights, masks = {}, 0
    for short, (name, mask) in names.items():
        weights[short] = by_name[name]
        if mask is not None:
            weights[short] = replace(by_name[name], mask=_checked_mask(by_name[mask], by_name[name]))
            masks += 1
        elif LONE.fullmatch(short):
            raise UserError(
                f"{where} has {by_name[name].name}, from which the zeros of a weight follow, but no mask beside it; "
                "write the zeros into the weights with the library that pruned the model, and save it anew"
            )
    return weights, masks


def _checked_mask(mask: Stored, weight: Stored) -> Stored:
    if mask.shape != weight.shape:
        raise UserError(f"{mask.file.name} is damaged: {mask.name} has another shape than {weight.name}")
    if not np.isin(mask.read(), (0, 1)).all():
        raise UserError(f"{mask.name} is no mask: it has numbers other than 0 and 1")
    return mask


def _built(config: PreTrainedConfig, stored: dict[str, Stored], masks: int, where: str) -> Converted:
    """Build the model that the configuration names, or its encoder where the file has no head."""
    weights = {name: weight for name, weight in stored.items() if weight.dtype in FLOATS}
    inner = {name.removeprefix(OUTER): weight for name, weight in weights.items() if name.startswith(OUTER)}
    encoder = outline(AutoModel, config, dict.fromkeys(weights, ()), where)
    if len(wanted(encoder, inner)) > len(wanted(encoder, weights)):
        weights = inner  # a training library has the model as an attribute beside others
    shapes = {name: weight.shape for name, weight in weights.items()}

    def make(some_class: Any) -> tuple[Any, set[str]]:
        return build(some_class, config, shapes, lambda: read_weights(weights), where)

    lacking, named = None, class_of(config)
    model, missing = make(named)
    if any(POOLER not in name for name in missing):
        lacking = named.__name__
        model, missing = make(AutoModel)
    if missing:
        base_of(model).pooler = None  # type: ignore[assignment]
    kept = wanted(model, weights)
    pooler = {name for name in wanted(encoder, weights) - kept if POOLER in name}
    if pooler and type(model).__name__.endswith("ForMaskedLM"):
        # This head does without the pooler, which is pruned with the encoder, and classifiers want it.
        base_of(model).pooler, kept = make(AutoModel)[0].pooler, kept | pooler
    names = {weights[name].name for name in kept}
    return Converted(
        model, sorted(weight.name for weight in stored.values() if weight.name not in names), masks, lacking
    )
