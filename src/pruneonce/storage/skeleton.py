"""Model without weights, from its configuration: the parts and the required shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pruneonce.errors import UserError
from pruneonce.models.architectures import embedding_tables, prunable_weights
from pruneonce.models.loading import class_of, config_of, fit, outline
from pruneonce.models.source import CONFIG, MOST, checked
from pruneonce.system.durable import TwoValuesError, parse_json
from pruneonce.wording import first_line


class Skeleton:
    """Architecture of a model on torch's meta device, which costs no memory and no time.

    Args:
        config: content of config.json.
        shapes: shape of each floating-point tensor of the model; they bound the numbers of its configuration.

    Raises:
        UserError: the configuration describes no model, or a model with other or further weights.
    """

    def __init__(self, config: bytes, shapes: Mapping[str, tuple[int, ...]]) -> None:
        values = _checked(config, shapes)
        try:
            self.config = config_of(values, CONFIG)
            self.model_class = class_of(self.config)
            self.model: nn.Module = outline(self.model_class, self.config, shapes, "it")
            self._prefix = f"{self.model_class.base_model_prefix}."
            names = {self.relative(name) for name in self.model.state_dict()}
            if not any(self.relative(name) in names for name in shapes):
                raise UserError("config.json describes another model than the weights are of")
            fit(self.model, shapes, "it")
        except UserError:
            raise
        except Exception as error:  # a damaged configuration fails anywhere inside transformers, in any way
            raise UserError(f"config.json does not describe a model: {first_line(error)}") from error

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


def _checked(config: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The configuration, checked before transformers sees it."""
    try:
        values = parse_json(config)
    except TwoValuesError as error:
        raise UserError(f"config.json: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"config.json is damaged: {error}") from None
    return checked(values, CONFIG, max([MOST, *(size for shape in shapes.values() for size in shape)]))
