"""Tiny task models to export and to time, on each grid, and inputs for them."""

import copy

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from pruneonce import quantization
from pruneonce.recipe import Quantization
from shared.models import CONFIGS

SHAPES = [(2, 8), (1, 1), (5, 33), (3, 100)]
GRIDS = {
    "fp32": None,
    "int8": Quantization(),
    "int8-tensor": Quantization(granularity="tensor"),
    "int4": Quantization(bits=4, granularity="group", group_size=16),
}


def inputs(rows, length, names=("input_ids", "attention_mask")):
    chosen = torch.Generator().manual_seed(rows * 1000 + length)
    ids = torch.randint(5, 50, (rows, length), generator=chosen)
    mask = torch.ones_like(ids)
    mask[-1, (length + 1) // 2 :] = 0
    second = torch.zeros_like(ids)
    second[:, length // 2 :] = 1
    batch = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask, "token_type_ids": second}
    return {name: batch[name] for name in names}


def small(architecture):
    """One layer is enough to export, and two of ModernBERT, whose second has local attention."""
    config = copy.deepcopy(CONFIGS[architecture])
    if architecture != "modernbert":
        config.num_hidden_layers = 1
    return config


def task_model(folder, architecture, tokenizer, grid, auto=AutoModelForSequenceClassification):
    """A model with half of its weights zero, quantized or not; large weights, so that outputs differ."""
    torch.manual_seed(0)
    model = auto.from_config(small(architecture)).eval()
    for module in quantization.quantizable(model).values():
        module.weight.data.mul_(4).masked_fill_(torch.rand_like(module.weight) < 0.5, 0.0)
    if GRIDS[grid] is not None:
        for layer in quantization.insert(model, GRIDS[grid], 1.0).values():
            layer.train()
        with torch.no_grad():
            model(**inputs(8, 20))
        folder.mkdir(parents=True)
        quantization.save(quantization.freeze(model), folder)
        quantization.unwrap(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def agrees(engine, torch_model, typical, most, padding=True):
    """All outputs of the engine are those of torch, at any batch size and length.

    Args:
        typical: bound of the median error, relative to the largest output.
        most: bound of every error.
        padding: whether outputs for tokens of the padding count, too.
    """
    assert {"input_ids", "attention_mask"} <= set(engine.inputs)
    errors = []
    for rows, length in SHAPES:
        batch = inputs(rows, length, engine.inputs)
        with torch.no_grad():
            expected = {name: value.numpy() for name, value in torch_model(**batch).items()}
        found = engine(batch)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].shape == value.shape
            error = np.abs(found[name] - value) / np.abs(value).max()
            if not padding and value.shape[:2] == (rows, length):  # by token
                error = error[batch["attention_mask"].numpy() == 1]
            errors.append(error.flatten())
    together = np.concatenate(errors)
    assert np.median(together) <= typical
    assert together.max() <= most
