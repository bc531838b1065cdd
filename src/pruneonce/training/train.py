"""Training of a model, shared by all stages, with the loop of transformers' Trainer (trainer.py).

Many processes (torchrun) give the same result as one process with the same global batch.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pruneonce.config.lengths import as_steps
from pruneonce.errors import Interrupted, UserError
from pruneonce.models.architectures import prunable_weights, trains_in_bf16
from pruneonce.plugins.run import Run
from pruneonce.system import distributed, interruption
from pruneonce.system.machine import flushed_denormals, has_bf16, keep_freed_memory
from pruneonce.training import checkpoints
from pruneonce.training.attention import fast_attention
from pruneonce.training.job import Job
from pruneonce.training.progress import Bar
from pruneonce.training.trackers import run_name, runs_of_their_own
from pruneonce.training.trainer import MaskHooks, SparseTrainer, StopOnSignal

# Timings in the Trainer's log, left out of the history: a resumed run has the history of an uninterrupted run.
CLOCK = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_tokens_per_second")


@dataclass(frozen=True)
class Trained:
    """The cost and the log of a training run."""

    history: list[dict[str, float]]
    steps: int
    tokens: int
    seconds: float

    def spent(self) -> dict[str, float]:
        """The cost: steps, tokens and seconds."""
        return {"steps": self.steps, "tokens": self.tokens, "seconds": self.seconds}


def train(
    job: Job,
    folder: Path,
    title: str,
    *,
    seed: int = 42,
    report_to: list[str] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train the model of `job` in place.

    Args:
        job: the training run.
        folder: holds the checkpoints (`folder/checkpoints`); training resumes from the newest complete one.
        title: name in the progress bar.
        seed: of everything random in the run.
        report_to: transformers' logging integrations.
        callbacks: the Trainer's callbacks, called after the callbacks of the masks.

    Raises:
        UserError: the loss or the gradients are not finite; out of memory; the disk is full.
        Interrupted: SIGINT or SIGTERM was received; a checkpoint of the current step is written.
        LostProcessError: another process of this run is gone.
    """
    keep_freed_memory()
    judge = job.likelihood or job.objective
    weights = prunable_weights(job.model)
    job.method.begin(Run(job.model, weights, job.steps, seed, judge, job.examples, job.collate, job.settings))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")  # read when the Trainer is made
    trainer = SparseTrainer(job, _arguments(job, folder, seed, report_to or []))
    for builtin in (PrinterCallback, ProgressCallback, DEFAULT_PROGRESS_CALLBACK):  # the third is for notebooks
        trainer.remove_callback(builtin)
    masks = [MaskHooks(job.sparsifier)] if job.sparsifier else []
    for callback in (Bar(title), *masks, *callbacks):
        trainer.add_callback(callback)
    with (
        runs_of_their_own(),
        distributed.watching_others(),
        enough_memory(),
        fast_attention(job.model, job.length),
        flushed_denormals(),
        job.method.parametrized(job.model),
    ):
        _run(trainer, folder / "checkpoints")
    return _spent_and_logged(trainer)


def _spent_and_logged(trainer: SparseTrainer) -> Trained:
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Trained(
        [{name: value for name, value in sorted(entry.items()) if name not in CLOCK} for entry in history],
        trainer.state.global_step,
        int(trainer.state.num_input_tokens_seen),
        monotonic() - trainer.began,
    )


def _run(trainer: SparseTrainer, folder: Path) -> None:
    """Train from the newest checkpoint to the end, or to the step in which a signal is received."""
    begin = checkpoints.newest(folder)
    with interruption.deferred() as received:
        stop = StopOnSignal(received)
        trainer.add_callback(stop)
        trainer.train(resume_from_checkpoint=str(begin) if begin else None)
        trainer.check_weights()
        if number := distributed.largest(received.number):
            if not stop.stopped:  # the signal came after the last step
                trainer._save_checkpoint(trainer.model, None)
            distributed.leave()
            raise Interrupted(number)


@contextmanager
def enough_memory() -> Generator[None, None, None]:
    """Turn the exceptions of PyTorch about memory into a `UserError` of one line.

    Raises:
        UserError: out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        signs = ("can't allocate memory", "not enough memory", "out of memory")
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in text.lower() for sign in signs):
            raise UserError(
                "out of memory: lower `batch_size` (and raise `accumulate` by as much, for the same result), or set "
                "`activation_checkpointing: true`; in another folder, as these are other settings"
            ) from error
        raise


def _arguments(job: Job, folder: Path, seed: int, report_to: list[str]) -> TrainingArguments:
    settings, steps = job.settings, job.steps
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
        bf16=has_bf16() and trains_in_bf16(job.model),
        use_cpu=not torch.cuda.is_available(),  # set explicitly, since the Trainer refuses bf16 on a CPU otherwise
        seed=seed,
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        save_strategy="steps" if every else "no",
        save_steps=max(1, every),
        report_to=report_to,
        run_name=run_name(folder),
        log_level_replica="error",  # of the processes other than the first
        train_sampling_strategy="sequential",
        include_num_input_tokens_seen="non_padding",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        activation_checkpointing=settings.activation_checkpointing,
        torch_compile=settings.compile,
        ddp_find_unused_parameters=False,  # the vocabulary weight is used outside the model's forward pass
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs take a process each, never DataParallel
    return arguments
