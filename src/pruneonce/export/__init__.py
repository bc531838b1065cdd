"""Export of models in the formats of inference engines. Each format is a file of this package that declares a `FORMAT`.

The import is light: torch and the engines' libraries are imported when a model is written.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from pruneonce.export import onnx, openvino
from pruneonce.export.format import OPSETS, Format, Options
from pruneonce.export.onnx import to_onnx

__all__ = ["FORMATS", "OPSETS", "Format", "Options", "to_onnx", "to_openvino", "write"]

# Every format by its name; every list of formats is made from this table.
FORMATS: dict[str, Format] = {one.name: one for one in (onnx.FORMAT, openvino.FORMAT)}


def write(format: str, source: str | Path, folder: Path, options: Options | None = None) -> Path:
    """Write a model in a format of `FORMATS`: its files into `folder`, and nothing else.

    Args:
        format: a name in `FORMATS`.
        source: any model folder (or hub id), as for `to_onnx`.
        folder: made where it is missing.
        options: None: the defaults.

    Returns:
        The file that an engine opens.

    Raises:
        UserError: there is no model, the format's extra is not installed, or the format does not take an option.
    """
    declared, options = FORMATS[format], options or Options()
    declared.require(options)
    arguments = [options] if declared.options else []
    if declared.made_from is None:
        return declared.write(source, folder, *arguments)
    if options.tokenizer:
        openvino.write_tokenizer(source, folder)
    with TemporaryDirectory() as scratch:
        first = write(declared.made_from, source, Path(scratch), options.only(FORMATS[declared.made_from].options))
        return declared.write(first, folder, *arguments)


def to_openvino(source: str | Path, folder: Path) -> Path:
    """Write `openvino_model.xml` and `openvino_model.bin` into `folder`; as `write`."""
    return write("openvino", source, folder)
