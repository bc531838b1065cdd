"""Registration of a method. The module is light: a recipe is read without loading PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pruneonce.config.section import Section

if TYPE_CHECKING:
    from pruneonce.plugins.method import Method

STAGES = ("prune", "gradual", "one-shot", "finetune", "transfer", "quantize")


class Options(Section):
    """Options of a method in a recipe. A subclass pins the name: `name: Literal["mine"] = "mine"`."""

    name: str


@dataclass(frozen=True)
class Plugin:
    """Method as it is registered.

    Args:
        options: its section of a recipe; `pruneonce methods list` shows the first line of the docstring.
        code: "package.module:Class", a `Method`; imported when a run begins.
        paper: link to the source.
        stages: stages that it works in, out of `STAGES`.
        example: options that make sense, which the shared tests run too.
        passes: forward and backward over each batch of training, by which a plan counts FLOPs.
    """

    options: type[Options]
    code: str
    paper: str
    stages: frozenset[str]
    example: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 1

    def __post_init__(self) -> None:
        name = self.options.model_fields["name"].default
        if not isinstance(name, str):
            raise TypeError(f"{self.options.__name__} has to pin `name`, as in `name: Literal['mine'] = 'mine'`")
        if not self.stages or self.stages - set(STAGES):
            raise ValueError(f"the stages of {name} have to be some of {', '.join(STAGES)}")
        self.options.model_validate({"name": name, **self.example})

    @property
    def name(self) -> str:
        """Return the name that the options pin."""
        return str(self.options.model_fields["name"].default)

    @property
    def summary(self) -> str:
        """Return the first line of the options' docstring."""
        return inspect.cleandoc(self.options.__doc__ or "").split("\n")[0]

    def load(self) -> type[Method]:
        """Return the class that does the work."""
        module, _, name = self.code.partition(":")
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
