"""Check for optional packages, with the extra of this package that installs each."""

from __future__ import annotations

from importlib.util import find_spec

from pruneonce.errors import UserError


def need(module: str, extra: str) -> None:
    """Raise an error unless `module`, which the `extra` of this package installs, can be imported.

    Raises:
        UserError: `module` is not installed.
    """
    if find_spec(module) is None:
        raise UserError(f"this needs {module}, which is not installed; run: pip install 'pruneonce[{extra}]'")
