"""Verbs that do without PyTorch do not wait for it to be imported."""

import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "datasets", "accelerate", "pandas", "sklearn", "scipy", "matplotlib", "pyarrow"]
CODE = """
import json, sys
from pruneonce.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(name for name in sys.modules if "." not in name)]), file=sys.stderr)
"""


def imported(*arguments):
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        "recipes list",
        "recipes show minilm-90",
        "recipes keys",
        "recipes keys prune",
        "recipes keys --markdown",
        "recipes schema",
        "methods list",
        "methods show obert",
        "unpack --help",
        "run --help",
        "--version",
    ],
)
def test_without_a_model(arguments):
    assert imported(*arguments.split()).isdisjoint([*HEAVY, "safetensors.torch", "huggingface_hub"])


def test_inspect_and_verify(models):
    _, sparse = models
    for arguments in (["inspect", str(sparse)], ["verify", str(sparse), "--against", str(sparse)]):
        found = imported(*arguments)
        assert found.isdisjoint(HEAVY)
        assert {"numpy", "safetensors"} <= found


def test_the_package_itself():
    code = "import json, sys, pruneonce; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)).isdisjoint(HEAVY)


@pytest.mark.parametrize("package", ["models", "sparsity"])
def test_lazy_packages_have_every_name(package):
    code = f"""
from pruneonce import {package} as found
assert all(getattr(found, name) is not None for name in found.__all__)
from pruneonce.{package} import *
try:
    found.nothing_like_it
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"module 'pruneonce.{package}' has no attribute 'nothing_like_it'\n"
