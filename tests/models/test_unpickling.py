"""Pickles of PyTorch: nothing in them is run, a refusal is one line, and memory is bounded, as docs/threat-model.md has
it."""

import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pruneonce import UserError
from pruneonce.cli import main
from pruneonce.models import convert, unpickling

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")

MIB = 1 << 20
HUGE = b"\x8a\x06\x00\x00\x00\x00\x00\x01"  # 2^40, as a pickle has it
THOUSAND = b"M\xe8\x03"


def status(key):
    return int(re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)[1]) * 1024


def _measured(file, folder, limits, answer):
    unpickling.TIMES, unpickling.MORE = limits
    before, told = status("VmRSS"), io.StringIO()
    with redirect_stdout(told):
        unpickling.main([str(file), str(folder), "60"])
    answer.put((json.loads(told.getvalue()), status("VmHWM") - before))


def read(file, folder, limits=(unpickling.TIMES, unpickling.MORE)):
    """The answer of a process that reads a file into a new folder, and the bytes that it took."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    process = context.Process(target=_measured, args=(file, folder, limits, answer))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return answer.get()


class Calls:
    def __init__(self, ran):
        self.ran = ran

    def __reduce__(self):
        return os.system, (f"touch {self.ran}",)


def state_file(file, legacy=False):
    torch.save({"w": torch.zeros(1000)}, file, _use_new_zipfile_serialization=not legacy)
    return file


def rewritten(file, change=lambda data: data, compression=zipfile.ZIP_STORED):
    """The archive with another pickle inside, or compressed."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def called(file):
    torch.save({"w": torch.zeros(2), "x": Calls(file.with_name("ran"))}, file)


def called_without_an_archive(file):
    file.write_bytes(pickle.dumps({"x": Calls(file.with_name("ran"))}, protocol=2))


def nested(file):
    rewritten(state_file(file), lambda data: b"\x80\x02}X\x01\x00\x00\x00w" + b"]" * 300_000 + b"a" * 299_999 + b"s.")


def nested_tuples(file):
    rewritten(state_file(file), lambda data: b"\x80\x02" + b"(" * 300_000 + b"]" + b"t" * 300_000 + b".")


def terabytes(file):
    rewritten(state_file(file), lambda data: data.replace(THOUSAND, HUGE))


def terabytes_without_an_archive(file):
    state_file(file, legacy=True)
    file.write_bytes(file.read_bytes().replace(THOUSAND, HUGE))


def a_large_array(file):
    rewritten(state_file(file), lambda data: b"\x80\x02cbuiltins\nbytearray\n" + HUGE + b"\x85R.")


def views(file):
    torch.save({"w": torch.zeros(1).expand(1 << 20, 1 << 20)}, file)


def many_views(file):
    whole = torch.zeros(1 << 18)
    torch.save({f"w{number}": whole[number:] for number in range(20)}, file)


def a_bomb(file):
    torch.save({"w": torch.zeros(1 << 22)}, file)
    rewritten(file, compression=zipfile.ZIP_DEFLATED)


def overlapping(file):
    """Two entries of the directory are the same bytes."""
    state_file(file)
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        names = [info.filename for info in archive.infolist() if info.filename.endswith("data/0")]
    at = data.rindex(names[0].encode()) - 46  # of the entry in the central directory, which has both sizes
    for offset in (20, 24):
        data[at + offset : at + offset + 4] = (1 << 30).to_bytes(4, "little")
    file.write_bytes(data)


def a_tar(file):
    with tarfile.open(file, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"\x80\x02N."))


def cut_off(file):
    file.write_bytes(state_file(file).read_bytes()[:-50])


def another_pickle(file):
    file.write_bytes(pickle.dumps({"w": unpickling.RefusedError("x")}, protocol=2))


def a_list(file):
    torch.save([torch.zeros(2)], file)


def sparse(file):
    torch.save({"w": torch.eye(4).to_sparse()}, file)


def an_odd_name(file):
    torch.save({"w\x1b[31m": torch.zeros(2)}, file)


HOSTILE = {
    called: r"holds more than tensors: it names `posix.system`; pruneonce runs no code of a file",
    called_without_an_archive: r"holds more than tensors: it names `posix.system`",
    nested: r"has no state dict",
    nested_tuples: r"has no state dict",
    terabytes: r"is damaged, or no file of PyTorch",
    terabytes_without_an_archive: r"asks for more memory than a file of its size needs",
    a_large_array: r"asks for more memory than a file of its size needs",
    views: r"has tensors of 4,398,046,511,104 bytes in [\d,]+: they are views of the same numbers",
    many_views: r"has tensors of 20,970,760 bytes in [\d,]+: they are views of the same numbers",
    a_bomb: r"is compressed inside, which PyTorch never writes",
    overlapping: r"is damaged: its parts overlap",
    a_tar: r"is in PyTorch's .tar format of 2017",
    cut_off: r"is damaged: ",
    another_pickle: r"holds more than tensors",
    a_list: r"has no state dict",
    sparse: r"has w as sparse_coo, not as plain numbers",
    an_odd_name: r"is damaged: a tensor's name is no name",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_pickle_is_one_line_in_bounded_memory(make, tmp_path):
    file = tmp_path / "pytorch_model.bin"
    make(file)
    answer, grew = read(file, tmp_path / "out")
    assert re.match(HOSTILE[make], answer["error"]), answer
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 400
    assert grew < unpickling.TIMES * file.stat().st_size + unpickling.MORE
    assert not (tmp_path / "ran").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_the_limit_of_memory_is_one(tmp_path):
    """A pickle that is read is in these bounds, and the same one with less memory is not."""
    torch.save({f"w{number}": torch.zeros(1 << 20) for number in range(24)}, tmp_path / "x.bin")
    answer, grew = read(tmp_path / "x.bin", tmp_path / "out")
    assert answer == {"files": 2}
    assert 96 * MIB < grew < 3 * 96 * MIB
    assert sum(len(load_file(file)) for file in (tmp_path / "out").iterdir()) == 24
    answer, _ = read(tmp_path / "x.bin", tmp_path / "less", (0, 16 * MIB))
    assert answer["error"].startswith("asks for more memory")


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "without an archive"])
def test_tensors_are_read_right(legacy, tmp_path):
    """Views, strides, types and tied tensors are written as plain tensors."""
    numbers = torch.randn(6, 8)
    tensors = {"a": numbers, "tied": numbers, "turned": numbers.t(), "part": numbers[1:3, ::2], "mask": numbers > 0}
    tensors |= {"half": numbers.half(), "bf16": numbers.bfloat16(), "ids": torch.arange(3), "scalar": torch.tensor(2.0)}
    tensors |= {"parameter": torch.nn.Parameter(numbers + 1), "empty": torch.zeros(0, 3)}
    torch.save(tensors, tmp_path / "x.bin", _use_new_zipfile_serialization=not legacy)
    answer, _ = read(tmp_path / "x.bin", tmp_path / "out")
    assert answer == {"files": 1}
    found = load_file(tmp_path / "out" / "00000.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype


# -- the process ------------------------------------------------------------------------------------------------


def test_the_command_refuses_a_hostile_pickle_in_one_line(encoder, tmp_path, capsys):
    """As users run it: a new process, and no code of the folder that they are in."""
    source = shutil.copytree(encoder, tmp_path / "source")
    (source / "model.safetensors").unlink()
    called(source / "pytorch_model.bin")
    (source / "torch.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(source)
        assert main(["convert", ".", str(tmp_path / "made")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: pytorch_model.bin holds more than tensors: it names `posix.system`")
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    assert not (source / "ran").exists()


def test_the_process_has_little_time_and_no_token(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    state_file(tmp_path / "x.bin")
    seen = {}

    def run(command, env, timeout, **settings):
        seen.update(env=env, timeout=timeout, command=command)
        return subprocess.CompletedProcess(command, -9, b"", b"")

    monkeypatch.setattr(convert.subprocess, "run", run)
    with pytest.raises(UserError, match=r"x.bin is damaged: the process that read it ended with signal 9"):
        convert._unpickled(tmp_path / "x.bin", tmp_path / "out")
    assert "HF_TOKEN" not in seen["env"]
    assert str(seen["timeout"]) == seen["command"][-1] == "120"
    assert seen["command"][1] == "-P"
    monkeypatch.undo()
    monkeypatch.setattr(convert, "SECONDS", 0)
    with pytest.raises(UserError, match="takes more than 0 seconds to read"):
        convert._unpickled(tmp_path / "x.bin", tmp_path / "other")
