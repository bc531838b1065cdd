"""Building blocks of a recipe's sections and a method's options, without torch."""

from pruneonce.config.section import Section
from pruneonce.config.validation import validate

__all__ = ["Section", "validate"]
