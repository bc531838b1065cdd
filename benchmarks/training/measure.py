"""One measurement of the prune stage's training step, in a process of its own; prints JSON.

    python -m benchmarks.training.measure ours --shape minilm --steps 8

`plain` is transformers.Trainer with BertForMaskedLM and the formula as it is written down, all logits in memory;
`ours` is this package's training loop with its masks; `dense` is the same without them. Weights and tokens are random:
speed does not depend on them, and the losses of `plain` and `dense` have to be equal.
"""

import json
import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, Trainer, TrainerCallback

from pruneonce import training
from pruneonce.data.blocks import Passes, masked_collator
from pruneonce.losses.objectives import pruning_objective
from pruneonce.models.architectures import prunable_weights
from pruneonce.recipe import Prune
from pruneonce.sparsity import PruningSchedule, pattern_hash
from pruneonce.system import distributed
from pruneonce.system.machine import autocast
from pruneonce.training import attention
from pruneonce.training.sparsifier import Pruner
from pruneonce.training.train import _arguments

WORDS = 30_522
SHAPES = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "minilm-x4": {"hidden_size": 384, "num_hidden_layers": 24, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}


@dataclass
class Clock(TrainerCallback):
    """When each step began and ended, and what it lost."""

    begun: float = 0.0

    def __post_init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun = perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(perf_counter() - self.begun)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


class TimedMasks(Pruner):
    """The package's masks, and what they cost: seconds of each step's work, and of each update."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.step_seconds: list[float] = []
        self.update_seconds: list[float] = []

    def before_step(self, step: int) -> None:
        began = perf_counter()
        super().before_step(step)
        if self.schedule is not None and self.schedule.is_due(step):
            self.update_seconds.append(perf_counter() - began)

    def mask_gradients(self) -> None:
        began = perf_counter()
        super().mask_gradients()
        self.step_seconds.append(perf_counter() - began)

    def apply(self) -> None:
        began = perf_counter()
        super().apply()
        if self.step_seconds:
            self.step_seconds[-1] += perf_counter() - began


class PlainTrainer(Trainer):
    """The formula of Prune Once for All as one would write it, with every logit in memory."""

    def __init__(self, teacher: torch.nn.Module, settings: Prune, **kwargs: Any):
        super().__init__(**kwargs)
        self.teacher, self.settings = teacher, settings

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = model(**inputs)
        with torch.no_grad():
            target = self.teacher(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        t, keep = self.settings.temperature, inputs["attention_mask"].bool()
        log_q = F.log_softmax(outputs.logits[keep].float() / t, dim=-1)
        log_p = F.log_softmax(target[keep].float() / t, dim=-1)
        kd = t * t * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        return self.settings.task_weight * outputs.loss + self.settings.kd_weight * kd


def tokenizer() -> PreTrainedTokenizerFast:
    """One with as many words as BERT has."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {word: number for number, word in enumerate([*special, *(f"w{n}" for n in range(WORDS - len(special)))])}
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    made = Tokenizer(models.WordLevel(words, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def main(
    arm: Annotated[str, typer.Argument(help="plain, dense or ours")],
    shape: Annotated[str, typer.Option(help=", ".join(SHAPES))] = "minilm",
    steps: int = 8,
    batch: int = 32,
    length: int = 128,
    blocks: int = 256,
    objective: str = "mlm",
    update_every: int = 4,
    compile: bool = False,
    checkpointing: bool = False,
    kd_tokens: str = "all",
    fused_attention: bool = False,
) -> None:
    if fused_attention:
        attention.LONGEST = 0
    device = distributed.start()
    settings = Prune(
        steps=steps,
        batch_size=batch,
        learning_rate=1e-4,
        objective=objective,
        kd_tokens=kd_tokens,
        start=2,
        end=steps - 1,
        every=update_every,
        compile=compile,
        activation_checkpointing=checkpointing,
    )
    config = BertConfig(**SHAPES[shape], vocab_size=WORDS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(1)
    teacher = BertForMaskedLM(config)
    torch.manual_seed(0)
    student = BertForMaskedLM(config)
    if objective == "hidden":  # as the stage does
        teacher, student = teacher.bert, student.bert
    tokens = torch.randint(5, WORDS, (blocks, length), generator=torch.Generator().manual_seed(0)).tolist()
    data = Passes([{"input_ids": ids} for ids in tokens], training.examples_of(settings, steps), seed=0)
    collate = masked_collator(tokenizer(), 0.15, seed=0)
    clock = Clock()
    masks = None
    with tempfile.TemporaryDirectory() as folder:
        if arm == "plain":
            torch.set_flush_denormal(True)
            arguments = _arguments(settings, steps, Path(folder), 42, [])
            arguments.logging_steps = 1
            teacher.eval().requires_grad_(False).to(device)
            with autocast(device):
                PlainTrainer(
                    teacher, settings, model=student, args=arguments, train_dataset=data, data_collator=collate,
                    callbacks=[clock],
                ).train()  # fmt: skip
        else:
            if arm == "ours":
                masks = TimedMasks(prunable_weights(student), settings, PruningSchedule.of(settings, steps))
            objective = pruning_objective(training.frozen_teacher(teacher, device), settings)
            job = training.Job(student.to(device), objective, data, collate, settings, steps, length, masks)
            training.train(job, Path(folder), arm, callbacks=[clock])
    found = {
        "seconds": clock.seconds,
        "losses": clock.losses,
        "tokens": batch * length,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "masks": masks and {"step": masks.step_seconds, "update": masks.update_seconds},
        "pattern": masks and pattern_hash(masks.masks),
    }
    if torch.cuda.is_available():
        found["peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    if distributed.rank() == 0:
        print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
