"""What the shell completes, asked as a shell asks."""

import os
import subprocess
import sys

import pytest

from pruneonce import recipe
from pruneonce.plugins import plugins
from pruneonce.recipe.keys import places


def completed(line, shell="bash"):
    words = line.split(" ")
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "_TYPER_COMPLETE_WORD_TO_COMPLETE": words[-1],
        },
    }[shell]
    environment = {**os.environ, "_PRUNEONCE_COMPLETE": f"complete_{shell}", **asked}
    done = subprocess.run(
        [sys.executable, "-m", "pruneonce"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return [word.strip('()"') for word in done.stdout.replace("_arguments '*: :((", "").replace("))'", "").split()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pruneonce recipes show bert-b", [name for name in recipe.shipped() if name.startswith("bert-b")]),
        ("pruneonce run mini", ["minilm-90"]),
        ("pruneonce plan quick", ["quickstart"]),
        ("pruneonce recipes keys quantize.", [name for name in places() if name.startswith("quantize.")]),
        ("pruneonce methods show ", list(plugins())),
        ("pruneonce prod", ["product-quantize"]),
        ("pruneonce recipes s", ["show", "schema"]),
    ],
)
def test_bash(line, expected):
    assert sorted(completed(line)) == sorted(expected)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell):
    assert completed("pruneonce recipes keys corp", shell) == ["corpus"]


def test_the_script_for_a_shell():
    environment = {**os.environ, "_PRUNEONCE_COMPLETE": "source_bash"}
    done = subprocess.run(
        [sys.executable, "-m", "pruneonce"], env=environment, capture_output=True, text=True, check=True
    )
    assert "complete -o default -F _pruneonce_completion pruneonce" in done.stdout
