"""Roles of modules that a user gives, for a type whose module tree does not show which of its layers are meant.

They are in force while a run or a verb works (`giving`), and stand in the config.json of each model that is made
meanwhile, by which later verbs know them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pruneonce.errors import UserError

KEY = "pruneonce_roles"  # in config.json
Given = dict[str, Any]

_in_force: ContextVar[tuple[Given, str] | None] = ContextVar("roles", default=None)


@contextmanager
def giving(roles: Mapping[str, Any] | None, model_type: str = "") -> Generator[None, None, None]:
    """Context in which models of a type have these roles; None: as they have without.

    Args:
        roles: `layers`, `pooler` and `attention`, each where it is given; as in the recipe's section `roles`.
        model_type: of the models, as config.json names it.
    """
    token = _in_force.set((dict(roles), model_type) if roles else None)
    try:
        yield
    finally:
        _in_force.reset(token)


def in_force() -> tuple[Given, str] | tuple[None]:
    """Return the arguments of `giving` that are in force, for another process."""
    return _in_force.get() or (None,)


def given_in(values: Mapping[str, Any]) -> Given | None:
    """Return the roles of a model by its config.json: those in force for its type, or those that stand in it.

    Raises:
        UserError: what stands in it are no roles.
    """
    current = _in_force.get()
    if current and current[1] == values.get("model_type"):
        return current[0]
    noted = values.get(KEY)
    if noted is None:
        return None
    names = [noted.get("layers", ""), noted.get("pooler", "")] if isinstance(noted, dict) else [None]
    attention = noted.get("attention", []) if isinstance(noted, dict) else None
    if not isinstance(attention, list) or not all(isinstance(name, str) for name in (*names, *attention)):
        raise UserError(f"`{KEY}` in config.json is damaged: it is no mapping of `layers`, `pooler` and `attention`")
    return dict(noted)


def changed_key(key: str, values: Mapping[str, Any]) -> Any:
    """Return the parts of a model's key: `key`, and the roles in force where the model was not made with them.

    Args:
        key: of the model without roles.
        values: its config.json; empty where it is not at hand.
    """
    current = _in_force.get()
    if current is None or values.get("model_type", current[1]) != current[1] or values.get(KEY) == current[0]:
        return key
    return [key, current[0]]
