"""Order and masking of a corpus are functions of seed and position."""

import torch

from pruneonce.data.blocks import Passes, in_pieces, masked_collator, plain_collator

BLOCKS = [{"input_ids": [2, *range(5 + i, 19 + i), 3]} for i in range(10)]


def test_each_pass_has_every_block_once_in_its_own_order():
    examples = list(Passes(BLOCKS, 25, seed=1))
    assert [example["position"] for example in examples] == list(range(25))
    passes = [[tuple(e["input_ids"]) for e in examples[start : start + 10]] for start in (0, 10)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(tuple(block["input_ids"]) for block in BLOCKS)
    assert passes[0] != passes[1]
    assert [e["input_ids"] for e in Passes(BLOCKS, 25, seed=2)] != [e["input_ids"] for e in examples]


def test_any_example_can_be_taken_by_itself():
    """As a process does that trains on every other batch, or goes on from a checkpoint."""
    examples = list(Passes(BLOCKS, 25, seed=1))
    again = Passes(BLOCKS, 25, seed=1)
    assert [again[position] for position in (24, 3, 12)] == [examples[position] for position in (24, 3, 12)]


def test_masking_follows_the_position_and_not_the_batch(tokenizer):
    examples = [Passes(BLOCKS, 20, seed=1)[position] for position in range(20)]
    collate = masked_collator(tokenizer, 0.3, seed=1)
    whole = collate(examples)
    halves = [collate(examples[10:]), collate(examples[:10])]
    for name in ("input_ids", "labels"):
        assert torch.equal(whole[name], torch.cat([halves[1][name], halves[0][name]]))
    plain = plain_collator(examples)["input_ids"]
    masked = whole["labels"] != -100
    assert 0.2 < masked[:, 1:-1].float().mean() < 0.4
    assert not masked[:, 0].any()  # [CLS]
    assert torch.equal(whole["labels"][masked], plain[masked])
    assert torch.equal(whole["input_ids"][~masked], plain[~masked])
    same_block = [position for position in range(20) if examples[position]["input_ids"] == BLOCKS[0]["input_ids"]]
    one, other = same_block
    assert not torch.equal(whole["labels"][one], whole["labels"][other])  # masked anew in the second pass


def test_pieces_of_blocks_are_texts_of_their_own():
    cut = in_pieces(plain_collator, ([2], [3]), [3], step_size=4, seed=1)
    batch = cut([Passes(BLOCKS, 20, seed=1)[position] for position in range(4)])
    body = [Passes(BLOCKS, 20, seed=1)[position]["input_ids"][1:-1] for position in range(4)]
    assert batch["input_ids"].tolist() == [[2, *ids[i : i + 3], 3] for ids in body for i in (0, 3, 6)]  # 16 // 3 tokens
    assert batch["attention_mask"].all()


def test_a_step_is_cut_alike_in_all_its_batches_and_otherwise_than_others():
    examples = [Passes(BLOCKS, 400, seed=1)[position] for position in range(400)]
    cut = in_pieces(plain_collator, ([2], [3]), [1, 2, 4], step_size=4, seed=1)
    rows = [len(cut(examples[first : first + 2])["input_ids"]) // 2 for first in range(0, 400, 2)]
    assert rows[::2] == rows[1::2]
    assert {rows.count(count) > 40 for count in (1, 2, 4)} == {True}
    otherwise = in_pieces(plain_collator, ([2], [3]), [1, 2, 4], step_size=4, seed=2)
    assert [len(otherwise(examples[first : first + 2])["input_ids"]) // 2 for first in range(0, 400, 2)] != rows
