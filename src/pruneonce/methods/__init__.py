"""Methods other than gradual magnitude pruning, each a plug-in in its own folder (docs/methods.md)."""

from pruneonce.plugins.method import Method
from pruneonce.plugins.plugin import STAGES, Options, Plugin
from pruneonce.plugins.registry import make, plugins

__all__ = ["STAGES", "Method", "Options", "Plugin", "make", "plugins"]
