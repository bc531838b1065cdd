"""What is written has the permissions that the umask leaves, so that a group can share a run."""

import os
import shutil
import stat
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file, save_file
from shared.processes import ONE_THREAD

from pruneonce.system import durable

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no umask")

CODE = """
from pruneonce.cli import main
from pruneonce.training import checkpoints

remove, modes = checkpoints._remove, set()


def noted(checkpoint):
    modes.update(oct(file.stat().st_mode & 0o777) for file in checkpoint.iterdir())
    remove(checkpoint)


checkpoints._remove = noted
assert main(["-q", "run", "recipe.yaml", "--output", "run"]) == 0
assert main(["-q", "unpack", "run/tasks/mood/sparse.pruneonce", "unpacked"]) == 0
print(*sorted(modes))
"""


def modes(folder):
    """Permissions of the folder and of all in it, links aside."""
    paths = [path for path in [folder, *folder.rglob("*")] if not path.is_symlink()]
    return {path: stat.S_IMODE(path.stat().st_mode) for path in paths}


def test_a_whole_run(recipe_values, tmp_path):
    recipe_values.pop("baselines")
    recipe_values["prune"] |= {"steps": 6, "checkpoint_every": 1}
    recipe_values |= {"quantize": {"int8_ptq": {"examples": 8}}, "export": ["onnx"], "report_to": ["tensorboard"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_values))
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env={**os.environ, **ONE_THREAD},
        umask=0o027,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0o640", "of checkpoints"
    found = {**modes(tmp_path / "run"), **modes(tmp_path / "unpacked")}
    names = {path.name for path in found}
    assert {"model.safetensors", "quantization.safetensors", "model.onnx", "summary.json", "report.html"} <= names
    assert "sparse.pruneonce" in names
    wrong = {str(path): oct(mode) for path, mode in found.items() if mode != (0o750 if path.is_dir() else 0o640)}
    assert wrong == {}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o000, 0o666)])
def test_the_umask_decides(mask, mode, encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "model.partial")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    (folder / "run.sh").write_text("")
    (folder / "run.sh").chmod(0o700)
    (folder / "link").symlink_to("run.sh")
    before = os.umask(mask)
    try:
        durable.publish(folder, tmp_path / "model")
        assert os.umask(mask) == mask, "it is as it was"
    finally:
        os.umask(before)
    found = modes(tmp_path / "model")
    assert found[tmp_path / "model" / "model.safetensors"] == mode
    assert found[tmp_path / "model" / "run.sh"] == 0o700 | mode, "nothing is taken away"
