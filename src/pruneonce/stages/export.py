"""Export of a model folder for an inference engine: the model in its format, with tokenizer and configuration."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pruneonce import quantization
from pruneonce.errors import UserError
from pruneonce.export import FORMATS, Options, files, saturation, write
from pruneonce.models import (
    CERTIFICATE,
    LIBRARIES,
    PROVENANCE,
    content_key,
    copy_sentence_transformer,
    key_of,
    load_config,
    load_tokenizer,
    publish_folder,
)
from pruneonce.models.provenance import CONFIGURATION, configuration_of
from pruneonce.models.sentence_transformers import RERANKER, type_for
from pruneonce.recipe import Format
from pruneonce.stages.output import is_finished, rest_of, unfinished
from pruneonce.system import distributed, durable


def export(model: str | Path, output: Path, *, format: Format = "onnx", options: Options | None = None) -> Path:
    """Export any `model` that this package makes or takes; a quantized one with integer weights.

    Args:
        model: a model folder or hub id.
        output: gets the files of the format; tokenizer and configuration; the files of sentence-transformers where
            the source has them; `pruneonce.json` with provenance, including the hashes of the format's files.
        format: a name in `pruneonce.export.FORMATS`.
        options: None: the defaults.

    Raises:
        UserError: there is no such model, the format's extra is not installed, or an option does not suit the format
            or the model.
    """
    if format not in FORMATS:
        raise UserError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    options = options or Options()
    FORMATS[format].require(options)
    chosen = options.chosen()
    key = key_of("export", content_key(model), format, *([chosen] if chosen else []))
    if not is_finished(output, key, model):
        with unfinished(output, key, model) as begun:
            distributed.by_first(lambda: _write(model, begun, format, options, key))
            distributed.by_first(lambda: publish_folder(output))
    return output


def _write(model: str | Path, folder: Path, format: Format, options: Options, key: str) -> None:
    """Write the model, its tokenizer and configuration, and its provenance into `folder`."""
    write(format, model, folder, options)
    write_plain_files(model, folder)
    libraries = (*LIBRARIES, *FORMATS[format].libraries)
    provenance = {
        "stage": "export",
        "key": key,
        "source": str(model),
        "parents": [content_key(model)],
        CONFIGURATION: configuration_of(folder),
        **rest_of(folder),
        "settings": {"format": format, **options.chosen()},
        "files": files.hashes(folder, format),
        "weights": quantization.weights_of(model),
        **_saturation(model, options),
        "versions": {name: version(name) for name in libraries},
    }
    durable.write_json(provenance, folder / PROVENANCE)


def write_plain_files(model: str | Path, folder: Path) -> None:
    """Write all but the weights: configuration, tokenizer, files of sentence-transformers, certificate."""
    config = load_config(model)
    config.save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    kind = type_for(config)
    if kind == RERANKER or any(name.endswith("Model") for name in config.architectures or []):
        copy_sentence_transformer(model, folder, kind)
    if (Path(model) / CERTIFICATE).is_file():
        shutil.copyfile(Path(model) / CERTIFICATE, folder / CERTIFICATE)


def _saturation(model: str | Path, options: Options) -> dict[str, Any]:
    """Return the number of int8 layers of the export and of those that can overflow, if there are int8 layers."""
    if not quantization.is_quantized(model):
        return {}
    counts = saturation.counts(quantization.load(model))
    if options.safe:
        counts["overflowing"] = 0
    return {"saturation": counts} if counts["layers"] else {}
