"""Declaration of an export format. The module is free of torch: a recipe that names formats is read without it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pruneonce.errors import UserError
from pruneonce.system.packages import need

OPSETS = range(17, 22)  # LayerNormalization came with 17; 21 is the first with 4-bit integers and grouped scales


@dataclass(frozen=True)
class Options:
    """Choices in writing a model; the defaults suit most engines.

    Attributes:
        opset: version of the ONNX operators, in `OPSETS`.
        fp16: whether fp32 matrices are stored in 16 bits. They are widened when a model is loaded or run, so that
            inputs, outputs and calculation stay as they are.
        single_output: whether a bare encoder gives its hidden states alone, without the output of its pooler.
        tokenizer: whether the tokenizer is written as an OpenVINO model too.
        safe: whether int8 weights are fitted to processors that sum products in 16 bits, see
            `pruneonce.export.saturation`.
    """

    opset: int = OPSETS[-1]
    fp16: bool = False
    single_output: bool = False
    tokenizer: bool = False
    safe: bool = False

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise UserError(f"opset {self.opset} cannot be written; choose one of {OPSETS[0]} to {OPSETS[-1]}")

    def chosen(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return {one.name: value for one in fields(self) if (value := asdict(self)[one.name]) != one.default}

    def only(self, names: Collection[str]) -> Options:
        """Return the options of these names; all others have their defaults."""
        return Options(**{name: value for name, value in self.chosen().items() if name in names})


@dataclass(frozen=True)
class Format:
    """Export format, as its file in this package declares it.

    Attributes:
        name: in recipes, on the command line and behind the arm in the name of an exported folder.
        files: names of the files that make the model; an engine opens the first one.
        extra: of this package, to install.
        modules: that writing the format imports.
        libraries: whose versions the provenance of an exported folder records.
        write: writes `files` into a folder and returns the first; called with a model folder (or hub id) or, where the
            format is `made_from` another one, with that one's first file; a format with `options` gets them third.
        more_names: further names that clients look for the first file under, by the number format of its weights.
        made_from: name of the format that this one is converted from; None: it is written from the model.
        options: names of the `Options` that it takes.
        optional_files: names of files that some options add.
    """

    name: str
    files: tuple[str, ...]
    extra: str
    modules: tuple[str, ...]
    libraries: tuple[str, ...]
    write: Callable[..., Path]
    made_from: str | None = None
    more_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    options: frozenset[str] = frozenset()
    optional_files: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Return the name of the file that an engine opens."""
        return self.files[0]

    def require(self, options: Options | None = None) -> None:
        """Raise unless the format can be written here, with these options.

        Raises:
            UserError: one of `modules` is not installed; the format does not take an option.
        """
        for name in options.chosen() if options else {}:
            if name not in self.options:
                raise UserError(f"the format {self.name} takes no --{name.replace('_', '-')}")
        for module in self.modules:
            need(module, self.extra)
