"""What every section of a recipe is: frozen, and with no key that is not its own."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    def __hash__(self) -> int:
        """Of all it says: pydantic's own hash fails where there is a list in it."""
        return hash(self.model_dump_json())
