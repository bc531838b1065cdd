"""A model without weights, from its configuration: which tensors are what, and which shapes they must have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from pruneonce.errors import UserError
from pruneonce.models.architectures import embedding_tables, prunable_weights
from pruneonce.models.source import CONFIG, MOST, check_bounds, first_line


class Skeleton:
    """The architecture of a model, on torch's meta device: no memory, no time.

    Args:
        config: content of config.json.
        shapes: shape of each tensor of the model, which bounds what its configuration may ask for.

    Raises:
        UserError: the configuration describes no model, or one with other shapes.
    """

    def __init__(self, config: bytes, shapes: Mapping[str, tuple[int, ...]]) -> None:
        _check_numbers(config, shapes)
        try:
            with TemporaryDirectory() as folder:
                (Path(folder) / "config.json").write_bytes(config)
                self.config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            if self.config.num_hidden_layers > len(shapes):
                raise ValueError(f"{self.config.num_hidden_layers} layers, but {len(shapes)} tensors")
            self.model_class = class_of(self.config)
            with torch.device("meta"):
                self.model: nn.Module = self.model_class._from_config(self.config)
        except Exception as error:  # a damaged configuration fails anywhere inside transformers, in any way
            raise UserError(f"config.json does not describe a model: {first_line(error)}") from error
        self._prefix = f"{self.model_class.base_model_prefix}."
        self._check_shapes(shapes)

    def _check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        expected = {self.relative(name): tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        for name, shape in shapes.items():
            if expected.get(self.relative(name), shape) != shape:
                raise UserError(f"{name} has shape {list(shape)}, and config.json asks for another")
        if not any(self.relative(name) in expected for name in shapes):
            raise UserError("config.json describes another model than the weights are of")

    def relative(self, name: str) -> str:
        """A tensor's name in the base model, the same whatever the head."""
        return name.removeprefix(self._prefix)

    def parts(self, names: list[str]) -> dict[str, str]:
        """Each tensor's part: `encoder` (what is pruned), `embeddings` (tables), or `rest`.

        Raises:
            UserError: the architecture is not supported, or no name is one of the encoder.
        """
        encoder = set(prunable_weights(self.model))
        tables = {f"{name}.weight" for name in embedding_tables(self.model)}
        found = {
            name: "encoder" if short in encoder else "embeddings" if short in tables else "rest"
            for name, short in ((name, self.relative(name)) for name in names)
        }
        if "encoder" not in found.values():
            raise UserError("no tensor of the encoder is in model.safetensors")
        return found


def class_of(config: Any) -> Any:
    """The class that the model was saved from; the bare encoder where that is not said."""
    named = getattr(transformers, next(iter(config.architectures or []), ""), None)
    if isinstance(named, type) and issubclass(named, PreTrainedModel) and named.config_class is type(config):
        return named
    return AutoModel._model_mapping[type(config)]


def _check_numbers(config: bytes, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Numbers of layers or labels without bound would keep transformers busy for ever."""
    try:
        values = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise UserError(f"config.json is damaged: {error}") from None
    check_bounds(values, CONFIG, max([MOST, *(size for shape in shapes.values() for size in shape)]))
