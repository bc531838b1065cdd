"""Extension of transformers' Trainer by objectives, schedules, masks and checkpoints.

Order of a step: update the masks if due, forward, backward, mask the gradients, clip, optimizer, apply the masks.
A checkpoint holds the whole state of a run: weights, moments, masks, and for each process its random state and the
losses since the latest log. A resumed run therefore equals an uninterrupted run bit for bit.
"""

from __future__ import annotations

import math
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from pruneonce.config.lengths import as_steps
from pruneonce.errors import DivergedError
from pruneonce.models.architectures import trains_in_bf16
from pruneonce.plugins.run import Batch, Objective
from pruneonce.sparsity.schedule import linear_multiplier
from pruneonce.system import distributed
from pruneonce.system.interruption import ReceivedSignal
from pruneonce.system.machine import autocast
from pruneonce.training import checkpoints
from pruneonce.training.job import Job
from pruneonce.training.sparsifier import Sparsifier

EXPLODED = 1e6  # a loss from which no training recovers; usual losses are of the order of 1 to 100
LOWER = "; lower `learning_rate`, and start in another folder"


class SparseTrainer(Trainer):
    """Trainer with a job's objective and learning-rate schedule, masked gradients, and checkpoints without pickle."""

    def __init__(self, job: Job, args: TrainingArguments):
        super().__init__(job.model, args, data_collator=job.collate, train_dataset=job.examples)
        self.job_model = job.model
        self.objective: Objective = job.objective
        self.settings = job.settings
        self.sparsifier = job.sparsifier
        self.method = job.method
        self.loss_is_scaled_for_ga = False  # the loss is a mean; the Trainer divides it among accumulated batches
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of all batches of a step
        self.parts: dict[str, list[Tensor]] = {}
        self.latest_parts: dict[str, Tensor] = {}  # parts of the loss in the latest pass
        self.began = monotonic()  # shifted by the time of earlier sessions in a resumed run

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if num_items_in_batch is not None and inputs["labels"].dim() == 2:  # labels of tokens, some unlabelled
            batches = distributed.world() * self.current_gradient_accumulation_steps
            inputs["targets"] = torch.clamp_min(num_items_in_batch, 1) / batches
        with autocast(
            self.args.device, trains_in_bf16(self.job_model)
        ):  # accelerate's own autocast covers the model's forward pass only
            parts = self.objective(model, inputs)
        loss = parts.pop("loss")
        if (extra := self.method.extra_loss(self.state.global_step)) is not None:
            loss, parts["method"] = loss + extra, extra.detach()
        self.latest_parts = parts
        return loss

    def training_step(self, model: nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> Tensor:
        usual = super().training_step
        passes: list[dict[str, Tensor]] = []

        def forward_backward() -> Tensor:
            loss = usual(model, dict(inputs), *args, **kwargs)  # type: ignore[arg-type]
            if self.sparsifier:
                self.sparsifier.mask_gradients()
            passes.append(self.latest_parts)
            return loss

        loss = self.method.gradients(self.state.global_step, forward_backward)
        for name, part in passes[0].items():  # later passes are at other weights than the model's
            self.parts.setdefault(name, []).append(part)
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
        loss = logs.get("loss", 0.0)
        if not abs(loss) < EXPLODED:  # true of NaN too
            raise DivergedError(f"the loss became {loss:g} at step {self.state.global_step}{LOWER}")
        if "loss" in logs:
            if self.sparsifier:
                logs["sparsity"] = self.sparsifier.sparsity()
            if self.parts:
                means = torch.stack([torch.stack(values).mean() for values in self.parts.values()])
                means = self.accelerator.reduce(means, "mean")  # type: ignore[assignment]
                logs.update({f"loss_{name}": mean for name, mean in zip(self.parts, means.tolist(), strict=True)})
            self.parts.clear()
        super().log(logs, start_time)

    # Numbers that are not finite stop the run before they reach the weights or a checkpoint.

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        if not math.isfinite(norm):  # also after a NaN in the forward pass
            raise DivergedError(f"the gradients became {float(norm)} at step {self.state.global_step + 1}{LOWER}")
        return norm

    def check_weights(self) -> None:
        """Raise an error unless all weights are finite: too long a step shows in the weights before the loss.

        Raises:
            DivergedError: a weight is not finite.
        """
        assert self.model is not None
        for name, weight in self.model.named_parameters():
            if not weight.isfinite().all():
                raise DivergedError(f"{name} is no longer finite at step {self.state.global_step}{LOWER}")

    # Checkpoints in safetensors: transformers would pickle the optimizer, the random state and its arguments.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_weights()
        self.store_flos()
        states = distributed.gathered(self._process_state())

        def fill(folder: Path) -> None:
            assert self.model is not None
            self.model.save_pretrained(folder, save_original_format=False)  # type: ignore[operator]
            self._save_optimizer_and_scheduler(str(folder))
            for rank, state in enumerate(states):
                save_file(state, folder / f"process-{rank}.safetensors")
            self.state.save_to_json(str(folder / "trainer_state.json"))

        checkpoints.write(Path(str(self.args.output_dir)), self.state.global_step, fill)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        assert self.optimizer is not None
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{index}.{key}": value for index, state in moments.items() for key, value in state.items()}
        save_file(flat, Path(output_dir) / "optimizer.safetensors")
        if self.sparsifier:
            self.sparsifier.save(Path(output_dir))
        self.method.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in load_file(Path(checkpoint) / "optimizer.safetensors").items():
            index, key = name.split(".", 1)
            states.setdefault(int(index), {})[key] = value
        # The learning rate is a function of the step, so only the moments are restored.
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        step = int(Path(checkpoint).name.split("-")[1])
        scheduler = self.lr_scheduler
        rates = [base * rate(step) for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": step, "_last_lr": rates})
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if self.sparsifier:
            self.sparsifier.load(Path(checkpoint))
        self.method.load(Path(checkpoint))
        self.began -= self._process_file(checkpoint)["seconds"].item()

    def _process_state(self) -> dict[str, Tensor]:
        """State of this process: its random state, and the losses since the latest log."""
        state = {
            "random": torch.get_rng_state(),
            "loss": self._tr_loss.detach().cpu(),
            "logged": torch.tensor(self._globalstep_last_logged),
            "seconds": torch.tensor(monotonic() - self.began, dtype=torch.float64),
        }
        if torch.cuda.is_available():
            state["random.cuda"] = torch.cuda.get_rng_state()
        return state | {f"part.{name}": torch.stack(values).cpu() for name, values in self.parts.items()}

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore a process's state before the first step, after the Trainer has set its own counters to zero."""
        if checkpoint is None:
            return
        state = self._process_file(checkpoint)
        self._tr_loss = state["loss"].to(self._tr_loss.device)
        self._globalstep_last_logged = int(state["logged"])
        parts = {name.removeprefix("part."): value for name, value in state.items() if name.startswith("part.")}
        self.parts = {name: list(values.to(self.args.device).unbind()) for name, values in parts.items()}
        torch.set_rng_state(state["random"])
        if "random.cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["random.cuda"])

    def _process_file(self, checkpoint: str) -> dict[str, Tensor]:
        return load_file(Path(checkpoint) / f"process-{self.args.process_index}.safetensors")


class MaskHooks(TrainerCallback):
    """Callback that calls the sparsifier before each step and after each optimizer step."""

    def __init__(self, sparsifier: Sparsifier):
        self.sparsifier = sparsifier

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sparsifier.before_step(state.global_step)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sparsifier.apply()


class StopOnSignal(TrainerCallback):
    """Callback that ends training, with a checkpoint, after the step in which any process received a signal."""

    def __init__(self, received: ReceivedSignal):
        self.received = received
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if distributed.largest(self.received.number):
            self.stopped = True
            control.should_save = control.should_training_stop = True
