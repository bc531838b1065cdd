"""Logging integrations of transformers' Trainer, checked before there is work to lose."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from transformers.integrations import integration_utils

from pruneonce.errors import UserError

SPECIAL = (["all"], ["none"])  # values of `report_to` that transformers expands


def check_report_to(names: Sequence[str] | None) -> None:
    """Check that the Trainer has these integrations, and that their packages are installed.

    Raises:
        UserError: there is no such integration, or its package is not installed.
    """
    if names is None or list(names) in SPECIAL:
        return
    known = list(integration_utils.INTEGRATION_TO_CALLBACK)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"no logging integration {name!r} for `report_to`; there are {', '.join(known)}{hint}")
        is_available = getattr(integration_utils, f"is_{name}_available", None)
        if is_available is not None and not is_available():
            raise UserError(
                f"the package of {name!r} in `report_to` is not installed; install it, or leave {name!r} out"
            )
