"""Check for optional packages, with the extra of this package that installs each."""

from __future__ import annotations

from importlib.util import find_spec

from pruneonce.errors import UserError


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be imported."""
    return find_spec(module) is not None


def need(module: str, extra: str) -> None:
    """Raise an error unless `module`, which the `extra` of this package installs, can be imported.

    Raises:
        UserError: `module` is not installed.
    """
    if not is_installed(module):
        raise UserError(f"this needs {module}, which is not installed; run: pip install 'pruneonce[{extra}]'")
