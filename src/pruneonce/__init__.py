"""pruneonce: prune a Transformer encoder once, fine-tune the sparse model on any task with its zeros locked.

The stages are functions of the same names in `pruneonce.stages`; a whole run is `pruneonce.runs.pipeline.run`.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from pruneonce.errors import UserError

__version__ = version("pruneonce")
__all__ = ["UserError", "__version__", "load"]


def load(path: str | Path, member: str | None = None) -> Any:
    """Load a torch model, ready for use, from a packed file or a model folder.

    See `pruneonce.storage.load`.
    """
    from pruneonce import storage  # imports torch
    from pruneonce.system.libraries import silenced

    with silenced():
        return storage.load(path, member)
