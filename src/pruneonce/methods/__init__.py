"""Methods beside gradual magnitude pruning, each a plug-in in a folder of its own (docs/methods.md)."""

from pruneonce.methods.method import Method
from pruneonce.methods.plugin import STAGES, Options, Plugin
from pruneonce.methods.registry import make, plugins

__all__ = ["STAGES", "Method", "Options", "Plugin", "make", "plugins"]
