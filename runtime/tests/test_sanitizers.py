"""The kernels with AddressSanitizer and UndefinedBehaviorSanitizer: no read or write outside of arrays, no overflow."""

import os
import shutil
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
from oracle import KINDS, packed, random_model
from shared.models import CONFIGS
from transformers import AutoModel

ROOT = Path(__file__).parents[1]
PRELOADED = ("libasan.so", "libubsan.so")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # a minute of compiling on quiet cores, many on busy ones


def preloaded():
    """The sanitizers' libraries, which Python is not linked with; skips the test where the compiler has none."""
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    missing += [module for module in ("nanobind", "simde_py") if find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    found = []
    for name in PRELOADED:
        told = subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        if not Path(told.stdout.strip()).is_absolute():
            pytest.skip(f"the compiler has no {name}")
        found.append(str(Path(told.stdout.strip()).resolve()))
    return found


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """`(folder of a package with sanitized kernels, libraries to preload)`."""
    libraries = preloaded()
    folder = tmp_path_factory.mktemp("sanitized")
    options = [f"-DPython_EXECUTABLE={sys.executable}", "-DPRUNEONCE_SANITIZE=address,undefined"]
    subprocess.run(["cmake", "-S", ROOT, "-B", folder / "build", *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", folder / "build", "--parallel", "2"], check=True, capture_output=True)
    package = shutil.copytree(
        ROOT / "python/pruneonce_runtime",
        folder / "package/pruneonce_runtime",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    (built,) = (folder / "build").glob("_native*.so")
    shutil.copyfile(built, package / built.name)
    return package.parent, libraries


def run(code, sanitized, *arguments):
    """Run Python code with the sanitized package alone; -I -S leaves an installed one out of the path's hooks."""
    package, libraries = sanitized
    site = Path(find_spec("numpy").origin).parents[1]
    begin = f"import sys; sys.path[:0] = [{str(package)!r}, {str(site)!r}]\n"
    options = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",  # Python itself never frees some
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    command = [sys.executable, "-I", "-S", "-c", begin + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **options})


def test_forwards(sanitized, tmp_path):
    """Every architecture, kind of weights and instruction set, on batches of odd lengths, with one thread and three."""
    files = [
        packed(tmp_path / f"{one}-{kind}", random_model(AutoModel, one), kind).file for one in CONFIGS for kind in KINDS
    ]
    code = """
        import numpy as np
        import pruneonce_runtime
        from pruneonce_runtime.native import NativeEngine, kernels

        assert sys.argv[1] in kernels.__file__
        for file in sys.argv[2:]:
            network = pruneonce_runtime.load(file).network
            for name in pruneonce_runtime.instruction_sets():
                for threads in (1, 3):
                    engine = NativeEngine(network, name, threads)
                    for lengths in ([], [1], [12, 1, 30, 3], [17, 64, 31], [100]):
                        ids = np.arange(sum(lengths), dtype=np.int32) % network.encoder.embeddings.words.rows
                        hidden = engine.forward(ids, np.cumsum([0, *lengths]).astype(np.int32))
                        assert hidden.shape == (sum(lengths), network.encoder.hidden) and np.isfinite(hidden).all()
        print("done")
    """
    done = run(code, sanitized, sanitized[0], *files)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr[-3000:]


def test_sanitizers_are_there(sanitized):
    """An error that is made on purpose ends the process: the library is the sanitized one, and it watches."""
    code = """
        import ctypes
        ctypes.CDLL(None).free(ctypes.c_void_p(16))
    """
    done = run(code, sanitized)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr
