"""What the sections of a recipe and the options of a method are made of. No torch here."""

from pruneonce.config.section import Section
from pruneonce.config.validation import validate

__all__ = ["Section", "validate"]
