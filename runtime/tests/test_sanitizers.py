"""The kernels with sanitizers: no read or write outside of arrays, no overflow, no race between threads."""

import os
import shutil
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from oracle import HEADS, KINDS, packed, random_model
from shared.models import CONFIGS
from transformers import AutoModel

ROOT = Path(__file__).parents[1]
# Libraries that are built without ThreadSanitizer, which then misses how their threads wait for each other.
SUPPRESSED = ("race:tokenizers.abi3.so",)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # a minute of compiling on quiet cores, many on busy ones


class Sanitized(NamedTuple):
    """Kernels built with sanitizers.

    Attributes:
        package: folder of a `pruneonce_runtime` with these kernels.
        libraries: the sanitizers' libraries, to preload, since Python is not linked with them.
        options: environment variables of a process that runs them.
    """

    package: Path
    libraries: list[str]
    options: dict[str, str]


def build(folder, sanitizers, libraries, options):
    """The runtime with sanitizers; skips the test where a tool or a library of the compiler is missing."""
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    missing += [module for module in ("nanobind", "simde_py") if find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    found = []
    for name in libraries:
        told = subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        if not Path(told.stdout.strip()).is_absolute():
            pytest.skip(f"the compiler has no {name}")
        found.append(str(Path(told.stdout.strip()).resolve()))
    defined = [f"-DPython_EXECUTABLE={sys.executable}", f"-DPRUNEONCE_SANITIZE={sanitizers}"]
    subprocess.run(["cmake", "-S", ROOT, "-B", folder / "build", *defined], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", folder / "build", "--parallel", "2"], check=True, capture_output=True)
    package = shutil.copytree(
        ROOT / "python/pruneonce_runtime",
        folder / "package/pruneonce_runtime",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    (built,) = (folder / "build").glob("_native*.so")
    shutil.copyfile(built, package / built.name)
    return Sanitized(package.parent, found, options)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """With AddressSanitizer and UndefinedBehaviorSanitizer."""
    options = {
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",  # Python itself never frees some
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    libraries = ["libasan.so", "libubsan.so"]
    return build(tmp_path_factory.mktemp("sanitized"), "address,undefined", libraries, options)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """With ThreadSanitizer."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "suppressions").write_text("".join(f"{line}\n" for line in SUPPRESSED))
    told = f"halt_on_error=1:exitcode=66:suppressions={folder / 'suppressions'}"
    return build(folder, "thread", ["libtsan.so"], {"TSAN_OPTIONS": told, "OPENBLAS_NUM_THREADS": "1"})


def run(code, sanitized, *arguments):
    """Run Python code with the sanitized package alone; -I -S leaves an installed one out of the path's hooks."""
    site = Path(find_spec("numpy").origin).parents[1]
    begin = f"import sys; sys.path[:0] = [{str(sanitized.package)!r}, {str(site)!r}]\n"
    environment = {**os.environ, **sanitized.options, "LD_PRELOAD": " ".join(sanitized.libraries)}
    command = [sys.executable, "-I", "-S", "-c", begin + textwrap.dedent(code), *map(str, arguments)]
    if "TSAN_OPTIONS" in sanitized.options and shutil.which("setarch"):
        command = ["setarch", "-R", *command]  # it needs addresses that random ones may take from it
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


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
    done = run(code, sanitized, sanitized.package, *files)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr[-3000:]


def test_worst_cases_of_products(sanitized):
    """Every kernel of every instruction set, on the largest numbers, odd shapes, no weights and all weights."""
    code = """
        from itertools import product
        import numpy as np
        from pruneonce_runtime import functions
        from pruneonce_runtime.native import instruction_sets, kernels
        from pruneonce_runtime.spec import Linear, Matrix

        assert sys.argv[1] in kernels.__file__
        shapes = [(1, 1), (5, 7), (33, 130), (64, 256), (16, 3072)]
        known = set()
        for (outputs, inputs), density, value in product(shapes, (0.0, 0.1, 1.0), (-127, 127)):
            kept = np.random.default_rng(0).random((outputs, inputs)) < density
            weight = np.where(kept, value, 0).astype(np.int8)
            scale, bias = np.full(outputs, 0.01, np.float32), np.zeros(outputs, np.float32)
            for zero, x in ((0, 1e9), (255, -1e9)):  # quantized to 255 and to 0: sums of one sign, as large as they get
                linear = Linear(Matrix((outputs, inputs), weight), 8, scale, bias, np.float32(0.02), zero)
                rows = np.full((67, inputs), x, np.float32)
                quantized = functions.quantize(rows, linear.input_scale, zero)
                expected = functions.integer_sums(quantized, zero, weight)
                for name in instruction_sets():
                    for kernel in ("", "dense", "groups", "interleaved", "windows"):
                        try:
                            matrix = kernels.Linear(linear, name, kernel)
                        except ValueError:  # these instructions have no such kernel
                            continue
                        known.add((name, kernel))
                        for count in (0, 1, 16, 67):
                            np.testing.assert_array_equal(matrix.sums(rows[:count]), expected[:count])
                            assert np.isfinite(matrix(rows[:count])).all()
        assert {name for name, _ in known} == set(instruction_sets())
        print("done")
    """
    done = run(code, sanitized, sanitized.package)
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


CALLS = """
    import ctypes
    import threading
    import numpy as np
    import pruneonce_runtime
    from pruneonce_runtime.native import NativeEngine, kernels

    assert sys.argv[1] in kernels.__file__
    model = pruneonce_runtime.load(sys.argv[2], threads=3)
    lengths = (60, 7, 33)
    ids = np.arange(sum(lengths), dtype=np.int32) % 50
    offsets = np.cumsum([0, *lengths]).astype(np.int32)

    def together(*works):
        barrier = threading.Barrier(len(works))

        def call(work):
            barrier.wait()
            for _ in range(20):
                work()

        threads = [threading.Thread(target=call, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
"""


def test_concurrent_calls(watched, tmp_path):
    """Threads that call one engine, its first calls at once, and one model; each call has threads of its own, too."""
    file = packed(tmp_path, random_model(HEADS["sequence"], "bert"), "calibrated").file
    code = """
    for name in pruneonce_runtime.instruction_sets():
        for _ in range(3):
            engine = NativeEngine(model.network, name, 3)
            together(*[lambda engine=engine: engine.forward(ids, offsets)] * 4)
    together(*[lambda: model(["a great river", "awful winter"])] * 4)
    print("done")
    """
    done = run(CALLS + code, watched, watched.package, file)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr[-3000:]


def test_a_race_is_found(watched, tmp_path):
    """Token ids that are overwritten during a call."""
    file = packed(tmp_path, random_model(HEADS["sequence"], "bert"), "calibrated").file
    code = """
    engine = NativeEngine(model.network, "", 3)
    for _ in range(20):
        together(lambda: engine.forward(ids, offsets), lambda: ctypes.memset(ids.ctypes.data, 0, ids.nbytes))
    """
    done = run(CALLS + code, watched, watched.package, file)
    assert done.returncode == 66
    assert "ThreadSanitizer: data race" in done.stderr
