"""Tiny task models to export and to time, on each grid, and inputs for them."""

import copy

import torch
from transformers import AutoModelForSequenceClassification

from pruneonce import quantization
from pruneonce.recipe import Quantization
from shared.models import CONFIGS

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


def task_model(folder, architecture, tokenizer, grid):
    """A classifier with half of its weights zero, quantized or not; large weights, so that outputs differ."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(small(architecture)).eval()
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
