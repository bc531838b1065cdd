"""Packing and unpacking of model folders: what comes back, what it takes, and what a mistake gets."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from shared.models import CONFIGS, make_model
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import pruneonce
from pruneonce import storage
from pruneonce.cli import main
from pruneonce.errors import UserError
from pruneonce.models import grid
from pruneonce.runs.quickstart import packaged_model
from pruneonce.sparsity import inspect_model
from pruneonce.storage.container import PackedFile
from pruneonce.storage.source import member_names

FORMAT = Path(__file__).parents[2] / "docs/format.md"
QUERY = "encoder.layer.0.attention.self.query.weight"


def weights(folder):
    return load_file(folder / "model.safetensors")


def save(tensors, folder):
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def prune(folder, share=0.9):
    """Zero the smallest entries of the matrices between the embeddings and the head, without our code."""
    tensors = weights(folder)
    for name, weight in tensors.items():
        if weight.ndim == 2 and not any(word in name for word in ("embed", "classifier", "lm_head", "predictions")):
            weight[np.abs(weight) <= np.quantile(np.abs(weight), share)] = 0
    save(tensors, folder)
    return folder


def same(first, second):
    ours, theirs = weights(first), weights(second)
    return ours.keys() == theirs.keys() and all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


@pytest.fixture
def sparse(tmp_path, encoder):
    """A sparse encoder in `model`."""
    return prune(shutil.copytree(encoder, tmp_path / "model"))


@pytest.fixture
def tasks(tmp_path, sparse):
    """Two task models of one sparse parent: same zeros but one, same embeddings; other values, heads of their own."""
    folders = []
    for seed, name in enumerate(("sst2", "sick")):
        torch.manual_seed(seed)
        folder = tmp_path / "tasks" / name / "sparse"
        model = AutoModelForSequenceClassification.from_pretrained(sparse)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(sparse).save_pretrained(folder)
        tensors = weights(folder)
        for key, weight in tensors.items():
            if "embeddings" not in key:
                weight *= np.float32(1 + seed / 3)
        kept = np.flatnonzero(tensors[f"bert.{QUERY}"])
        tensors[f"bert.{QUERY}"].ravel()[kept[seed]] = 0
        save(tensors, folder)
        folders.append(folder)
    return folders


# -- what comes back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", CONFIGS)
def test_fp32_comes_back_bit_for_bit(architecture, tmp_path, tokenizer):
    model = prune(make_model(tmp_path / "model", tokenizer, architecture, head=True))
    tensors = weights(model)
    tensors[next(name for name in tensors if name.endswith("bias"))].ravel()[:3] = [
        -0.0,
        np.finfo(np.float32).tiny,
        3e38,
    ]
    save(tensors, model)
    found = storage.pack([model], tmp_path / "packed.pruneonce", "fp32")
    assert found.parts["encoder"].weights == sum(layer.size for layer in inspect_model(model).layers)
    (back,) = storage.unpack(tmp_path / "packed.pruneonce", tmp_path / "back")
    assert same(back, model)
    assert AutoConfig.from_pretrained(back).to_dict() == AutoConfig.from_pretrained(model).to_dict() | {
        "_name_or_path": str(back)
    }
    assert (back / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert not (back / grid.FILE).exists()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("values", "bits"), [("int8", 8), ("int4", 4)])
def test_rounded_values_are_those_of_the_grid(values, bits, sparse, tmp_path):
    found = storage.pack([sparse], tmp_path / "packed.pruneonce", values)
    (back,) = storage.unpack(tmp_path / "packed.pruneonce", tmp_path / "back")
    before, after, grids = weights(sparse), weights(back), grid.load(back)
    difference = []
    for name, weight in before.items():
        if name not in grids:
            assert weight.ndim == 1 or name == "embeddings.position_ids", name
            assert after[name].tobytes() == weight.tobytes()
            continue
        assert grids[name].bits == (8 if "embeddings" in name else bits)
        step = grids[name].scale.reshape(-1, 1)
        nearest = np.rint(weight / step).astype(np.float32) * step
        assert np.array_equal(after[name], nearest)
        assert (after[name][weight == 0] == 0).all()
        if "embeddings" not in name:
            difference.append((nearest - weight).ravel())
    together = np.concatenate(difference)
    size = np.sqrt(sum(float((before[name] ** 2).sum()) for name in grids if "embeddings" not in name))
    told = found.to_json()["rounding"]["encoder"]
    assert told["largest"] == pytest.approx(np.abs(together).max())
    assert told["relative"] == pytest.approx(np.linalg.norm(together) / size, rel=1e-5)
    # Its grids are recorded, so that a second time nothing is lost, whatever is asked for.
    again = storage.pack([back], tmp_path / "again.pruneonce", "int8")
    assert again.to_json()["rounding"] == {}
    assert again.total == pytest.approx(found.total, abs=50)  # a folder's name is in it
    assert same(storage.unpack(tmp_path / "again.pruneonce", tmp_path / "back2")[0], back)


def test_a_kept_weight_that_rounds_to_zero_is_a_zero(sparse, tmp_path):
    tensors = weights(sparse)
    row, column = np.argwhere(tensors[QUERY] == 0)[0]
    tensors[QUERY][row, column] = 1e-6
    save(tensors, sparse)
    storage.pack([sparse], tmp_path / "packed.pruneonce", "int8")
    (tensor,) = (t for t in PackedFile(tmp_path / "packed.pruneonce").index.members["model"].tensors if t.name == QUERY)
    assert tensor.pattern is not None
    (back,) = storage.unpack(tmp_path / "packed.pruneonce", tmp_path / "back")
    assert weights(back)[QUERY][row, column] == 0
    assert np.count_nonzero(weights(back)[QUERY]) == np.count_nonzero(tensors[QUERY]) - 1


@pytest.mark.parametrize(("shape", "bits"), [((1,), 8), ((32,), 8), ((32,), 4), ((32, 4), 4)])
def test_a_recorded_grid_is_kept(shape, bits, sparse, tmp_path):
    tensors = weights(sparse)
    scale = np.random.default_rng(0).uniform(0.01, 0.02, shape).astype(np.float32)
    recorded = grid.Grid(bits, scale)
    integers = recorded.quantize(tensors[QUERY])
    integers[0, 0] = -(2 ** (bits - 1))  # quantization-aware training uses the whole range
    tensors[QUERY] = recorded.dequantize(integers)
    save(tensors, sparse)
    grid.save(sparse, {QUERY: recorded})
    for values in ("int8", "fp32"):
        file = tmp_path / f"{values}.pruneonce"
        storage.pack([sparse], file, values)
        (back,) = storage.unpack(file, tmp_path / values)
        assert weights(back)[QUERY].tobytes() == tensors[QUERY].tobytes()
        assert grid.load(back)[QUERY].scale.tobytes() == scale.tobytes()
        assert grid.load(back)[QUERY].bits == bits
    assert list(grid.load(tmp_path / "fp32")) == [QUERY]


def test_rounding_is_in_the_provenance(sparse, tmp_path):
    (sparse / "pruneonce.json").write_text('{"stage": "prune", "key": "abc"}')
    (sparse / "metrics.json").write_text("{}")
    for values in ("fp32", "int8"):
        storage.pack([sparse], tmp_path / f"{values}.pruneonce", values)
        storage.unpack(tmp_path / f"{values}.pruneonce", tmp_path / values)
    assert json.loads((tmp_path / "fp32/pruneonce.json").read_text()) == {"stage": "prune", "key": "abc"}
    made = json.loads((tmp_path / "int8/pruneonce.json").read_text())
    assert made["stage"] == "prune"
    assert made["key"] not in ("abc", None)
    assert made["packed"] == {"values": "int8", "parent": "abc"}
    assert not (tmp_path / "fp32/metrics.json").exists()


@pytest.mark.parametrize("values", ["fp32", "int8", "int4"])
def test_the_reader_in_the_docs_reads_the_same(values, sparse, tmp_path, monkeypatch):
    tensors = weights(sparse)
    recorded = grid.Grid(4, np.full((32, 4), 0.01, np.float32))
    tensors[QUERY] = recorded.dequantize(recorded.quantize(tensors[QUERY]))
    save(tensors, sparse)
    grid.save(sparse, {QUERY: recorded})
    storage.pack([sparse], tmp_path / "packed.pruneonce", values)
    (back,) = storage.unpack(tmp_path / "packed.pruneonce", tmp_path / "back")
    (tmp_path / "read").mkdir()
    (code,) = re.findall(r"^```python\n(.*?)^```", FORMAT.read_text(encoding="utf-8"), re.M | re.S)
    target = str(tmp_path / "read/model.safetensors")
    monkeypatch.setattr("sys.argv", ["reader", str(tmp_path / "packed.pruneonce"), target])
    exec(compile(code, FORMAT.name, "exec"), {})
    assert same(tmp_path / "read", back)


# -- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_no_place_of_the_makers_machine_is_in_the_file(values, sparse, tmp_path):
    (sparse / "pruneonce.json").write_text(json.dumps({"key": "k", "source": str(tmp_path / "dense"), "stage": "x"}))
    for name, key in (("config.json", "_name_or_path"), ("tokenizer_config.json", "tokenizer_file")):
        settings = json.loads((sparse / name).read_text())
        (sparse / name).write_text(json.dumps({**settings, key: "C:\\users\\me\\model"}))
    storage.pack([sparse], tmp_path / "packed.pruneonce", values)
    (back,) = storage.unpack(tmp_path / "packed.pruneonce", tmp_path / "back")
    texts = [file.read_text() for file in back.iterdir() if file.suffix in (".json", ".md")]
    assert not any(str(tmp_path) in text or "users" in text for text in texts)
    assert json.loads((back / "pruneonce.json").read_text())["source"] == "dense"
    assert json.loads((back / "config.json").read_text())["_name_or_path"] == "model"


def test_unpacking_goes_on_after_a_kill(sparse, tmp_path):
    storage.pack([sparse], tmp_path / "packed.pruneonce", "fp32")
    left = tmp_path / "back.partial" / "content"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    (left / "stray.json").write_text("{}")
    (back,) = storage.unpack(tmp_path / "packed.pruneonce", tmp_path / "back")
    assert same(back, sparse)
    assert not (back / "stray.json").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_sizes_add_up(sparse, tmp_path):
    file = tmp_path / "packed.pruneonce"
    found = storage.pack([sparse], file, "fp32")
    told = found.to_json()
    tensors = weights(sparse)
    assert told["bytes"] == file.stat().st_size
    assert told["parts"]["model"]["dense_bytes"] == sum(weight.nbytes for weight in tensors.values())
    assert told["parts"]["model"]["weights"] == sum(weight.size for weight in tensors.values())
    assert told["parts"]["model"]["packed_bytes"] + told["files_bytes"] + told["index_bytes"] == told["bytes"]
    assert 0 < told["index_bytes"] < 4000
    by_hand = 0
    for name, weight in tensors.items():
        if weight.ndim == 2 and "embeddings" not in name:
            kept = weight[weight != 0]
            share = kept.size / weight.size
            by_hand -= weight.size * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
            for place in range(4):
                _, counts = np.unique(kept.view(np.uint8).reshape(-1, 4)[:, place], return_counts=True)
                by_hand -= (counts * np.log2(counts / counts.sum())).sum() / 8
    assert told["parts"]["encoder"]["limit_bytes"] == pytest.approx(by_hand, abs=1)


# -- families ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_a_family_shares_pattern_and_embeddings(values, tasks, tmp_path):
    file = tmp_path / "family.pruneonce"
    found = storage.pack(tasks, file, values)
    alone = [storage.pack([task], tmp_path / f"{task.parent.name}.pruneonce", values) for task in tasks]
    assert found.members == ["sst2", "sick"]
    first, second = (PackedFile(file).index.members[name].tensors for name in found.members)
    assert [tensor.name for tensor in first] == [tensor.name for tensor in second]
    for ours, theirs in zip(first, second, strict=True):
        assert (ours.pattern is None) == (theirs.pattern is None)
        if ours.pattern and theirs.pattern:
            assert ours.pattern.stream == theirs.pattern.stream
            assert ours.values.stream != theirs.values.stream
        if "embeddings" in ours.name:
            assert ours.values.stream == theirs.values.stream
    assert sum(tensor.pattern is not None for tensor in first) == 13
    assert found.parts["embeddings"].packed == alone[0].parts["embeddings"].packed
    assert found.files < 1.1 * alone[0].files
    folders = storage.unpack(file, tmp_path / "all")
    for folder, task, one in zip(folders, tasks, alone, strict=True):
        assert folder == tmp_path / "all" / task.parent.name
        assert same(folder, storage.unpack(one.file, tmp_path / f"{folder.name}-alone")[0])  # its own zero included
        AutoTokenizer.from_pretrained(folder)
    assert storage.unpack(file, tmp_path / "sick", "sick") == [tmp_path / "sick"]
    assert same(tmp_path / "sick", folders[1])


@pytest.mark.parametrize("values", ["fp32", "int8", "int4"])
def test_a_family_grows_from_its_file_alone(values, tasks, tmp_path):
    """The members of the file stay bit for bit, under their names, and the pattern is stored once."""
    small, large = tmp_path / "small.pruneonce", tmp_path / "large.pruneonce"
    storage.pack([f"sst2={tasks[0]}"], small, values)
    before = storage.unpack(small, tmp_path / "before")[0]
    shutil.rmtree(tasks[0])
    assert storage.pack([small, f"sick={tasks[1]}"], large, "int8").members == ["sst2", "sick"]
    storage.pack([tasks[1]], tmp_path / "alone.pruneonce", "int8")
    grown = storage.unpack(large, tmp_path / "grown")
    assert same(grown[0], before)
    assert same(grown[1], storage.unpack(tmp_path / "alone.pruneonce", tmp_path / "alone")[0])
    first, second = (PackedFile(large).index.members[name].tensors for name in ("sst2", "sick"))
    streams = [{tensor.pattern.stream for tensor in tensors if tensor.pattern} for tensors in (first, second)]
    assert streams[0] == streams[1]
    assert len(streams[0]) == 13
    with pytest.raises(UserError, match=r"two members would be called 'sick'.*NAME="):
        storage.pack([large, f"sick={tasks[1]}"], tmp_path / "twice.pruneonce")


def test_models_of_different_parents_are_no_family(tasks, tmp_path):
    tensors = weights(tasks[1])
    for name, weight in tensors.items():
        tensors[name] = np.ascontiguousarray(weight[::-1]) if "encoder" in name else weight
    save(tensors, tasks[1])
    with pytest.raises(UserError, match="do not share one zero pattern"):
        storage.pack(tasks, tmp_path / "family.pruneonce")
    assert not list(tmp_path.glob("family*"))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a"], ["a"]),
        (["runs/a", "runs/b"], ["a", "b"]),
        (["tasks/sst2/sparse", "tasks/sick/sparse"], ["sst2", "sick"]),
        (["tasks/über", "tasks/.x"], ["_ber", "_.x"]),
    ],
)
def test_names_of_members(paths, names, tmp_path):
    assert member_names([tmp_path / path for path in paths]) == names


# -- loading ----------------------------------------------------------------------------------------------------


def test_load_gives_the_model_of_the_folder(tasks, tmp_path):
    file = tmp_path / "family.pruneonce"
    storage.pack(tasks, file, "fp32")
    tokens = torch.arange(5, 25).view(2, 10)
    for task in tasks:
        expected = AutoModelForSequenceClassification.from_pretrained(task)
        for model in (pruneonce.load(file, member=task.parent.name), pruneonce.load(str(task))):
            assert type(model) is type(expected)
            assert not model.training
            with torch.no_grad():
                assert torch.equal(model(tokens).logits, expected(tokens).logits)


def test_load_leaves_no_random_pooler(sparse, tmp_path):
    save({name: weight for name, weight in weights(sparse).items() if "pooler" not in name}, sparse)
    storage.pack([sparse], tmp_path / "packed.pruneonce")
    for path in (tmp_path / "packed.pruneonce", sparse):
        assert pruneonce.load(path).pooler is None
    save({name: weight for name, weight in weights(sparse).items() if name != QUERY}, sparse)
    for read in (lambda: storage.pack([sparse], tmp_path / "lacking.pruneonce"), lambda: pruneonce.load(sparse)):
        with pytest.raises(UserError, match=f"no weights for {QUERY}"):
            read()


# -- mistakes ---------------------------------------------------------------------------------------------------


def broken(folder, change):
    tensors = weights(folder)
    if change == "nan":
        tensors[QUERY][0, 0] = np.nan
    elif change == "half":
        tensors[QUERY] = tensors[QUERY].astype(np.float16)
    elif change == "shape":
        tensors[QUERY] = np.ascontiguousarray(tensors[QUERY][:8])
    elif change == "names":
        tensors = {f"other.{name}": weight for name, weight in tensors.items()}
    elif change == "off grid":
        grid.save(folder, {QUERY: grid.Grid(8, np.array([0.01], np.float32))})
    elif change == "other grid":
        grid.save(folder, {QUERY: grid.Grid(8, np.ones(7, np.float32))})
    elif change == "unknown grid":
        grid.save(folder, {"x": grid.Grid(8, np.ones(7, np.float32))})
    elif change == "pickled":
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense/pytorch_model.bin").touch()
    elif change == "config":
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
    elif change == "truncated":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
        return
    elif change == "bfloat16":
        model = AutoModel.from_pretrained(folder)
        model.to(torch.bfloat16).save_pretrained(folder)
        return
    save(tensors, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nan", "infinite or undefined"),
        ("half", "rounding takes float32"),
        ("shape", "config.json asks for"),
        ("names", "another model than the weights are of"),
        ("off grid", "does not lie on the grid"),
        ("other grid", "does not fit its type or shape"),
        ("unknown grid", "which is not in model.safetensors"),
        ("pickled", "is pickled"),
        ("config", "does not describe a model|is not supported|another model"),
        ("truncated", "is damaged"),
        ("bfloat16", "save the model in float32"),
    ],
)
def test_folders_that_cannot_be_packed(change, message, sparse, tmp_path):
    broken(sparse, change)
    with pytest.raises(UserError, match=message):
        storage.pack([sparse], tmp_path / "packed.pruneonce")
    assert not list(tmp_path.glob("packed*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pack model", "Missing argument"),
        ("pack model out", "must end in .pruneonce"),
        ("pack model model", "must end in .pruneonce"),
        ("pack model there.pruneonce", "exists; choose another file"),
        ("pack model nowhere/out.pruneonce", "no folder nowhere"),
        ("pack nothing out.pruneonce", "no model folder at nothing"),
        ("pack there.pruneonce out.pruneonce", "is packed already"),
        ("pack model model out.pruneonce", "the same model is named twice"),
        ("pack model out.pruneonce --values int5", "int5"),
        ("unpack there.pruneonce", "Missing argument"),
        ("unpack there.pruneonce model", "exists; choose another folder"),
        ("unpack nothing.pruneonce out", "no packed file at nothing.pruneonce"),
        ("unpack model out", "no packed file at model"),
        ("unpack model/config.json out", "is not a packed file"),
        ("unpack model/model.safetensors out", "not one that `pruneonce pack` made"),
        ("unpack there.pruneonce out --member x", "has no member 'x'; it holds model"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, message, sparse, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    storage.pack([sparse], tmp_path / "there.pruneonce")
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_family_needs_a_member_to_load(tasks, tmp_path):
    storage.pack(tasks, tmp_path / "family.pruneonce")
    with pytest.raises(UserError, match="is a family: choose a member; it holds sst2, sick"):
        pruneonce.load(tmp_path / "family.pruneonce")
    with pytest.raises(UserError, match="has no members"):
        pruneonce.load(tasks[0], member="sst2")


def test_the_verbs(sparse, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pack", "model", "packed.pruneonce"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[:8]] == [
        "bytes", "encoder", "embeddings", "rest", "model", "files", "index", "file"
    ]  # fmt: skip
    assert f"{(tmp_path / 'packed.pruneonce').stat().st_size:,}" in shown
    assert shown.splitlines()[-1] == "next: pruneonce unpack packed.pruneonce packed"
    assert main(["unpack", "packed.pruneonce", "packed"]) == 0
    assert capsys.readouterr().out == "made packed\n"
    assert main(["pack", "model", "again.pruneonce", "--values", "int4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["values"] == "int4"
    assert told["bytes"] == (tmp_path / "again.pruneonce").stat().st_size


# -- the real MiniLM --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("values", "smaller"), [("fp32", 10), ("int8", 25), ("int4", 38)])
def test_minilm_is_within_five_percent_of_its_limit(values, smaller, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = prune(shutil.copytree(packaged_model(), tmp_path / "model"))
    told = storage.pack([model], tmp_path / "packed.pruneonce", values).to_json()
    assert told["parts"]["encoder"]["over_limit"] < 1.05
    assert told["parts"]["model"]["over_limit"] < 1.05
    assert told["parts"]["encoder"]["times_smaller"] > smaller
    (back,) = storage.unpack(tmp_path / "packed.pruneonce", tmp_path / "back")
    before, after = (SentenceTransformer(str(folder), device="cpu") for folder in (model, back))
    texts = ["a river in winter", "stocks fell"]
    likeness = (before.encode(texts) * after.encode(texts)).sum(axis=1)
    assert (likeness > {"fp32": 0.99999, "int8": 0.999, "int4": 0.95}[values]).all()


def test_a_place_that_may_not_be_written(encoder, tmp_path, monkeypatch):
    """Packing and unpacking name the place that was given, and leave nothing."""
    storage.pack([encoder], tmp_path / "x.pruneonce")

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "aside")

    monkeypatch.setattr("pruneonce.system.durable.publish", refuse)
    for call in (
        lambda: storage.pack([encoder], tmp_path / "y.pruneonce"),
        lambda: storage.unpack(tmp_path / "x.pruneonce", tmp_path / "y"),
    ):
        with pytest.raises(UserError, match=r"^cannot write .*/y[^ ]*: Permission denied; once that is put right"):
            call()
    assert [file.name for file in tmp_path.iterdir()] == ["x.pruneonce"]


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_packed_file_that_is_cut_off_is_one_line_with_a_remedy(kept, encoder, tmp_path):
    file = tmp_path / "x.pruneonce"
    storage.pack([encoder], file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if kept == 0.5 else kept])
    with pytest.raises(UserError, match=r"damaged: .*; copy the whole file again, or pack the models again") as caught:
        storage.unpack(file, tmp_path / "out")
    assert "\n" not in str(caught.value)
