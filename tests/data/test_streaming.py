"""Streamed blocks: those of the text, in an order that the seed gives, without end and without the held-out ones."""

import random
from itertools import islice
from pathlib import Path

import datasets
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainingArguments

from pruneonce.data import blocks_of, token_blocks
from pruneonce.data import streaming as streaming_module
from pruneonce.data.streaming import stream_blocks
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus

HELD_OUT = 64  # 0.01 of 6400


@pytest.fixture
def corpus(tmp_path, tokenizer):
    """Some 170 blocks of 14 tokens out of two files, no two of them alike."""
    chosen = random.Random(0)
    words = sorted(set(tokenizer.vocab) - set(tokenizer.all_special_tokens))
    for name in "ab":
        lines = (" ".join(chosen.choices(words, k=12)) + "\n" for _ in range(100))
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    return Corpus(source=str(tmp_path), block_length=16, streaming=True)


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch):
    monkeypatch.setattr(streaming_module, "SHUFFLE_BUFFER", 10)


def first(stream, number):
    return [tuple(block["input_ids"]) for block in islice(stream, number)]


def test_every_block_comes_once_in_each_pass_and_never_a_held_out_one(corpus, tokenizer, tmp_path):
    train, held_out = stream_blocks(corpus, tokenizer, seed=1)
    halves = token_blocks(corpus, tokenizer, tmp_path / "cache")
    packed = {tuple(ids) for half in halves for ids in half["input_ids"]}
    aside = {tuple(ids) for ids in held_out["input_ids"]}
    size = len(packed) - HELD_OUT
    assert size > 100
    assert len(aside) == len(held_out) == HELD_OUT
    passes = first(train, 2 * size)
    one, other = passes[:size], passes[size:]
    assert set(one) == set(other) == packed - aside
    assert one != other
    assert one != sorted(one, key=other.index), "the second pass is another shuffle"
    assert sum(a == b for a, b in zip(one, other, strict=True)) < size / 4


def test_the_order_follows_from_the_seed(corpus, tokenizer):
    train, _ = stream_blocks(corpus, tokenizer, seed=1)
    straight = first(train, 300)
    assert first(train, 300) == straight, "iterating again begins anew"
    assert first(stream_blocks(corpus, tokenizer, seed=1)[0], 300) == straight
    assert first(stream_blocks(corpus, tokenizer, seed=2)[0], 300) != straight


def test_blocks_are_shuffled_within_the_buffer_alone(corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(streaming_module, "SHUFFLE_BUFFER", 1)
    in_order = first(stream_blocks(corpus, tokenizer, seed=1)[0], 100)
    monkeypatch.setattr(streaming_module, "SHUFFLE_BUFFER", 10)
    shuffled = first(stream_blocks(corpus, tokenizer, seed=1)[0], 60)
    assert shuffled != in_order[:60]
    assert all(in_order.index(block) < place + 10 for place, block in enumerate(shuffled))


def test_nothing_is_written(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    before = sorted(tmp_path.rglob("*"))
    train, held_out = blocks_of(corpus, tokenizer, tmp_path / "cache", seed=1)
    assert first(train, 200)
    assert held_out[0]["input_ids"]
    assert sorted(tmp_path.rglob("*")) == before


def test_blocks_of_gives_either_kind(corpus, tokenizer, tmp_path):
    streamed, _ = blocks_of(corpus, tokenizer, tmp_path / "cache", seed=1)
    assert isinstance(streamed, IterableDataset)
    kept, _ = blocks_of(corpus.model_copy(update={"streaming": False}), tokenizer, tmp_path / "cache", seed=1)
    assert isinstance(kept, datasets.Dataset)
    assert type(kept[0]["input_ids"]) is type(next(iter(streamed))["input_ids"]) is list


def test_max_tokens_holds_for_each_pass(corpus, tokenizer, tmp_path):
    short = corpus.model_copy(update={"max_tokens": 1400})
    size = sum(map(len, token_blocks(short, tokenizer, tmp_path / "cache"))) - HELD_OUT
    train, _ = stream_blocks(short, tokenizer, seed=1)
    assert size < 50
    assert len(set(first(train, 5 * size))) == size


def test_the_share_held_out_is_that_of_the_recipe(corpus, tokenizer):
    _, held_out = stream_blocks(corpus.model_copy(update={"validation": 0.001}), tokenizer, seed=1)
    assert len(held_out) == 6
    with pytest.raises(UserError, match=r"too small to stream: \d+ blocks, where the first 320 are held out; add text"):
        stream_blocks(corpus.model_copy(update={"validation": 0.05}), tokenizer, seed=1)


def test_hub_data(corpus, tokenizer, monkeypatch):
    texts = [line for file in Path(corpus.source).iterdir() for line in file.read_text().splitlines()]
    rows = datasets.IterableDataset.from_generator(lambda: ({"text": text} for text in texts))
    monkeypatch.setattr("pruneonce.data.readers.load_dataset", lambda *args, **options: rows)
    train, held_out = stream_blocks(corpus.model_copy(update={"source": "some/text"}), tokenizer, seed=1)
    blocks = first(train, 200)
    assert len(set(blocks)) > 100
    assert not {tuple(ids) for ids in held_out["input_ids"]} & set(blocks)


def collate(blocks):
    return {"input_ids": torch.tensor([block["input_ids"] for block in blocks])}


def test_a_data_loader_takes_it(corpus, tokenizer):
    train, _ = stream_blocks(corpus, tokenizer, seed=1)
    batches = list(islice(DataLoader(train, batch_size=8, collate_fn=collate), 30))
    assert torch.cat([batch["input_ids"] for batch in batches]).tolist() == [list(ids) for ids in first(train, 240)]
    with pytest.raises(UserError, match="num_workers=0"):
        next(iter(DataLoader(train, batch_size=8, num_workers=1, collate_fn=collate)))


class Recording(torch.nn.Module):
    """A model that keeps what it was trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, input_ids):
        self.seen += [tuple(ids) for ids in input_ids.tolist()]
        return {"loss": (self.weight - 1).square().sum()}


def test_the_trainer_takes_it_and_resumes_where_it_was(corpus, tokenizer, tmp_path):
    train, _ = stream_blocks(corpus, tokenizer, seed=1)
    expected = first(train, 48)

    def run(steps, checkpoint):
        model = Recording()
        arguments = TrainingArguments(
            str(tmp_path / "out"),
            max_steps=steps,
            save_steps=3,
            per_device_train_batch_size=8,
            report_to=[],
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=train, data_collator=collate).train(resume_from_checkpoint=checkpoint)
        return model.seen

    assert run(3, None) == expected[:24]
    assert run(6, str(tmp_path / "out" / "checkpoint-3")) == expected[24:]
