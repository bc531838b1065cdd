"""transformers' Trainer with the hooks that masks, schedules and distillation need. There is no second training loop.

Order of a step: update the masks if due, forward, backward, mask the gradients, clip, optimizer, apply the masks.
Many processes (torchrun) train as one does at the same global batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pruneonce import distributed
from pruneonce.attention import fast_attention
from pruneonce.errors import UserError
from pruneonce.machine import autocast, flushed_denormals, has_bf16, keep_freed_memory
from pruneonce.progress import Bar
from pruneonce.recipe import Training, as_steps
from pruneonce.sparsity.schedule import linear_multiplier
from pruneonce.sparsity.sparsifier import Locked

Batch = dict[str, Tensor]
# What is minimised: `loss`, and for the log its parts, already weighted. May take what it uses out of the batch.
Objective = Callable[[nn.Module, Batch], dict[str, Tensor]]


@dataclass(frozen=True)
class Trained:
    """What a training run spent and logged."""

    history: list[dict[str, float]]
    steps: int
    tokens: int
    seconds: float

    def spent(self) -> dict[str, float]:
        return {"steps": self.steps, "tokens": self.tokens, "seconds": self.seconds}


def train(
    model: nn.Module,
    objective: Objective,
    data: Any,
    collate: Callable[[list[Any]], Batch],
    settings: Training,
    *,
    steps: int,
    length: int,
    folder: Path,
    title: str,
    seed: int = 42,
    report_to: list[str] | None = None,
    sparsifier: Locked | None = None,
    group_by_length: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train `model` in place.

    Args:
        objective: maps (model, batch) to the loss and its parts.
        data: a data set of examples that `collate` turns into a batch.
        steps: optimizer steps, see `total_steps`.
        length: tokens of the longest example.
        folder: where checkpoints go (`folder/checkpoints`); training goes on from the last whole one there.
        title: the name that the progress bar shows.
        sparsifier: holds the masks; None trains densely.
        group_by_length: draw examples of like length together; otherwise they are taken as they come.
        callbacks: called along the way, after the masks' own.

    Raises:
        LostProcessError: another process of this run is gone.
    """
    keep_freed_memory()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")  # read when the Trainer is made
    arguments = _arguments(settings, steps, folder, seed, report_to or [], group_by_length)
    trainer = SparseTrainer(
        objective,
        settings,
        sparsifier,
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=collate,
    )
    for builtin in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(builtin)
    trainer.add_callback(Bar(title))
    if sparsifier:
        trainer.add_callback(MaskHooks(sparsifier))
    for callback in callbacks:
        trainer.add_callback(callback)
    began = monotonic()
    with distributed.watching_others(), fast_attention(model, length), flushed_denormals():
        trainer.train(resume_from_checkpoint=last_checkpoint(folder / "checkpoints"))
    seconds = monotonic() - began
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Trained(history, trainer.state.global_step, int(trainer.state.num_input_tokens_seen), seconds)


def total_steps(settings: Training, examples: int) -> int:
    """Optimizer steps of a run over `examples` examples, shared out over the processes."""
    if settings.steps is not None:
        return settings.steps
    assert settings.epochs is not None
    batches = math.ceil(examples / (settings.batch_size * distributed.world()))
    return max(1, math.ceil(math.ceil(batches / settings.accumulate) * settings.epochs))


def examples_of(settings: Training, steps: int) -> int:
    """Examples that `steps` steps take, in all processes together."""
    return steps * settings.batch_size * settings.accumulate * distributed.world()


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint. `trainer_state.json` is written last, so one without it is not whole."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(found, key=lambda path: int(path.name.split("-")[1]))) if found else None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without what torch wraps around it for many processes or for compilation."""
    return extract_model_from_parallel(model, keep_torch_compile=False)  # type: ignore[no-any-return]


def _arguments(
    settings: Training, steps: int, folder: Path, seed: int, report_to: list[str], group_by_length: bool
) -> TrainingArguments:
    every = as_steps(settings.checkpoint_every, steps) if settings.checkpoint_every else 0
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=has_bf16(),
        use_cpu=not torch.cuda.is_available(),  # asked for by name, or it refuses bf16 there
        seed=seed,
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        save_strategy="steps" if every else "no",
        save_steps=max(1, every),
        save_total_limit=2,
        report_to=report_to,
        log_level_replica="error",  # of the processes other than the first
        train_sampling_strategy="group_by_length" if group_by_length else "sequential",
        include_num_input_tokens_seen="non_padding",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        activation_checkpointing=settings.activation_checkpointing,
        torch_compile=settings.compile,
        ddp_find_unused_parameters=False,  # the vocabulary weight is used outside the model's forward pass
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs take a process each, never DataParallel
    return arguments


class SparseTrainer(Trainer):
    """Trainer with our loss, our learning-rate schedule, masked gradients, and checkpoints without pickle."""

    def __init__(self, objective: Objective, settings: Training, sparsifier: Locked | None, **kwargs: Any):
        super().__init__(**kwargs)
        self.objective: Objective = objective
        self.settings = settings
        self.sparsifier = sparsifier
        self.loss_is_scaled_for_ga = False  # ours is a mean; the Trainer divides it among accumulated batches
        self.model_accepts_loss_kwargs = True  # so that it counts the labels of all of a step's batches
        self.parts: dict[str, list[Tensor]] = {}

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if num_items_in_batch is not None and inputs["labels"].dim() == 2:  # a label a token, and not all have one
            batches = distributed.world() * self.current_gradient_accumulation_steps
            inputs["targets"] = torch.clamp_min(num_items_in_batch, 1) / batches
        with autocast(self.args.device):  # accelerate's own covers the model's forward pass alone
            parts = self.objective(model, inputs)
        loss = parts.pop("loss")
        for name, part in parts.items():
            self.parts.setdefault(name, []).append(part)
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.sparsifier:
            self.sparsifier.mask_gradients()
        return loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        total, warmup = num_training_steps, as_steps(self.settings.warmup, num_training_steps)
        schedule = self.sparsifier.schedule if self.sparsifier else None

        def multiplier(step: int) -> float:
            if schedule:
                return schedule.learning_rate(step, total, warmup)
            return linear_multiplier(step, total, warmup)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, multiplier)  # type: ignore[arg-type]
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            raise UserError(f"the loss became {logs['loss']} at step {self.state.global_step}; lower `learning_rate`")
        if "loss" in logs:
            if self.sparsifier:
                logs["sparsity"] = self.sparsifier.sparsity()
            if self.parts:
                means = torch.stack([torch.stack(values).mean() for values in self.parts.values()])
                means = self.accelerator.reduce(means, "mean")  # type: ignore[assignment]
                logs.update({f"loss_{name}": mean for name, mean in zip(self.parts, means.tolist(), strict=True)})
            self.parts.clear()
        super().log(logs, start_time)

    # Checkpoints: transformers pickles the optimizer, the random state and its arguments; these write safetensors.

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert self.model is not None
        self.model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)  # type: ignore[operator]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.should_save:
            return
        assert self.optimizer is not None
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{index}.{key}": value for index, state in moments.items() for key, value in state.items()}
        save_file(flat, Path(output_dir) / "optimizer.safetensors")
        if self.sparsifier:
            self.sparsifier.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in load_file(Path(checkpoint) / "optimizer.safetensors").items():
            index, key = name.split(".", 1)
            states.setdefault(int(index), {})[key] = value
        # The learning rate is a function of the step, so only the moments need restoring.
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        step = int(Path(checkpoint).name.split("-")[1])
        self.lr_scheduler.load_state_dict({**self.lr_scheduler.state_dict(), "last_epoch": step})
        for group, base, multiplier in zip(
            self.optimizer.param_groups, self.lr_scheduler.base_lrs, self.lr_scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * multiplier(step)
        if self.sparsifier:
            self.sparsifier.load(Path(checkpoint))

    def _save_rng_state(self, output_dir: str) -> None:
        states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            states["cuda"] = torch.cuda.get_rng_state()
        save_file(states, Path(output_dir) / f"random-{self.args.process_index}.safetensors")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        states = load_file(Path(checkpoint) / f"random-{self.args.process_index}.safetensors")
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])


class MaskHooks(TrainerCallback):
    """Calls the sparsifier at its places in a step."""

    def __init__(self, sparsifier: Locked):
        self.sparsifier = sparsifier

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sparsifier.before_step(state.global_step)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sparsifier.apply()
