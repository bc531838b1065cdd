"""The kernels as a C++ program of their own, here and on ARM by an emulator, against plain loops."""

import platform
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def sources(is_x86):
    """The kernels' sources for an architecture; those of x86 are named after its instructions."""
    return [
        file
        for file in sorted((ROOT / "kernels").glob("*.cpp"))
        if is_x86 == file.stem.startswith(("isa_avx", "isa_amx"))
        or not file.stem.startswith("isa_")
        or file.stem == "isa_portable"
    ]


def check(folder, compiler, files, *before):
    """The lines that the compiled program prints."""
    if find_spec("simde_py") is None:
        pytest.skip("needs simde_py")
    import simde_py

    program = folder / "self_check"
    options = ["-std=c++17", "-O1", "-w", "-pthread", "-static", f"-I{simde_py.get_include()}"]
    command = [compiler, *options, str(ROOT / "tests/self_check.cpp"), *map(str, files), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    done = subprocess.run([*before, str(program)], capture_output=True, text=True, check=False, timeout=1000)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_on_this_processor(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("needs c++")
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    assert "portable right" in check(tmp_path, "c++", sources(is_x86))


def test_on_arm_by_an_emulator(tmp_path):
    """SIMDe makes NEON of the kernels; integers are equal there, too."""
    missing = [tool for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: apt-get install qemu-user g++-aarch64-linux-gnu")
    lines = check(tmp_path, "aarch64-linux-gnu-g++", sources(False), "qemu-aarch64", "-cpu", "max")
    assert "portable right" in lines
