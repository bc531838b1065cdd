"""Python environments of the clients, whose versions of transformers exclude each other and ours."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

# Large packages that an environment takes from ours by links, with all that they need, instead of a download.
LENT = ("torch", "openvino", "onnxruntime", "onnx", "scikit-learn", "safetensors")


def make_environment(folder: Path, *requirements: str) -> Path:
    """Make a virtual environment with `requirements`, once, and return its Python; skip where there is no registry."""
    python = folder / "bin" / "python"
    if (folder / "whole").is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    lend(folder / "lent", LENT)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "lib" / version / "site-packages" / "lent.pth").write_text(f"{folder / 'lent'}\n")
    (folder / "constraints.txt").write_text(f"torch=={distribution('torch').version}\n")
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--constraint", folder / "constraints.txt", *requirements],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = next(line for line in reversed(done.stderr.splitlines()) if line.strip())
        pytest.skip(f"cannot install {' '.join(requirements)}: {reason}")
    # Of another build than the torch that is lent; where it is demanded, images alone need it.
    subprocess.run(
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], capture_output=True, check=True
    )
    (folder / "whole").touch()
    return python


def lend(folder: Path, names: tuple[str, ...]) -> None:
    """Link packages of this environment, and all that they need, into a folder."""
    folder.mkdir()
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        if (plain := re.sub(r"[-_.]+", "-", name).lower()) in seen:
            continue
        seen.add(plain)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        tops = {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(package.locate_file(top))))
        required = [entry for entry in package.requires or [] if "extra ==" not in entry]
        waiting += [re.split(r"[^\w.-]", entry, maxsplit=1)[0] for entry in required]
