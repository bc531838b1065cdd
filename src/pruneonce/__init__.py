"""pruneonce: prune a Transformer encoder once, fine-tune the sparse model on any task with its zeros locked.

The stages are functions of the same names in `pruneonce.stages`; a whole run is `pruneonce.pipeline.run`.
"""

from importlib.metadata import version

from pruneonce.errors import UserError

__version__ = version("pruneonce")
__all__ = ["UserError", "__version__"]
