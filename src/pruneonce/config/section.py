"""Base class of a recipe's sections: frozen, and without unknown keys."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Section of a recipe: frozen, hashable, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    def __hash__(self) -> int:
        """Hash of all values as JSON; pydantic's own hash fails on lists."""
        return hash(self.model_dump_json())
