"""The one door for models: loading of models, tokenizers and configurations for transformers' classes.

Weights come from safetensors only, and remote code never runs. The names and shapes in the files' headers are compared
with the architecture, on torch's meta device, before memory is taken. transformers fills weights that a file lacks with
random numbers; here only a head, a pooler and tied weights may be missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors import safe_open
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key
from transformers.initialization import no_init_weights

from pruneonce.console import logger, note
from pruneonce.errors import UserError
from pruneonce.models.given_roles import KEY, given_in
from pruneonce.models.provenance import is_as_written
from pruneonce.models.source import (
    CONFIG,
    Stored,
    checked,
    hub_reason,
    local_files,
    must_exist,
    not_finite,
    panics_as_errors,
    read_config,
    reading,
    stored_weights,
    unread_type,
)
from pruneonce.system.durable import read_json
from pruneonce.wording import as_in_file, first_line

Shapes = Mapping[str, tuple[int, ...]]

# Numbers that a new head and a new pooler may have together: as many as the file, and these besides.
NEW = 1 << 22
POOLER = "pooler."
UNMERGED = {
    "lora_": "merge the adapter into the model first (`merge_and_unload` of peft)",
    "parametrizations.": "remove the parametrizations first (`torch.nn.utils.parametrize.remove_parametrizations`)",
}
# Weights of an encoder without which it calculates something else.
UNREAD = {
    **UNMERGED,
    "distance_embedding": "transformers has no relative positions for this architecture any more; give another model",
}


class MissingWeightsError(UserError):
    """Error for a model without all weights; `names` are those that are missing, as in the model."""

    def __init__(self, message: str, names: list[str]):
        super().__init__(message)
        self.names = names


def load_model(auto_class: Any, source: str | Path, **config: Any) -> Any:
    """Load a model of `auto_class` in fp32, its head new where the file has none; `config` overrides its configuration.

    Raises:
        UserError: as `load_reporting`.
    """
    return load_reporting(auto_class, source, **config)[0]


def load_reporting(auto_class: Any, source: str | Path, **config: Any) -> tuple[Any, set[str]]:
    """Load a model as `load_model` does; return it with the names of newly initialised parameters.

    Args:
        auto_class: an Auto class of transformers, or a model's class.
        source: model folder or hub id.
        config: changes of the configuration.

    Raises:
        UserError: there is no model, or no safetensors weights; the configuration names code to run, or another model
            than the weights are of; the weights are not those that this package wrote, or some are not finite.
    """
    with _loading("load a model", source):
        folder = local_files(source)
        is_as_written(folder)
        configuration = config_of(read_config(folder), source, **config)
        stored = stored_weights(folder)
        shapes = {name: weight.shape for name, weight in stored.items()}
        with _types_named(folder):
            model, missing = build(auto_class, configuration, shapes, lambda: read_weights(stored), str(source))
        model.config.name_or_path = str(source)
    logger.debug("%s loaded from %s", type(model).__name__, source)
    return model, missing


def check_weights(source: str | Path, auto_class: Any = AutoModel) -> Any:
    """Check that the files of a model have all weights of its encoder, without reading the numbers.

    Args:
        source: model folder or hub id.
        auto_class: an Auto class of transformers, or a model's class.

    Returns:
        The model on torch's meta device.

    Raises:
        UserError: as `load_reporting`.
    """
    with _loading("load a model", source):
        folder = local_files(source)
        is_as_written(folder)
        shapes = {name: weight.shape for name, weight in stored_weights(folder).items()}
        with _types_named(folder):
            model = outline(auto_class, config_of(read_config(folder), source), shapes, str(source))
            fit(model, shapes, str(source))
    return model


@contextmanager
def _types_named(folder: Path) -> Generator[None, None, None]:
    """Say of weights that seem to be missing if they are there as numbers of a type that is not read."""
    try:
        yield
    except MissingWeightsError as error:
        raise unread_type(folder, error.names) or error from None


def build(
    auto_class: Any, config: PreTrainedConfig, shapes: Shapes, read: Callable[[], dict[str, Tensor]], where: str
) -> tuple[Any, set[str]]:
    """Build a model in fp32 of a configuration and weights; return it with the names of new parameters.

    Args:
        auto_class: an Auto class of transformers, or a model's class.
        config: the configuration.
        shapes: of the weights, by name.
        read: reads the weights; called once their names and shapes are known to fit.
        where: the model, for messages.

    Raises:
        UserError: the weights are of another model, incomplete, or not finite.
    """
    outlined = outline(auto_class, config, shapes, where)
    fit(outlined, shapes, where)
    model, info = type(outlined).from_pretrained(
        None, config=config, state_dict=read(), dtype=torch.float32, output_loading_info=True
    )
    missing = set(info["missing_keys"])
    _check_missing(model, missing, [*shapes], where)
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise not_finite(where, name)
    return model, missing


def outline(auto_class: Any, config: PreTrainedConfig, shapes: Shapes, where: str) -> Any:
    """Model on torch's meta device, which costs no memory and hardly time.

    Args:
        auto_class: an Auto class of transformers, or a model's class.
        config: the configuration.
        shapes: of the weights in the file, which bound the number of layers.
        where: the model, for messages.

    Raises:
        UserError: the configuration asks for more layers than the file has weights.
    """
    layers = getattr(config, "num_hidden_layers", 0)
    if layers > len(shapes):
        message = f"{where} has {len(shapes)} weights in all, and its {CONFIG} asks for {layers} layers"
        raise MissingWeightsError(message, [])
    is_class = isinstance(auto_class, type) and issubclass(auto_class, PreTrainedModel)
    make = auto_class._from_config if is_class else auto_class.from_config
    with torch.device("meta"), no_init_weights():  # numbers for them can take forever, as sinusoidal positions do
        return make(config, dtype=torch.float32)


def fit(model: Any, shapes: Shapes, where: str) -> dict[str, str]:
    """Names in the model by the names of the file's weights that the architecture wants, checked to be all of them.

    Args:
        model: as `outline` gives it.
        shapes: of the floating-point tensors in the file, by their names without those of wrappers.
        where: the model, for messages.

    Returns:
        Empty for an architecture whose tensors transformers splits or joins; the names are then known once it has.

    Raises:
        UserError: a weight is missing or has another shape, the architecture is far larger than the file, or the file
            has weights of the encoder that transformers does not read.
    """
    numbers = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    expected = {name: tuple(tensor.shape) for name, tensor in numbers.items()}
    _check_size(model, expected, shapes, where)
    names = names_in(model, shapes)
    if names is None:
        _check_left_out(model, shapes, where)
        return {}
    by_name: dict[str, str] = {}
    for name, inner in names.items():
        if inner in by_name:
            raise UserError(f"{where} has two tensors for {inner}: {by_name[inner]} and {name}")
        by_name[inner] = name
        if shapes[name] != expected[inner]:
            raise UserError(
                f"{where} has {name} of shape {list(shapes[name])}, and {CONFIG} asks for {list(expected[inner])}"
            )
    _check_missing(model, expected.keys() - by_name.keys(), [name for name in shapes if name not in names], where)
    _check_left_out(model, shapes, where)
    return names


def names_in(model: Any, names: Iterable[str]) -> dict[str, str] | None:
    """Names in a model of the tensors of a state dict that its architecture wants; other tensors are left out.

    transformers' own rules: names with the prefix of the base model or without it, and names of earlier versions.

    Args:
        model: as `outline` gives it.
        names: of the tensors, without those of wrappers, see `pruneonce.models.source.unwrapped`.

    Returns:
        None for an architecture whose tensors transformers splits or joins.
    """
    if any(isinstance(rule, WeightConverter) for rule in get_model_conversion_mapping(model)):
        return None
    return _places(model, names)


def wanted(model: Any, names: Iterable[str]) -> set[str]:
    """Names, of those of a state dict, that an architecture wants, also where transformers splits or joins tensors.

    Args:
        model: as `outline` gives it, or a model.
        names: as for `names_in`.
    """
    return set(_places(model, names))


def _places(model: Any, names: Iterable[str]) -> dict[str, str]:
    rules: Any = get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if rule not in converters]
    expected = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    found = {}
    for name in names:
        inner, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
        if inner not in expected:
            inner, _ = rename_source_key(name, [], [], model.base_model_prefix, expected)
        if inner in expected:
            found[name] = inner
    return found


def _check_size(model: Any, expected: Shapes, shapes: Shapes, where: str) -> None:
    """Refuse an architecture whose numbers are not in the file, before memory is taken for them."""
    tied = model.all_tied_weights_keys
    wanted = sum(prod(shape) for name, shape in expected.items() if name not in tied)
    stored = sum(map(prod, shapes.values()))
    if wanted > 2 * stored + NEW:
        raise UserError(
            f"{where} has {stored:,} numbers in its file, and {CONFIG} describes a model of {wanted:,}; it is the "
            "configuration of another model"
        )


def _check_left_out(model: Any, names: Iterable[str], where: str) -> None:
    """Say which weights of an encoder have no place in the architecture; refuse those of `UNREAD`."""
    read = wanted(model, names)
    parts = {name for name, _ in getattr(model, model.base_model_prefix, model).named_children()} - {"pooler"}
    ignored = model._keys_to_ignore_on_load_unexpected or []
    left_out = [
        name
        for name in sorted(names)
        if name not in read
        and name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0] in parts
        and not name.endswith("inv_freq")  # of rotary positions, which follows from the configuration
        and not any(re.search(pattern, name) for pattern in ignored)
    ]
    for text, remedy in UNREAD.items():
        if unread := next((name for name in left_out if text in name), None):
            raise UserError(f"{where} has {unread}, which would be left out; {remedy}")
    if left_out:
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        _note_once(f"{where} has weights that its {CONFIG} has no place for; left out: {left_out[0]}{more}")


@cache
def _note_once(line: str) -> None:
    note(line)


def _check_missing(model: Any, missing: set[str], others: list[str], where: str) -> None:
    """Refuse a model without all weights, other than a whole head, the pooler and tied weights.

    Args:
        model: the model.
        missing: names of the parameters without weights.
        others: names in the file that are not in the model.
        where: the model, for messages.
    """
    tied = model.all_tied_weights_keys
    missing = {name for name in missing if not _has_twin(name, tied, missing)}
    prefix = f"{model.base_model_prefix}."
    has_head = hasattr(model, model.base_model_prefix)
    present = {_part(name, prefix, has_head) for name in model.state_dict().keys() - missing - tied.keys()}
    lacking = sorted(name for name in missing if _part(name, prefix, has_head) in {*present, None})
    if not lacking:
        return
    for text, remedy in UNMERGED.items():
        if any(text in name for name in others):
            raise UserError(f"{where} has no weights for {lacking[0]}, but parts of it; {remedy}")
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    instead = f"; it has {others[0]} instead" if others else ""
    raise MissingWeightsError(
        f"{where} has no weights for {lacking[0]}{more}, which would be random{instead}; save the whole model anew, "
        f"with its own {CONFIG}",
        lacking,
    )


def _has_twin(name: str, tied: Mapping[str, str], missing: set[str]) -> bool:
    """Return whether a missing parameter is tied to one that is there."""
    sources = {tied[name]} if name in tied else set()
    twins = {target for target, source in tied.items() if source in {name, *sources}}
    return any(twin not in missing for twin in (sources | twins) - {name})


def _part(name: str, prefix: str, has_head: bool) -> str | None:
    """The part of a model that a file has whole or not at all; None for the encoder, which it always has."""
    inner = name.removeprefix(prefix)
    if inner.startswith(POOLER):
        return POOLER
    if not has_head or inner != name:
        return None
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first == "cls" else first  # BERT's two heads


def read_weights(stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """Read weights with PyTorch, mapped into memory, and their masks applied."""
    files: dict[Path, list[str]] = {}
    for name, weight in stored.items():
        files.setdefault(weight.file, []).append(name)
    tensors = {}
    for file, names in files.items():
        with reading(file), safe_open(file, framework="pt") as opened:
            for name in names:
                mask = stored[name].mask
                tensor = opened.get_tensor(stored[name].name)
                tensors[name] = tensor if mask is None else tensor * torch.from_numpy(mask.read()).to(tensor.dtype)
    return tensors


def load_encoder(source: str | Path, **config: Any) -> Any:
    """Load the bare encoder, whatever head it was saved with; without a pooler if the file has none."""
    model, missing = load_reporting(AutoModel, source, **config)
    if any(name.startswith("pooler.") for name in missing):
        model.pooler = None  # transformers would leave it random
    return model


def load_as_saved(source: str | Path) -> Any:
    """Load a model as it was saved, with its head or without a head.

    Raises:
        UserError: as in `load_reporting`, or the head is missing.
    """
    config = load_config(source)
    named = next(iter(config.architectures or []), "none")
    saved = class_of(config)
    if saved.__name__ != named and not hasattr(transformers, named):
        raise UserError(f"{source} has a config.json whose `architectures` names no class of transformers: {named}")
    if saved.__name__.endswith("Model"):
        return load_encoder(source)
    model, missing = load_reporting(saved, source)
    return whole(model, missing, source)


def whole(model: Any, missing: set[str], source: str | Path) -> Any:
    """The model without a pooler that would be random.

    Args:
        model: the model.
        missing: names of its new parameters.
        source: the model, for the message.

    Raises:
        UserError: other parameters are new.
    """
    if lacking := sorted(name for name in missing if POOLER not in name):
        raise UserError(f"{source} has no weights for {lacking[0]}, which would be random; save the whole model anew")
    if missing:
        getattr(model, model.base_model_prefix, model).pooler = None
    return model


def class_of(config: Any) -> Any:
    """Class of the saved model; the bare encoder if the configuration does not name it."""
    saved = getattr(transformers, next(iter(config.architectures or []), ""), None)
    if isinstance(saved, type) and issubclass(saved, PreTrainedModel) and saved.config_class is type(config):
        return saved
    return AutoModel._model_mapping[type(config)]


def load_vocabulary_model(source: Any, **config: Any) -> tuple[Any, bool]:
    """Load a model with its MLM head; return it with True if the head is new (the source had none).

    BERT is loaded as `BertForPreTraining`, which keeps the pooler: the pooler is pruned with the encoder, and
    classifiers need it.
    """
    model_type = load_config(source).model_type
    auto = AutoModelForPreTraining if model_type == "bert" else AutoModelForMaskedLM
    model, missing = load_reporting(auto, source, **config)
    head = {name for name in missing if not name.startswith((f"{model.base_model_prefix}.", "cls.seq_relationship"))}
    return model, bool(head)


def load_tokenizer(source: str | Path) -> Any:
    """Load the tokenizer of a model folder or hub id.

    Raises:
        UserError: there is no model, its tokenizer is damaged or has no vocabulary, its settings give a key two values,
            or it has tokens that the model's table has not.
    """
    read_json(Path(source) / "tokenizer_config.json")
    with _loading("load a tokenizer", source):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    vocabulary = tokenizer.get_vocab()  # of special tokens alone where transformers found no files
    if not vocabulary.keys() - set(tokenizer.all_special_tokens):
        raise UserError(
            f"{source} has no vocabulary: its tokenizer knows no word; copy the files of the tokenizer "
            "(tokenizer.json, tokenizer_config.json) of the model that it was trained from into it"
        )
    rows = getattr(load_config(source), "vocab_size", None)
    highest = max(vocabulary.values())
    if isinstance(rows, int) and highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise UserError(
            f"the tokenizer of {source} has {highest + 1:,} tokens, and its model a table of {rows:,}: no vector for "
            f"{token!r}; give the tokenizer that the model was trained with, or a model whose table was resized"
        )
    return tokenizer


def load_config(source: str | Path) -> Any:
    """Load the configuration of a model folder or hub id.

    Raises:
        UserError: there is no model, or its configuration is damaged or names code to run.
    """
    with _loading("read a model configuration", source):
        if Path(source).is_dir():
            return config_of(read_config(Path(source)), source)
        values, _ = PreTrainedConfig.get_config_dict(str(source))
        return config_of(checked(values, f"{source}/{CONFIG}"), source)


def config_of(values: Mapping[str, Any], source: str | Path, **changes: Any) -> PreTrainedConfig:
    """The configuration object of a checked configuration.

    Args:
        values: as `pruneonce.models.source.checked` returns them; an `auto_map` is left out where transformers has the
            architecture itself.
        source: the model, for messages.
        changes: of the configuration.

    Raises:
        UserError: transformers does not have the architecture.
    """
    model_type: Any = values.get("model_type")
    if model_type not in CONFIG_MAPPING:
        if "auto_map" in values:
            raise UserError(
                f"cannot load {source}: it wants to run code of its own, which pruneonce never does; use a model of an "
                "architecture that transformers has"
            )
        raise UserError(f"transformers has no architecture {model_type!r}, the `model_type` in {CONFIG}")
    known = {name: value for name, value in values.items() if name != "auto_map"}
    try:
        config = CONFIG_MAPPING[model_type].from_dict(known, **changes)
    except StrictDataclassFieldValidationError as error:
        raise _wrong_value(known, error, f"{source}/{CONFIG}") from None
    if roles := given_in(known):
        setattr(config, KEY, roles)  # saved with each model that is made of this one
    config.name_or_path = str(source)
    return config


def _wrong_value(values: Mapping[str, Any], error: StrictDataclassFieldValidationError, file: str) -> UserError:
    """The error for a value that transformers does not take for a key of a configuration."""
    found = re.search(r"field '(\w+)'", str(error))
    name = found[1] if found else ""
    if name not in values:
        return UserError(f"{file} is damaged: {' '.join(str(error).split())}")
    value = values[name]
    try:
        is_number = isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        is_number = False
    if is_number:
        return UserError(f"{file}: `{name}` is the text {as_in_file(value)}; write it as a number, without quotes")
    return UserError(
        f"{file}: `{name}` cannot be {as_in_file(value)}: {first_line(error.__cause__ or error)}; correct it"
    )


@contextmanager
def _loading(what: str, source: str | Path) -> Generator[None, None, None]:
    """Turn the exceptions of transformers about a wrong folder or hub id into a `UserError` of one line."""
    must_exist(source)
    try:
        with panics_as_errors(f"cannot {what} from {source}"):
            yield
    except UserError:
        raise
    except Exception as error:  # damaged and malicious files fail anywhere in transformers, in any way
        if "trust_remote_code" in str(error):
            raise UserError(
                f"cannot {what} from {source}: it wants to run code of its own, which pruneonce never does; use "
                "a model of an architecture that transformers has"
            ) from error
        raise UserError(f"cannot {what} from {source}: {hub_reason(error)}") from error


def without_dropout(config: Any, dropout: float | None) -> dict[str, float]:
    """Configuration overrides that set every dropout probability to `dropout`; empty if it is None."""
    return {} if dropout is None else dict.fromkeys(dropouts(config), dropout)


def dropouts(config: Any) -> list[str]:
    """Names of the dropout probabilities in a configuration."""
    return [
        key
        for key, value in config.to_dict().items()
        if "dropout" in key and isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
