"""The command line."""

from pruneonce.cli.main import app, main
from pruneonce.cli.verbosity import silence_libraries

__all__ = ["app", "main", "silence_libraries"]
