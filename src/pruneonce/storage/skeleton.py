"""Model without weights, from its configuration: the parts and the required shapes of its tensors."""

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
    """Architecture of a model on torch's meta device, which costs no memory and no time.

    Args:
        config: content of config.json.
        shapes: shape of each tensor of the model, which bounds the numbers of its configuration.

    Raises:
        UserError: the configuration describes no model, or a model with other shapes.
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
        """Name of a tensor in the base model, the same with any head."""
        return name.removeprefix(self._prefix)

    def parts(self, names: list[str]) -> dict[str, str]:
        """Part of each tensor: `encoder` (pruned weights), `embeddings` (tables), or `rest`.

        Raises:
            UserError: the architecture is not supported, or no tensor belongs to the encoder.
        """
        encoder = set(prunable_weights(self.model))
        tables = {f"{name}.weight" for name in embedding_tables(self.model)}
        part_of = {
            name: "encoder" if short in encoder else "embeddings" if short in tables else "rest"
            for name, short in ((name, self.relative(name)) for name in names)
        }
        if "encoder" not in part_of.values():
            raise UserError("no tensor of the encoder is in model.safetensors")
        return part_of


def class_of(config: Any) -> Any:
    """Class of the saved model; the bare encoder if the configuration does not name it."""
    saved = getattr(transformers, next(iter(config.architectures or []), ""), None)
    if isinstance(saved, type) and issubclass(saved, PreTrainedModel) and saved.config_class is type(config):
        return saved
    return AutoModel._model_mapping[type(config)]


def _check_numbers(config: bytes, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a configuration with numbers so large (of layers, labels) that transformers would never end."""
    try:
        values = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise UserError(f"config.json is damaged: {error}") from None
    check_bounds(values, CONFIG, max([MOST, *(size for shape in shapes.values() for size in shape)]))
