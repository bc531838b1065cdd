"""config.json of a model, each value of it checked when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.file import Member

MAX_INTEGER = 1 << 20
MAX_LABELS = 1 << 16

# What a class of transformers ends in, and the head that it has.
HEADS: Mapping[str, Literal["sequence", "tokens", "answers"] | None] = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "tokens",
    "ForQuestionAnswering": "answers",
    "ForMaskedLM": None,  # the vocabulary head is left out
    "ForPreTraining": None,
    "Model": None,
}


class Configuration:
    """
    Attributes:
        model_type: the architecture.
        class_name: the class that the model was saved from; "" where that is not said.
        head: which head it has; None: it is a bare encoder.
        labels: names of the outputs.

    Raises:
        PruneonceError: there is no config.json, it is damaged, or the model is for another purpose.
    """

    def __init__(self, member: Member) -> None:
        self.path = member.packed.path
        values = member.json("config.json")
        if not isinstance(values, dict):
            raise PruneonceError(f"{self.path} is damaged: it has no config.json")
        self._values: dict[str, Any] = values
        self.model_type = str(self.get("model_type", "")) or "none"
        named = self.get("architectures", [])
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            raise self.damaged("architectures")
        self.class_name: str = named[0] if named else ""
        self.head = self._head()
        self.labels = self._labels()

    def _head(self) -> Literal["sequence", "tokens", "answers"] | None:
        if not self.class_name:
            return None
        for ending, head in HEADS.items():
            if self.class_name.endswith(ending):
                return head
        raise PruneonceError(
            f"{self.path} holds a {self.class_name:.60}; these can be run: {', '.join(f'...{name}' for name in HEADS)}"
        )

    def _labels(self) -> tuple[str, ...]:
        """`id2label`, or as many names as `num_labels` says, which is 2 where nothing does."""
        named = self.get("id2label")
        if named is None:
            return tuple(f"LABEL_{number}" for number in range(self.integer("num_labels", 1, MAX_LABELS, default=2)))
        if not isinstance(named, dict) or not 0 < len(named) <= MAX_LABELS:
            raise self.damaged("id2label")
        labels = [named.get(str(number)) for number in range(len(named))]
        if not all(isinstance(label, str) for label in labels):
            raise self.damaged("id2label")
        return tuple(map(str, labels))

    def get(self, key: str, default: Any = None) -> Any:
        """The value; the default where it is absent or null."""
        value = self._values.get(key)
        return default if value is None else value

    def flag(self, key: str) -> bool:
        """Whether `key` is true; false where it is absent."""
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise self.damaged(key)
        return value

    def integer(self, key: str, low: int, high: int = MAX_INTEGER, default: int | None = None) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.damaged(key)
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number below 1, as the epsilon of a norm."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise self.damaged(key)
        return float(value)

    def damaged(self, key: str) -> PruneonceError:
        return PruneonceError(f"{self.path} is damaged: `{key}` in config.json is {self._values.get(key)!r:.60}")
