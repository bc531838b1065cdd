"""Registry of plugins by name: methods, engines and export formats.

A recipe names them, and their packages stand above the recipe. So they are imported by their names here, and all of
them are light. Methods are ours, and those that other packages register under the entry point `pruneonce.methods`.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from pruneonce.plugins.method import Method
from pruneonce.plugins.plugin import Options, Plugin

GROUP = "pruneonce.methods"
BUILT_IN = ("obert", "block_lasso", "cram", "quant_noise")  # packages of pruneonce.methods, each with a `plugin`


@cache
def plugins() -> dict[str, Plugin]:
    """Return all methods by name. A method of another package that cannot be loaded is left out with a warning."""
    built_in = [import_module(f"pruneonce.methods.{name}").plugin for name in BUILT_IN]
    by_name: dict[str, Plugin] = {plugin.name: plugin for plugin in built_in}
    for entry in entry_points(group=GROUP):
        try:
            plugin = entry.load()
            if plugin.name in by_name:
                raise ValueError(f"there is a method {plugin.name} already")
            by_name[plugin.name] = plugin
        except Exception as error:  # code of other packages may raise anything
            warnings.warn(f"the method {entry.value} cannot be loaded: {error}", stacklevel=2)
    return by_name


def engine_names() -> tuple[str, ...]:
    """Return the engines of `pruneonce.engines`, in their order."""
    return tuple(import_module("pruneonce.engines").ENGINES)


def installed_engines() -> list[str]:
    """Those of `engine_names` whose library is installed."""
    return [name for name, one in import_module("pruneonce.engines").ENGINES.items() if one.is_installed]


def format_names() -> tuple[str, ...]:
    """Return the export formats of `pruneonce.export`, in their order."""
    return tuple(import_module("pruneonce.export").FORMATS)


def make(options: Options | None) -> Method:
    """Make a method for one run; without options a plain `Method`, which prunes by magnitude and adds nothing."""
    if options is None:
        return Method()
    return plugins()[options.name].load()(options)
