"""Each stage alone, on tiny real models: what it writes, and that plain transformers loads it with the same zeros."""

import json

import pytest
import torch
from safetensors import safe_open
from shared.folders import zeros_in_file
from shared.models import CONFIGS, make_model
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from pruneonce import stages
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus, Prepare, Prune, Training, Transfer
from pruneonce.sparsity import ARCHITECTURES, inspect_model, verify

PRUNE = {"steps": 12, "batch_size": 4, "learning_rate": 1e-3, "every": 2, "rewind": False}


@pytest.fixture
def corpus(corpus_file):
    return Corpus(source=str(corpus_file), block_length=16, validation=0.1)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_mlm_pruning_then_transfer(architecture, tokenizer, corpus, task, tmp_path):
    """The main job for every architecture: prune with the MLM objective, then a task with the zeros locked."""
    dense = make_model(tmp_path / "dense", tokenizer, architecture, head=True)
    if architecture == "bert":  # BertForPreTraining has a pooler that BertForMaskedLM did not save
        dense = stages.prepare(dense, corpus, Prepare(steps=2, batch_size=4, learning_rate=1e-4), tmp_path / "teacher")
    sparse = stages.prune(dense, corpus, Prune(**PRUNE, objective="mlm"), tmp_path / "sparse")
    zeros = zeros_in_file(sparse)
    layers = {name: share for name, share in zeros.items() if "relative_attention_bias" not in name}
    assert len(layers) >= 8
    assert all(share == pytest.approx(0.9, abs=2e-3) for share in layers.values())
    metrics = json.loads((sparse / "metrics.json").read_text())
    assert {"loss_mlm", "loss_kd", "sparsity"} <= set(metrics["history"][-1])
    assert {"mlm", "kd", "loss"} <= set(metrics["final"])

    settings = Training(epochs=1, batch_size=16, learning_rate=1e-3)
    teacher = stages.finetune(dense, task, settings, tmp_path / "task" / "dense")
    child = stages.transfer(
        sparse, task, Transfer(**settings.model_dump()), tmp_path / "task" / "sparse", teacher=teacher
    )
    assert verify(child, sparse).ok
    for auto in (AutoModel, AutoModelForMaskedLM):
        auto.from_pretrained(sparse)
    model = AutoModelForSequenceClassification.from_pretrained(child)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    found = stages.evaluate(child, task)
    assert found["test"]["examples"] == 40
    assert 0 <= found["test"]["accuracy"] <= 1


def test_tied_embeddings_stay_tied_and_dense(tokenizer, corpus, tmp_path):
    dense = make_model(tmp_path / "dense", tokenizer, "distilbert", head=True)
    sparse = stages.prune(dense, corpus, Prune(**PRUNE, objective="mlm"), tmp_path / "sparse")
    model = AutoModelForMaskedLM.from_pretrained(sparse)
    assert model.vocab_projector.weight is model.distilbert.embeddings.word_embeddings.weight
    assert (model.vocab_projector.weight == 0).float().mean() < 0.05  # the padding row alone
    assert (model.vocab_transform.weight == 0).sum() == 0


@pytest.mark.parametrize("objective", ["hidden", "both"])
def test_other_objectives(objective, encoder, corpus, tmp_path):
    source = encoder
    if objective == "both":
        source = stages.prepare(
            encoder, corpus, Prepare(steps=2, batch_size=4, learning_rate=1e-4), tmp_path / "teacher"
        )
    sparse = stages.prune(source, corpus, Prune(**PRUNE, objective=objective), tmp_path / "sparse")
    assert inspect_model(sparse).encoder == pytest.approx(0.9, abs=2e-3)
    final = json.loads((sparse / "metrics.json").read_text())["final"]
    assert ("mlm" in final) == (objective == "both")
    assert 0 < final["hidden"] < 1.5


def test_hidden_pruning_learns(encoder, corpus, tmp_path):
    """More steps at the same sparsity leave a smaller distance to the teacher than fewer."""
    losses = []
    for steps in (4, 60):
        settings = Prune(**{**PRUNE, "steps": steps, "every": 1}, objective="hidden")
        sparse = stages.prune(encoder, corpus, settings, tmp_path / f"sparse-{steps}")
        losses.append(json.loads((sparse / "metrics.json").read_text())["final"]["loss"])
    assert losses[1] < losses[0]


def test_a_sparse_model_goes_on_and_the_dense_one_teaches(encoder, corpus, tmp_path):
    still = {**PRUNE, "learning_rate": 1e-12, "sparsity": 0.6, "initial_sparsity": 0.6, "objective": "hidden"}
    sparse = stages.prune(encoder, corpus, Prune(**{**PRUNE, "sparsity": 0.6}, objective="hidden"), tmp_path / "sparse")
    taught = stages.prune(sparse, corpus, Prune(**still), tmp_path / "taught", teacher=encoder)
    alone = stages.prune(sparse, corpus, Prune(**still), tmp_path / "alone")
    losses = [json.loads((model / "metrics.json").read_text())["final"]["loss"] for model in (sparse, taught, alone)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] < losses[0] / 100  # its teacher is itself
    further = Prune(**{**still, "learning_rate": 1e-3, "sparsity": 0.9})
    assert inspect_model(stages.prune(sparse, corpus, further, tmp_path / "further", teacher=encoder)).encoder > 0.89
    forgotten = further.model_copy(update={"initial_sparsity": 0.0})
    with pytest.raises(UserError, match=r"would grow back first.* of 0\.6"):
        stages.prune(sparse, corpus, forgotten, tmp_path / "forgotten", teacher=encoder)


def test_a_teacher_of_another_shape_cannot_teach_pruning(encoder, tokenizer, corpus, tmp_path):
    other = make_model(tmp_path / "other", tokenizer, "distilbert", head=True)
    with pytest.raises(UserError, match="is a distilbert of 2 layers"):
        stages.prune(encoder, corpus, Prune(**PRUNE, objective="hidden"), tmp_path / "sparse", teacher=other)


def test_pieces_that_are_too_short_are_refused(encoder, corpus, tmp_path):
    with pytest.raises(UserError, match="texts of 4"):
        stages.prune(encoder, corpus, Prune(**PRUNE, objective="hidden", pieces=[1, 4]), tmp_path / "sparse")


def test_prepare_trains_a_new_head_first(encoder, corpus, tmp_path, capsys):
    settings = Prepare(steps=40, batch_size=8, learning_rate=5e-3, head_steps=0.5)
    teacher = stages.prepare(encoder, corpus, settings, tmp_path / "teacher")
    assert "trained alone for 20 steps" in " ".join(capsys.readouterr().out.split())
    metrics = json.loads((teacher / "metrics.json").read_text())
    assert metrics["final"]["mlm"] < metrics["history"][0]["loss"]
    model = AutoModelForMaskedLM.from_pretrained(teacher)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    before, after = (AutoModel.from_pretrained(folder) for folder in (encoder, teacher))
    assert not torch.equal(before.encoder.layer[0].output.dense.weight, after.encoder.layer[0].output.dense.weight)


def test_mlm_pruning_needs_a_head(encoder, corpus, tmp_path):
    with pytest.raises(UserError, match=r"has no MLM head.*objective: hidden"):
        stages.prune(encoder, corpus, Prune(**PRUNE, objective="mlm"), tmp_path / "sparse")


def test_transfer_refuses_a_dense_model(encoder, task, tmp_path):
    settings = Training(epochs=1, batch_size=16, learning_rate=1e-3)
    teacher = stages.finetune(encoder, task, settings, tmp_path / "dense")
    with pytest.raises(UserError, match="no zeros to lock"):
        stages.transfer(encoder, task, Transfer(**settings.model_dump()), tmp_path / "sparse", teacher=teacher)
    assert not (tmp_path / "sparse").exists()


def test_a_teacher_of_another_task_is_refused(encoder, task, tmp_path):
    settings = Training(epochs=1, batch_size=16, learning_rate=1e-3)
    sparse = stages.prune_one_shot(encoder, Prune(**PRUNE), tmp_path / "sparse")
    other = task.model_copy(update={"labels": ["negative", "positive", "none"]})
    teacher = stages.finetune(encoder, other, settings, tmp_path / "dense")
    with pytest.raises(UserError, match="the task has"):
        stages.transfer(sparse, task, Transfer(**settings.model_dump()), tmp_path / "child", teacher=teacher)
    with pytest.raises(UserError, match="the task has"):
        stages.evaluate(teacher, task)


def test_learned_task(encoder, task, tmp_path):
    """Fine-tuning learns: the word that decides is found."""
    model = stages.finetune(encoder, task, Training(epochs=15, batch_size=8, learning_rate=3e-3), tmp_path / "dense")
    assert stages.evaluate(model, task)["test"]["accuracy"] > 0.8


def test_finished_work_is_recognised_and_nothing_overwritten(encoder, corpus, tmp_path, capsys):
    settings = Prune(**PRUNE, objective="hidden")
    sparse = stages.prune(encoder, corpus, settings, tmp_path / "sparse")
    changed = (sparse / "model.safetensors").stat().st_mtime_ns
    stages.prune(encoder, corpus, settings, tmp_path / "sparse")
    assert "already made" in capsys.readouterr().out
    assert (sparse / "model.safetensors").stat().st_mtime_ns == changed
    other = Prune(**{**PRUNE, "sparsity": 0.5}, objective="hidden")
    with pytest.raises(UserError, match="already holds something else"):
        stages.prune(encoder, corpus, other, tmp_path / "sparse")


def test_unfinished_work_of_other_settings_is_not_mixed(encoder, corpus, tmp_path):
    begun = tmp_path / "sparse.partial"
    begun.mkdir()
    (begun / "begun.json").write_text('{"key": "other"}')
    with pytest.raises(UserError, match="unfinished work of other settings"):
        stages.prune(encoder, corpus, Prune(**PRUNE, objective="hidden"), tmp_path / "sparse")


def test_a_folder_without_a_model(corpus, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no config\.json"):
        stages.prune(tmp_path / "empty", corpus, Prune(**PRUNE), tmp_path / "sparse")
    with pytest.raises(UserError, match="no model folder at"):
        stages.prune(tmp_path / "missing", corpus, Prune(**PRUNE), tmp_path / "sparse")


def test_the_teacher_is_not_in_the_student(encoder, corpus, tmp_path):
    """The same parameters under the same names as the dense model: no teacher, no mask, nothing renamed."""
    sparse = stages.prune(encoder, corpus, Prune(**PRUNE, objective="hidden"), tmp_path / "sparse")
    shapes = []
    for folder in (encoder, sparse):
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            shapes.append({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
    assert shapes[0] == shapes[1]


def test_pruning_nothing_is_refused(encoder, corpus, tmp_path):
    nothing = Prune(**PRUNE, objective="hidden", sparsity=0.0)
    with pytest.raises(UserError, match="prunes nothing"):
        stages.prune(encoder, corpus, nothing, tmp_path / "sparse")
    with pytest.raises(UserError, match="prunes nothing"):
        stages.prune_one_shot(encoder, nothing, tmp_path / "sparse")


def test_a_mistake_found_late_leaves_no_folder(encoder, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        stages.prune(encoder, Corpus(source="./nowhere.txt"), Prune(**PRUNE, objective="hidden"), tmp_path / "sparse")
    small = tmp_path / "small.txt"
    small.write_text("the good river\n")
    with pytest.raises(UserError, match="too small"):
        stages.prune(encoder, Corpus(source=str(small)), Prune(**PRUNE, objective="hidden"), tmp_path / "sparse")
    assert [path.name for path in tmp_path.iterdir()] == ["small.txt"]


def test_verify_finds_a_lost_zero(encoder, tmp_path):
    sparse = stages.prune_one_shot(encoder, Prune(**PRUNE), tmp_path / "sparse")
    model = AutoModel.from_pretrained(sparse)
    weight = model.encoder.layer[1].output.dense.weight
    weight.data[(weight == 0).nonzero()[0].split(1)] = 0.5
    model.save_pretrained(tmp_path / "broken")
    found = verify(tmp_path / "broken", sparse)
    assert not found.ok
    assert [(layer.name, layer.lost) for layer in found.layers if layer.lost] == [
        ("encoder.layer.1.output.dense.weight", 1)
    ]
    with pytest.raises(UserError, match="has no zeros to verify against"):
        verify(sparse, encoder)


def test_architectures_in_tests_are_supported():
    assert set(CONFIGS) < set(ARCHITECTURES)  # for the others see tests/models


def test_inspection_counts_like_the_file(encoder, tmp_path):
    sparse = stages.prune_one_shot(encoder, Prune(**PRUNE, sparsity=0.75), tmp_path / "sparse")
    found = inspect_model(sparse)
    assert {layer.name: layer.sparsity for layer in found.layers} == pytest.approx(zeros_in_file(sparse))
    assert found.bytes == (sparse / "model.safetensors").stat().st_size
    assert found.provenance["stage"] == "prune-one-shot"
    assert found.to_json()["layers"][0]["sparsity"] == found.layers[0].sparsity


@pytest.mark.parametrize("objective", ["mlm", "hidden"])
def test_a_streamed_corpus(objective, tokenizer, corpus, tmp_path):
    dense = make_model(tmp_path / "dense", tokenizer, "distilbert", head=True)
    streamed = corpus.model_copy(update={"streaming": True, "validation": 0.01})
    made = stages.prune(dense, streamed, Prune(**PRUNE, objective=objective), tmp_path / "sparse")
    assert inspect_model(made).encoder == pytest.approx(0.9, abs=1e-3)
    settings = Prune(**{**PRUNE, "steps": None}, epochs=1)
    with pytest.raises(UserError, match="give `steps`, not `epochs`"):
        stages.prune(dense, streamed, settings, tmp_path / "epochs")
    assert not list(tmp_path.glob("epochs*"))


def test_dropout_of_the_training_is_not_that_of_the_result(tokenizer, corpus, tmp_path):
    dense = make_model(tmp_path / "dense", tokenizer, head=True)
    made = stages.prune(dense, corpus, Prune(**PRUNE, objective="hidden", dropout=0.0), tmp_path / "sparse")
    config = AutoModel.from_pretrained(made).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)


def final_loss(dense, corpus, folder, **settings):
    made = stages.prune(dense, corpus, Prune(**{**PRUNE, "objective": "mlm", "dropout": 0.0, **settings}), folder)
    return json.loads((made / "metrics.json").read_text())["final"]


def test_switches_that_must_not_change_the_result(tokenizer, corpus, tmp_path):
    dense = make_model(tmp_path / "dense", tokenizer, head=True)
    dense = stages.prepare(dense, corpus, Prepare(steps=2, batch_size=4, learning_rate=1e-4), tmp_path / "teacher")
    plain = final_loss(dense, corpus, tmp_path / "plain")
    again = final_loss(dense, corpus, tmp_path / "checkpointed", activation_checkpointing=True)
    assert again == pytest.approx(plain, rel=1e-4)
    halves = final_loss(dense, corpus, tmp_path / "halves", batch_size=2, accumulate=2)
    assert halves == pytest.approx(plain, rel=1e-3)
    masked = final_loss(dense, corpus, tmp_path / "masked", kd_tokens="masked")
    assert masked["mlm"] == pytest.approx(plain["mlm"], rel=0.05)
    assert masked["kd"] != pytest.approx(plain["kd"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
)  # torch's own use of it
def test_compiled_training_gives_the_same(tokenizer, corpus, tmp_path):
    dense = make_model(tmp_path / "dense", tokenizer, "distilbert", head=True)
    plain = final_loss(dense, corpus, tmp_path / "plain")
    assert final_loss(dense, corpus, tmp_path / "compiled", compile=True) == pytest.approx(plain, rel=1e-2)
