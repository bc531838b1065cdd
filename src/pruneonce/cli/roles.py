"""Option `--roles` of the verbs that prune, lock or inspect weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from pruneonce import recipe
from pruneonce.errors import UserError

OPTION = Annotated[
    list[str] | None,
    typer.Option(
        "--roles",
        metavar="KEY=VALUE",
        help="Where layers are not known: layers=encoder.blocks, pooler=PATH or attention=\\[q,k,v]; may be repeated.",
    ),
]


def takes_roles(model: str = "model") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds `--roles` to a verb, which works with them in force.

    Args:
        model: the verb's argument whose type the roles are of.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @wraps(verb)
        def run(roles: list[str] | None = None, **values: Any) -> None:
            if not roles:
                verb(**values)
                return
            given = roles_of(roles)
            from pruneonce.models import load_config
            from pruneonce.models.architectures import check_given
            from pruneonce.models.given_roles import giving

            config = load_config(values[model])
            check_given(config)
            with giving(given, config.model_type):
                verb(**values)

        parameters = list(inspect.signature(verb, eval_str=True).parameters.values())
        added = inspect.Parameter("roles", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=OPTION)
        run.__signature__ = inspect.Signature([*parameters, added])  # type: ignore[attr-defined]  # typer reads it
        return run

    return decorate


def roles_of(typed: list[str]) -> dict[str, Any]:
    """Return the roles of `--roles KEY=VALUE`.

    Raises:
        UserError: they are not `layers`, `pooler` and `attention`.
    """
    values: dict[str, Any] = {}
    for override in typed:
        recipe.set_value(values, override)
    try:
        roles: recipe.RolesOfModules = recipe.validate(recipe.RolesOfModules, values)
    except UserError as error:
        raise UserError(f"--roles: {error}") from None
    return roles.given()
