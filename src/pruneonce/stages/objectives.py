"""What the corpus stages minimise: masked language modelling, distillation of logits and of hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, DataCollatorForLanguageModeling

from pruneonce import modelfolder
from pruneonce.distillation import hidden_distillation, logit_distillation
from pruneonce.recipe import Prune
from pruneonce.training import Batch, Objective

IGNORED = -100  # the label of a position that is not predicted


def load_vocabulary_model(source: Any, **config: Any) -> tuple[Any, bool]:
    """The model with its MLM head, and whether that head is new (the source had none).

    BERT comes as `BertForPreTraining`, which keeps the pooler: it is pruned with the encoder, and classifiers need it.
    """
    model_type = modelfolder.load_config(source).model_type
    auto = AutoModelForPreTraining if model_type == "bert" else AutoModelForMaskedLM
    model, missing = modelfolder.load_reporting(auto, source, **config)
    head = {name for name in missing if not name.startswith((f"{model.base_model_prefix}.", "cls.seq_relationship"))}
    return model, bool(head)


def vocabulary_logits(outputs: Any) -> Tensor:
    """Logits [batch, tokens, vocabulary] of any of these models."""
    return outputs.prediction_logits if "prediction_logits" in outputs else outputs.logits


def masked_collator(tokenizer: Any, probability: float) -> Callable[[list[Any]], Batch]:
    """Blocks into a batch with masked tokens: 80 % [MASK], 10 % random, 10 % unchanged, as BERT does."""
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)


def plain_collator(blocks: list[Any]) -> Batch:
    """Blocks, all of one length and without padding, into a batch."""
    ids = torch.tensor([block["input_ids"] for block in blocks])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def mlm_objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy at the masked positions."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return {"mlm": masked_cross_entropy(vocabulary_logits(model(**inputs)), batch["labels"])}


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


def pruning_objective(teacher: nn.Module, settings: Prune) -> Objective:
    """The loss of sparse pre-training for `settings.objective`.

    Args:
        teacher: frozen, on the device of training; with an MLM head unless the objective is "hidden".
    """
    mlm, hidden = settings.objective != "hidden", settings.objective != "mlm"

    def objective(student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            theirs = teacher(**inputs, output_hidden_states=hidden)
        ours = student(**inputs, output_hidden_states=hidden)
        keep = batch["attention_mask"].bool()
        parts = {}
        if mlm:
            logits, targets = vocabulary_logits(ours), vocabulary_logits(theirs)
            parts["mlm"] = settings.task_weight * masked_cross_entropy(logits, batch["labels"])
            kd = logit_distillation(logits[keep], targets[keep], settings.temperature)
            if "seq_relationship_logits" in ours:  # what keeps BERT's pooler in training without sentence pairs
                kd = kd + logit_distillation(
                    ours.seq_relationship_logits, theirs.seq_relationship_logits, settings.temperature
                )
            parts["kd"] = settings.kd_weight * kd
        if hidden:
            loss = hidden_distillation(_states(ours, keep), _states(theirs, keep))
            parts["hidden"] = settings.hidden_weight * loss
        return parts

    return objective


def _states(outputs: Any, keep: Tensor) -> list[Tensor]:
    """Every layer's output at the real tokens [rows, width], and the pooler's [batch, width] where there is one."""
    states = [state[keep] for state in outputs.hidden_states[1:]]
    pooled = outputs.get("pooler_output")
    return states if pooled is None else [*states, pooled]


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    objective: Objective,
    blocks: Any,
    collate: Callable[[list[Any]], Batch],
    seed: int,
    most: int = 64,
) -> dict[str, float]:
    """Mean of the objective's parts over at most `most` held-out blocks, with the same masking at every call."""
    model.eval()
    device = next(model.parameters()).device
    size = min(most, len(blocks))
    sums: dict[str, float] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for first in range(0, size, 16):
            chosen = [blocks[i] for i in range(first, min(first + 16, size))]
            batch = {name: value.to(device) for name, value in collate(chosen).items()}
            for name, part in objective(model, batch).items():
                sums[name] = sums.get(name, 0.0) + part.item() * len(chosen) / size
    return {**sums, "loss": sum(sums.values())}
