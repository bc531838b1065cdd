"""What the installed package costs: its imports, their time, its size, and memory while it runs."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from oracle import HEADS, packed, random_model
from pruneonce import storage

import pruneonce_runtime

SOURCE = Path(pruneonce_runtime.__file__).parents[1]
README = Path(__file__).parents[1] / "README.md"
HEAVY = ["torch", "transformers", "safetensors", "huggingface_hub", "pydantic", "scipy", "pruneonce", "datasets"]


def python(code, *arguments):
    """What a new interpreter prints, which sees the package and what is installed."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("package"), random_model(HEADS["sequence"], "bert"), "calibrated").file


def test_nothing_heavy_is_imported(file):
    code = """
        import sys
        import pruneonce_runtime
        model = pruneonce_runtime.load(sys.argv[1])
        assert model("a great river").label in model.labels
        print(*sorted({name.partition(".")[0] for name in sys.modules}))
    """
    modules = python(code, file).split()
    assert {"numpy", "tokenizers", "zstandard"} <= set(modules)
    assert not set(modules) & set(HEAVY)


def test_importing_takes_little_time():
    """In seconds of processor time, which other programs do not change; the best of three."""
    code = "import time; import pruneonce_runtime; print(time.process_time())"
    bare = "import time; print(time.process_time())"
    assert min(float(python(code)) - float(python(bare)) for _ in range(3)) < 0.3


def test_the_package_is_small():
    assert sum(path.stat().st_size for path in SOURCE.rglob("*.py")) < 1 << 20


def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    """Each of its Python blocks, one after another, with the files that it names."""
    for name in ("mood", "topic"):
        packed(tmp_path / name, random_model(HEADS["sequence"], "bert"), "fp32", name)
    storage.pack([tmp_path / name / name for name in ("mood", "topic")], tmp_path / "family.pruneonce")
    shutil.copy(tmp_path / "mood" / "mood.pruneonce", tmp_path / "reviews.pruneonce")
    (tmp_path / "texts.txt").write_text("a great river\nawful winter\n")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), str(README), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("mood classification Prediction(label=")
