"""Key `method` of a recipe's sections: the options of any registered method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Discriminator, Tag

from pruneonce.config.validation import KIND
from pruneonce.plugins import Options, plugins


def _as_mapping(method: Any) -> Any:
    """Expand a name: `method: obert` is short for `method: {name: obert}`."""
    return {"name": method} if isinstance(method, str) else method


def _tag(method: Any) -> str:
    return f"{KIND}{method.get('name') if isinstance(method, dict) else getattr(method, 'name', None)}"


if TYPE_CHECKING:
    AnyMethod = Options
else:
    AnyMethod = Annotated[
        Union[tuple(Annotated[one.options, Tag(f"{KIND}{name}")] for name, one in plugins().items())],  # noqa: UP007
        Discriminator(
            _tag,
            custom_error_type="unknown_method",
            custom_error_message=f"the name of a method is one of {', '.join(plugins())}",
        ),
        BeforeValidator(_as_mapping),
    ]


def must_work_in(stage: str | None, method: Options) -> None:
    """Check that a method works in a stage.

    Raises:
        ValueError: the method has no place in this stage.
    """
    stages = plugins()[method.name].stages
    if stage not in stages:
        raise ValueError(f"`method` {method.name} has no place here; it works in {', '.join(sorted(stages))}")
