"""The one console that progress and results are printed to."""

from rich.console import Console

console = Console(highlight=False)
