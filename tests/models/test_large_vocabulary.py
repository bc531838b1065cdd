"""XLM-RoBERTa's vocabulary of 250 002 rows at width 16: memory, frozen tables, their grids, packed files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shared.processes import python
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from benchmarks.architectures import write_data
from pruneonce import stages, storage
from pruneonce.models import grid, load_as_saved
from pruneonce.plan import plan
from pruneonce.recipe import Int4, Prune, Quantize, Recipe, Transfer, validate

ROWS, WIDTH = 250_002, 16
TABLE = "roberta.embeddings.word_embeddings.weight"
SHORT = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}

pytestmark = pytest.mark.slow

# A run in a process of its own, and the peak of its memory and of its largest child's.
RUN = """
import resource, sys
from pruneonce.cli import main
from pruneonce.plan.clock import peak_memory
code = main(["run", sys.argv[1], "--output", sys.argv[2]])
print("PEAK", peak_memory(), 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def write_tokenizer(folder):
    """Write a Unigram tokenizer of as many pieces as XLM-RoBERTa's."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [f"\u2581w{number}" for number in range(ROWS - 6)]
    pieces = [*((name, 0.0) for name in special), ("\u2581", -20.0), *((word, -10.0) for word in words)]
    backend = Tokenizer(Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **names, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    )
    assert len(tokenizer) == ROWS
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dense model with its tokenizer, a corpus and a task."""
    from transformers import XLMRobertaConfig

    folder = tmp_path_factory.mktemp("large")
    torch.manual_seed(0)
    size = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = XLMRobertaConfig(vocab_size=ROWS, max_position_embeddings=66, type_vocab_size=1, **size)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder / "dense")
    write_tokenizer(folder / "dense")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def sparse(folder):
    corpus, _ = write_data(folder)
    settings = Prune(**SHORT, sparsity=0.5, every=1, start=0, end=1, objective="both")
    stages.prune(folder / "dense", corpus, settings, folder / "sparse")
    return folder / "sparse"


@pytest.fixture(scope="module")
def transferred(folder, sparse):
    _, task = write_data(folder)
    stages.transfer(sparse, task, Transfer(**SHORT, freeze_embeddings=True), folder / "transferred", teacher=None)
    return folder / "transferred"


def table_of(folder):
    return load_file(Path(folder) / "model.safetensors")[TABLE]


def test_the_memory_of_a_run_is_that_of_its_plan(folder):
    """Preparation of blocks, training with the losses over the vocabulary, transfer, int8 and evaluation."""
    values = {
        "name": "large",
        "model": str(folder / "dense"),
        "report_to": [],
        "corpus": {"source": str(folder / "corpus.txt"), "block_length": 32, "validation": 0.1, "processes": 1},
        "prune": {**SHORT, "objective": "both", "sparsity": 0.5, "every": 1, "batch_size": 16},
        "teacher": SHORT,
        "transfer": SHORT,
        "quantize": {"int8": SHORT},
        "pack": False,
        "tasks": {"t": {split: str(folder / f"{split}.jsonl") for split in ("train", "dev")} | {"max_length": 16}},
    }
    planned = plan(validate(Recipe, values), seconds=0).memory
    (folder / "large.json").write_text(json.dumps(values), encoding="utf-8")
    done = python("-c", RUN, folder / "large.json", folder / "run")
    assert done.returncode == 0, done.stderr
    peak, of_children = map(int, done.stdout.rpartition("PEAK ")[2].split())
    assert 0.8 < peak / planned.bytes < 1.2
    assert of_children < 1.2 * planned.bytes


@pytest.mark.parametrize(("settings", "bits"), [(Quantize(**SHORT), 8), (Int4(**SHORT, group_size=16), 4)])
def test_tables_are_rounded_and_packed(folder, sparse, transferred, settings, bits):
    """With 4-bit weights too the table has 8 bits and a scale for each row. A frozen table is rounded alone."""
    _, task = write_data(folder)
    made = folder / f"int{bits}"
    stages.quantize(
        transferred, task, settings.model_copy(update={"freeze_embeddings": True}), made, teacher=transferred
    )
    assert torch.equal(table_of(transferred), table_of(sparse))
    grids, table = grid.load(made), table_of(made)
    assert {one.bits for name, one in grids.items() if "encoder" in name} == {bits}
    assert (grids[TABLE].bits, grids[TABLE].scale.shape) == (8, (ROWS,))
    integers = grids[TABLE].quantize(table.numpy())
    assert np.array_equal(grids[TABLE].dequantize(integers), table.numpy())
    off = np.abs(table_of(transferred).numpy() - table.numpy())
    assert (off <= 0.5001 * grids[TABLE].scale[:, None]).all()

    sizes = storage.pack([made], folder / f"{made.name}.pruneonce")
    assert ROWS * WIDTH * 0.75 < sizes.parts["embeddings"].packed < ROWS * (WIDTH + 10 / 8)  # 10 bits a scale
    assert (folder / f"{made.name}.pruneonce").stat().st_size < sizes.parts["embeddings"].packed * 1.1
    storage.unpack(folder / f"{made.name}.pruneonce", folder / f"{made.name}-unpacked")
    states = [load_as_saved(place).state_dict() for place in (made, folder / f"{made.name}-unpacked")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
