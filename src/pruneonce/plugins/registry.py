"""What plugs in, by its name: methods, engines and export formats.

A recipe names them, and the packages that hold them stand above the recipe; so they are imported by their names here,
and all of them are light. Methods are ours, and those that other packages register under the entry point
`pruneonce.methods`.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from pruneonce.plugins.method import Method
from pruneonce.plugins.plugin import Options, Plugin

GROUP = "pruneonce.methods"
OURS = ("obert", "block_lasso", "cram", "quant_noise")  # folders beside this file, each with a `plugin`


@cache
def plugins() -> dict[str, Plugin]:
    """All methods by name. What another package registers and cannot be loaded is told in a warning and left out."""
    found = [import_module(f"pruneonce.methods.{name}").plugin for name in OURS]
    named: dict[str, Plugin] = {plugin.name: plugin for plugin in found}
    for entry in entry_points(group=GROUP):
        try:
            plugin = entry.load()
            if plugin.name in named:
                raise ValueError(f"there is a method {plugin.name} already")
            named[plugin.name] = plugin
        except Exception as error:  # whatever somebody else's code raises, ours goes on
            warnings.warn(f"the method {entry.value} cannot be loaded: {error}", stacklevel=2)
    return named


def engine_names() -> tuple[str, ...]:
    """The engines of `pruneonce.engines`, in their order."""
    return tuple(import_module("pruneonce.engines").ENGINES)


def installed_engines() -> list[str]:
    """Those of `engine_names` whose library is installed."""
    return [name for name, one in import_module("pruneonce.engines").ENGINES.items() if one.is_installed]


def format_names() -> tuple[str, ...]:
    """The export formats of `pruneonce.export`, in their order."""
    return tuple(import_module("pruneonce.export").FORMATS)


def make(options: Options | None) -> Method:
    """A method for one run; without options the plain one, which prunes by magnitude and adds nothing."""
    if options is None:
        return Method()
    return plugins()[options.name].load()(options)
