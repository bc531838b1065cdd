"""Every stage that trains: stopped by a signal and started again, it makes the very files of an uninterrupted run."""

import json
import os
import shutil
import signal
import sys
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from shared.models import WORDS, make_model

from pruneonce import stages, training
from pruneonce.errors import Interrupted
from pruneonce.plugins import plugins
from pruneonce.recipe import (
    Classification,
    Corpus,
    Embedding,
    Gradual,
    Prepare,
    ProductQuantize,
    Prune,
    Quantize,
    Reranking,
    Training,
    Transfer,
)
from pruneonce.training import checkpoints
from pruneonce.training.trainer import SparseTrainer

STEPS = 12
TRAIN = {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-3, "dropout": 0.1}
PRUNING = {**TRAIN, "every": 2, "end": 8, "warmup": 2}
EPOCHS = {"epochs": 2.2, "batch_size": 16, "accumulate": 2, "learning_rate": 1e-3, "dropout": 0.1}  # 7 steps


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tokenizer, corpus_file, task_files):
    folder = tmp_path_factory.mktemp("inputs")
    corpus = Corpus(source=str(corpus_file), block_length=16, validation=0.01)
    task = Classification(**{split: str(task_files / f"{split}.jsonl") for split in ("train", "dev")})
    bare = make_model(folder / "bare", tokenizer)
    (folder / "pairs.jsonl").write_text(
        "".join(
            json.dumps({"text": f"the {word}", "text_pair": f"a {other}", "label": int(word == other)}) + "\n"
            for word in WORDS[20:30]
            for other in WORDS[20:24]
        )
    )
    pairs = str(folder / "pairs.jsonl")
    dense = make_model(folder / "dense", tokenizer, "distilbert", head=True)
    return {
        "bare": bare,
        "dense": dense,
        "corpus": corpus,
        "streamed": corpus.model_copy(update={"streaming": True}),
        "task": task,
        "vectors": Embedding(train=str(corpus_file), dev=pairs, max_length=16),
        "scores": Reranking(train=pairs, dev=pairs, query="text", passage="text_pair"),
        "sparse": stages.prune_one_shot(dense, Prune(**PRUNING), folder / "sparse"),
        "teacher": stages.finetune(dense, task, Training(**{**EPOCHS, "epochs": 1}), folder / "teacher"),
    }


def prepare(inputs):
    return partial(stages.prepare, inputs["bare"], inputs["corpus"], Prepare(**TRAIN, head_steps=6))


def prune(inputs, source="dense", corpus="corpus", **changes):
    return partial(stages.prune, inputs[source], inputs[corpus], Prune(**{**PRUNING, **changes}))


def finetune(inputs, task="task", **changes):
    return partial(stages.finetune, inputs["dense"], inputs[task], Training(**{**EPOCHS, **changes}))


def from_teacher(stage, section, inputs, task="task", teacher="teacher", **changes):
    source = "dense" if section is Gradual else "sparse"
    settings = section(**{**EPOCHS, **changes})
    return partial(stage, inputs[source], inputs[task], settings, teacher=inputs[teacher])


STAGES = {
    "prepare": prepare,
    "prune": prune,
    "prune, hidden": partial(prune, source="bare", objective="hidden", rewind=False),
    "prune, both, not nested": partial(prune, objective="both", nested=False, until=11),
    "prune, global": partial(prune, allocation="global", kd_tokens="masked", accumulate=2),
    "prune, checkpointed activations": partial(prune, activation_checkpointing=True),
    "prune, in pieces": partial(prune, objective="both", pieces=[1, 2]),
    "prune, streamed": partial(prune, corpus="streamed", objective="hidden"),
    "finetune": finetune,
    "transfer": partial(from_teacher, stages.transfer, Transfer, task_weight=0.5, kd_weight=0.5),
    "transfer, embedding": partial(
        from_teacher, stages.transfer, Transfer, task="vectors", teacher="dense", epochs=1.2, hidden_weight=0
    ),
    "finetune, reranking": partial(finetune, task="scores", epochs=6),
    "gradual": partial(from_teacher, stages.transfer_gradual, Gradual, every=1, end=4, nested=False),
    "quantize": partial(from_teacher, stages.quantize, Quantize, averaging=0.1),
    "quantize, 4 bits": partial(
        from_teacher, stages.quantize, Quantize, bits=4, granularity="group", group_size=8
    ),
    "product quantize": partial(from_teacher, stages.product_quantize, ProductQuantize, centroids=16),
}  # fmt: skip

# Every registered method in every stage that it trains in, with the options of its example.
BY_STAGE = {
    "prune": prune,
    "gradual": STAGES["gradual"],
    "finetune": finetune,
    "transfer": STAGES["transfer"],
    "quantize": STAGES["quantize"],
}
METHODS = {
    f"{stage}, {name}": partial(BY_STAGE[stage], method={"name": name, **plugin.example})
    for name, plugin in plugins().items()
    for stage in sorted(plugin.stages & BY_STAGE.keys())
}
STAGES |= METHODS


@pytest.fixture
def signalled(monkeypatch):
    """Sends this process a signal in the forward pass of given steps, counted over all that is trained."""

    def install(*at, number=signal.SIGTERM):
        seen = 0
        usual = SparseTrainer.training_step

        def step(self, *args, **kwargs):
            nonlocal seen
            if self.accelerator.sync_gradients:
                seen += 1
                if seen in at:
                    os.kill(os.getpid(), number)
            return usual(self, *args, **kwargs)

        monkeypatch.setattr(SparseTrainer, "training_step", step)

    return install


def content(folder):
    """All that a stage made: tensors bit for bit, metrics, and provenance without the clock."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= {f"{file.name} {name}": opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    made = json.loads((folder / "pruneonce.json").read_text())
    made["training"].pop("seconds")
    jsons = ("metrics.json", "quantized_inputs.json", "config.json")
    return found, [made, *((folder / name).read_text() for name in jsons if (folder / name).is_file())]


def assert_same(one, other):
    (tensors, rest), (others, other_rest) = content(one), content(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == others[name].dtype
        assert torch.equal(tensor.view(torch.uint8), others[name].view(torch.uint8)), name
    assert rest == other_rest
    assert not {path.name for path in other.iterdir()} & {"begun.json", "checkpoints", "lock", "head", "cache"}


SLOW = ("prune, hidden", "prune, global", "prune, checkpointed activations", "quantize, 4 bits")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in STAGES]
)
def test_interrupted_and_resumed_equals_uninterrupted(name, inputs, signalled, tmp_path):
    stage = STAGES[name](inputs)
    whole = stage(tmp_path / "whole")
    steps = json.loads((whole / "pruneonce.json").read_text())["training"]["steps"]
    signalled(5, steps // 2 + 4)
    output = tmp_path / "resumed"
    for _ in range(2):
        with pytest.raises(Interrupted) as stop:
            stage(output)
        assert stop.value.signal == signal.SIGTERM
        assert list((tmp_path / "resumed.partial").rglob("checkpoint-*/hashes.json"))
    assert_same(whole, stage(output))


def test_between_two_logs(inputs, signalled, tmp_path, monkeypatch):
    """What was not logged when the signal came is part of what the next log says."""
    loop = sys.modules[training.train.__module__]  # the function has the name of its module
    usual = loop._arguments

    def seldom(*args):
        arguments = usual(*args)
        arguments.logging_steps = 4
        return arguments

    monkeypatch.setattr(loop, "_arguments", seldom)
    stage = STAGES["prune, both, not nested"](inputs)
    whole = stage(tmp_path / "whole")
    signalled(6, 6 + 5)
    for _ in range(2):
        with pytest.raises(Interrupted):
            stage(tmp_path / "resumed")
    assert_same(whole, stage(tmp_path / "resumed"))
    steps = [entry["step"] for entry in json.loads((whole / "metrics.json").read_text())["history"]]
    assert steps == [4, 8, 12]


def test_a_signal_in_the_last_step(inputs, signalled, tmp_path):
    whole = finetune(inputs)(tmp_path / "whole")
    signalled(7, number=signal.SIGINT)
    with pytest.raises(Interrupted) as stop:
        finetune(inputs)(tmp_path / "resumed")
    assert stop.value.signal == signal.SIGINT
    assert (tmp_path / "resumed.partial" / "checkpoints" / "checkpoint-7").is_dir()
    assert_same(whole, finetune(inputs)(tmp_path / "resumed"))


def test_between_two_groups_of_weights_on_codebooks(inputs, signalled, tmp_path):
    """Embeddings go onto codebooks in step 2, attention in step 4: once before, and never again after."""
    stage = STAGES["product quantize"](inputs)
    whole = stage(tmp_path / "whole")
    signalled(2, 3)
    for _ in range(2):
        with pytest.raises(Interrupted):
            stage(tmp_path / "resumed")
    assert_same(whole, stage(tmp_path / "resumed"))


def test_checkpoints_of_both_runs_are_equal(inputs, signalled, tmp_path):
    """Moments, masks, parked weights and random state, not only what becomes of them."""
    stage = STAGES["prune, both, not nested"]
    signalled(7, 10, 20)  # of the second run: in the seventh and in the tenth of its steps
    for name in ("resumed", "resumed", "whole"):
        with pytest.raises(Interrupted):
            stage(inputs)(tmp_path / name)
    one, other = (tmp_path / f"{name}.partial" / "checkpoints" / "checkpoint-10" for name in ("resumed", "whole"))
    names = ("masks", "model", "optimizer", "parked", "process-0")
    assert sorted(file.stem for file in one.glob("*.safetensors")) == list(names)
    for name in [file.name for file in one.glob("*.safetensors")]:
        tensors, others = load_file(one / name), load_file(other / name)
        assert tensors.keys() == others.keys()
        for key in tensors.keys() - {"seconds"}:
            assert torch.equal(tensors[key], others[key]), (name, key)


def test_damaged_checkpoints_are_passed_over(inputs, signalled, tmp_path, capsys):
    stage = STAGES["prune"](inputs, checkpoint_every=4)
    whole = stage(tmp_path / "whole")
    signalled(10)
    with pytest.raises(Interrupted), checkpoints.keeping(3):
        stage(tmp_path / "resumed")
    found = tmp_path / "resumed.partial" / "checkpoints"
    assert sorted(path.name for path in found.iterdir()) == ["checkpoint-10", "checkpoint-4", "checkpoint-8"]
    weights = found / "checkpoint-10" / "optimizer.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    (found / "checkpoint-8" / "masks.safetensors").unlink()
    capsys.readouterr()
    resumed = stage(tmp_path / "resumed")
    said = " ".join(capsys.readouterr().out.split())
    assert "checkpoint-10 is damaged (optimizer.safetensors is not what was written) and passed over" in said
    assert "checkpoint-8 is damaged (a file is missing, or one too many)" in said
    assert_same(whole, resumed)


def test_without_any_whole_checkpoint_it_begins_again(inputs, signalled, tmp_path):
    stage = STAGES["finetune"](inputs)
    signalled(3)
    with pytest.raises(Interrupted):
        stage(tmp_path / "resumed")
    for file in (tmp_path / "resumed.partial" / "checkpoints").rglob("*.json"):
        file.write_text("{")
    resumed = stage(tmp_path / "resumed")
    assert_same(stage(tmp_path / "whole"), resumed)


@pytest.mark.parametrize("number", [1, 3])
def test_so_many_checkpoints_are_kept(number, inputs, signalled, tmp_path):
    signalled(11)
    with pytest.raises(Interrupted), checkpoints.keeping(number):
        STAGES["prune"](inputs, checkpoint_every=2)(tmp_path / "out")
    kept = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "out.partial" / "checkpoints").iterdir())
    assert kept == [11, 10, 8, 6][:number][::-1]
    shutil.rmtree(tmp_path / "out.partial")


def test_half_of_a_checkpoint_is_never_under_its_name(tmp_path, monkeypatch):
    """A process that is killed while it removes an old one leaves none that looks whole and is not."""
    usual = shutil.rmtree

    def killed(path, **kwargs):
        if path.exists():
            (path / "weights").unlink()
            raise KeyboardInterrupt

    def write(step):
        checkpoints.write(tmp_path, step, lambda folder: (folder / "weights").write_text(f"of {step}"))

    write(1)
    write(2)
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        write(3)
    monkeypatch.setattr(shutil, "rmtree", usual)
    found = [path for path in tmp_path.iterdir() if path.suffix != ".partial"]
    assert sorted(path.name for path in found) == ["checkpoint-2", "checkpoint-3"]
    assert all(checkpoints.damage(path) is None for path in found)
    write(4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4"]
