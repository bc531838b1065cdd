"""The command line."""

from pruneonce.cli.main import app, main

__all__ = ["app", "main"]
