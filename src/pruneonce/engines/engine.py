"""Declaration of an engine. The module is free of torch: a recipe that names engines is read without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruneonce.system.packages import is_installed, need

if TYPE_CHECKING:
    from pruneonce.engines.session import Session


@dataclass(frozen=True)
class Engine:
    """Engine, as its file in this package declares it.

    Attributes:
        name: in recipes, on the command line and in benchmarks.
        title: for people.
        library: the module that running a model imports, which is its distribution's name too (`-` and `_` are equal).
        open: opens a model: called with a folder or, where the engine reads a format, with that format's first file;
            with the number of threads (None: as many as PyTorch has); and with whether activations stay fp32.
        format: name of the export format that it reads; None: it opens model folders as they are.
        extra: of this package, which installs `library`; None: this package does so itself.
        runs_integers: whether a quantized model is calculated with integers; False: it is simulated in fp32, which is
            no faster.
        opens_packed: whether it opens packed files as well, which are for this engine alone.
        alternatives: opens a model with other settings of equal results, one of which may be faster: called with the
            same file and number of threads as `open`, it gives a session by the name of what is set.
        limits: why it cannot run models with this configuration as they were saved, as the end of a sentence; None:
            it can. Engines without `limits` run all models.
    """

    name: str
    title: str
    library: str
    open: Callable[[str | Path, int | None, bool], Session]
    format: str | None = None
    extra: str | None = None
    runs_integers: bool = True
    opens_packed: bool = False
    alternatives: Callable[[str | Path, int | None], dict[str, Session]] = lambda file, threads: {}
    limits: Callable[[Any], str | None] = lambda config: None

    @property
    def is_installed(self) -> bool:
        return self.extra is None or is_installed(self.library)

    def require(self) -> None:
        """Raise unless the engine can run here.

        Raises:
            UserError: its library is not installed.
        """
        if self.extra is not None:
            need(self.library, self.extra)
