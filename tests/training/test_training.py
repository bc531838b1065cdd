"""The Trainer's hooks: schedules follow the step, resume goes on, nothing is pickled."""

import shutil

import pytest
import torch
from datasets import Dataset
from shared.models import make_model
from transformers import AutoModel, AutoModelForSequenceClassification

from pruneonce.data.blocks import in_order, plain_collator
from pruneonce.data.corpus import token_blocks
from pruneonce.errors import UserError
from pruneonce.losses.objectives import pruning_objective
from pruneonce.models import load_config, load_encoder, without_dropout
from pruneonce.models.architectures import prunable_weights
from pruneonce.recipe import Classification, Corpus, Prune
from pruneonce.sparsity import PruningSchedule, cubic_sparsity, locked_masks, pattern_hash
from pruneonce.tasks import kind_of
from pruneonce.tasks.prediction import predict
from pruneonce.training import Job, examples_of, total_steps, train
from pruneonce.training.sparsifier import Pruner

SETTINGS = {
    "objective": "hidden",
    "steps": 12,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "warmup": 2,
    "start": 0,
    "end": 8,
    "every": 2,
    "dropout": 0.0,
}


@pytest.fixture
def blocks(corpus_file, tokenizer, tmp_path):
    return token_blocks(Corpus(source=str(corpus_file), block_length=16), tokenizer, tmp_path / "cache")[0]


def sparse_training(encoder, blocks, folder, **changes):
    """Train a fresh student; returns it and what training logged."""
    settings = Prune(**{**SETTINGS, **changes})
    torch.manual_seed(0)
    student = load_encoder(encoder, **without_dropout(load_config(encoder), 0.0))
    teacher = load_encoder(encoder).eval()
    job = Job(
        model=student,
        objective=pruning_objective(teacher, settings),
        examples=in_order(blocks, examples_of(settings, settings.steps), seed=42),
        collate=plain_collator,
        settings=settings,
        steps=settings.steps,
        length=16,
        sparsifier=Pruner(prunable_weights(student), settings, PruningSchedule.of(settings, settings.steps)),
    )
    return student, train(job, folder, "test")


def test_sparsity_and_learning_rate_follow_the_schedules(encoder, blocks, tmp_path):
    _, trained = sparse_training(encoder, blocks, tmp_path)
    assert [entry["step"] for entry in trained.history] == list(range(1, 13))
    schedule = PruningSchedule.of(Prune(**SETTINGS), 12)
    for entry in trained.history:
        updated = (entry["step"] - 1) // 2 * 2  # the last update before this step's forward pass
        target = cubic_sparsity(min(updated, 8), 0, 8, 0.0, 0.9)
        assert entry["sparsity"] == pytest.approx(target, abs=1e-3)
        rate = schedule.learning_rate(entry["step"] - 1, 12, 2) * 1e-3
        assert entry["learning_rate"] == pytest.approx(rate, abs=1e-9)
    assert trained.steps == 12
    assert trained.tokens == 12 * 4 * 16


@pytest.mark.parametrize("nested", [True, False])
def test_resume_equals_uninterrupted(encoder, blocks, tmp_path, nested):
    """Weights, masks and log: a run that goes on from its checkpoint at step 6 is the run that was not interrupted."""
    whole, logged = sparse_training(encoder, blocks, tmp_path / "one", checkpoint_every=6, nested=nested)
    shutil.copytree(
        tmp_path / "one" / "checkpoints" / "checkpoint-6", tmp_path / "two" / "checkpoints" / "checkpoint-6"
    )
    resumed, logged_again = sparse_training(encoder, blocks, tmp_path / "two", checkpoint_every=6, nested=nested)
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    patterns = [pattern_hash(locked_masks(prunable_weights(model))) for model in (whole, resumed)]
    assert patterns[0] == patterns[1]
    losses = [[entry["loss"] for entry in history] for history in (logged.history, logged_again.history)]
    assert losses[0] == losses[1]


def test_checkpoints_hold_no_pickle(encoder, blocks, tmp_path):
    sparse_training(encoder, blocks, tmp_path, checkpoint_every=6)
    files = [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
    assert files
    assert {path.suffix for path in files} <= {".json", ".safetensors"}


def test_a_loss_that_is_not_finite_stops_the_run(encoder, blocks, tmp_path):
    def broken(model, batch):
        return {"loss": model(**batch).last_hidden_state.sum() * float("nan")}

    student = AutoModel.from_pretrained(encoder)
    with pytest.raises(UserError, match="the gradients became nan at step 1; lower `learning_rate`"):
        train(Job(student, broken, blocks, plain_collator, Prune(**SETTINGS), steps=12, length=16), tmp_path, "test")


def test_steps_of_epochs_round_up():
    settings = Prune(epochs=2, batch_size=4, accumulate=2, learning_rate=1e-3)
    assert total_steps(settings, 17) == 2 * 3  # 5 batches, 3 steps a pass


def test_predictions_come_back_in_order(tokenizer, tmp_path):
    folder = make_model(tmp_path / "model", tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = ["good", "the city of stone and water", "bad river"]
    examples = [dict(tokenizer(text)) for text in texts]
    columns = {name: [example[name] for example in examples] for name in examples[0]}
    kind = kind_of(Classification(train="a", dev="b"))
    found = predict(model, kind, Dataset.from_dict(columns), kind.collate(tokenizer), batch_size=2)
    for text, logits in zip(texts, found, strict=True):
        with torch.no_grad():
            alone = model(**tokenizer(text, return_tensors="pt")).logits[0]
        assert torch.allclose(torch.from_numpy(logits), alone, atol=1e-5)
