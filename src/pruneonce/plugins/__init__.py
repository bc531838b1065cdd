"""How a method plugs into training: its hooks, its registration, the run that it sees."""

from pruneonce.plugins.method import Method
from pruneonce.plugins.plugin import STAGES, Options, Plugin
from pruneonce.plugins.registry import make, plugins

__all__ = ["STAGES", "Method", "Options", "Plugin", "make", "plugins"]
