"""Declaration of an export format. The module is free of torch: a recipe that names formats is read without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pruneonce.system.packages import need


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
            format is `made_from` another one, with that one's first file.
        more_names: further names that clients look for the first file under, by the number format of its weights.
        made_from: name of the format that this one is converted from; None: it is written from the model.
    """

    name: str
    files: tuple[str, ...]
    extra: str
    modules: tuple[str, ...]
    libraries: tuple[str, ...]
    write: Callable[[str | Path, Path], Path]
    made_from: str | None = None
    more_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Return the name of the file that an engine opens."""
        return self.files[0]

    def require(self) -> None:
        """Raise unless the format can be written here.

        Raises:
            UserError: one of `modules` is not installed.
        """
        for module in self.modules:
            need(module, self.extra)
