"""Plugins: methods, with their hooks and the run that they see; the names of engines and export formats."""

from pruneonce.plugins.method import Method
from pruneonce.plugins.plugin import STAGES, Options, Plugin
from pruneonce.plugins.registry import engine_names, format_names, installed_engines, make, plugins

__all__ = [
    "STAGES",
    "Method",
    "Options",
    "Plugin",
    "engine_names",
    "format_names",
    "installed_engines",
    "make",
    "plugins",
]
