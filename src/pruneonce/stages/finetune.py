"""Fine-tuning on a task. `finetune` does it densely, for the task teacher; `transfer` builds on the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from pruneonce import distributed, modelfolder
from pruneonce.data.blocks import PassesByLength
from pruneonce.data.keys import task_key
from pruneonce.data.tasks import encode, load_task
from pruneonce.distillation import logit_distillation
from pruneonce.errors import UserError
from pruneonce.prediction import predict
from pruneonce.recipe import Distillation, Task, Training
from pruneonce.sparsity import prunable_weights
from pruneonce.sparsity.sparsifier import Locked
from pruneonce.stages.common import begin, check_length, finish, is_made, tidy
from pruneonce.training import Batch, Objective, examples_of, total_steps, train

# Makes the sparsifier from the prunable weights and the number of steps.
MakeSparsifier = Callable[[Mapping[str, Tensor], int], Locked]
# Changes the model for the time of training. What belongs beside the weights it writes to the folder.
During = Callable[[nn.Module, Path], AbstractContextManager[None]]


def finetune(
    model: str | Path,
    task: Task,
    settings: Training,
    output: Path,
    *,
    seed: int = 42,
    cache: Path | None = None,
    report_to: list[str] | None = None,
) -> Path:
    """Fine-tune `model` densely on `task`: the dense result, and the teacher of the sparse one.

    Raises:
        UserError: a mistake in the model, the task or the settings.
    """
    return run(
        "finetune",
        model,
        task,
        settings,
        output,
        seed=seed,
        cache=cache,
        report_to=report_to,
        objective=task_objective,
    )


def task_objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy with the labels."""
    labels = batch.pop("labels")
    return {"loss": F.cross_entropy(model(**batch).logits.float(), labels)}


def distilled_objective(settings: Distillation) -> Objective:
    """`a_task L_task + a_kd T^2 KL(teacher || student)`; the teacher's logits come with the batch."""

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        labels, teacher = batch.pop("labels"), batch.pop("teacher_logits")
        logits = model(**batch).logits.float()
        kd = settings.kd_weight * logit_distillation(logits, teacher, settings.temperature)
        if not settings.task_weight:
            return {"loss": kd}
        task = settings.task_weight * F.cross_entropy(logits, labels)
        return {"loss": kd + task, "kd": kd.detach(), "task": task.detach()}

    return objective


@tidy
def run(
    stage: str,
    model: str | Path,
    task: Task,
    settings: Training,
    output: Path,
    *,
    seed: int,
    cache: Path | None,
    report_to: list[str] | None,
    objective: Objective,
    teacher: str | Path | None = None,
    make_sparsifier: MakeSparsifier | None = None,
    during: During = lambda model, folder: nullcontext(),
) -> Path:
    """One fine-tuning run. A `teacher` is asked once for its logits on the training data, and not kept."""
    parents = [modelfolder.content_key(folder) for folder in (model, teacher) if folder is not None]
    key = modelfolder.key_of(stage, parents, task_key(task), settings.model_dump(), seed)
    device = begin(seed)
    if is_made(output, key):
        return output
    check_length(task.max_length, model, "max_length")
    begun = modelfolder.partial(output)
    cache = cache or begun / "cache"
    tokenizer = modelfolder.load_tokenizer(model)
    data = distributed.first_then_all(lambda: load_task(task, cache))
    examples = encode(data.splits["train"], tokenizer, task)
    collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
    if teacher is not None:
        examples = with_teacher_logits(examples, teacher, data.labels, collate, device)
    config = modelfolder.load_config(model)
    student = modelfolder.load(
        AutoModelForSequenceClassification,
        model,
        num_labels=len(data.labels),
        id2label=dict(enumerate(data.labels)),
        label2id={label: index for index, label in enumerate(data.labels)},
        **modelfolder.without_dropout(config, settings.dropout),
    ).to(device)
    steps = total_steps(settings, len(examples))
    weights = prunable_weights(student)
    with during(student, begun):
        trained = train(
            student,
            objective,
            PassesByLength(examples, examples_of(settings, steps), seed, examples_of(settings, 1)),
            collate,
            settings,
            steps=steps,
            length=max(map(len, examples["input_ids"])),
            folder=begun,
            title=f"{stage} {output.parent.name}",
            seed=seed,
            report_to=report_to,
            sparsifier=make_sparsifier(weights, steps) if make_sparsifier else None,
        )
    return finish(
        student,
        tokenizer,
        output,
        stage=stage,
        source=model,
        key=key,
        settings=settings,
        seed=seed,
        trained=trained,
    )


def with_teacher_logits(
    examples, teacher: str | Path, labels: list[str], collate: Callable[..., Batch], device: torch.device
):  # type: ignore[no-untyped-def]
    """`examples` with a column `teacher_logits`: the teacher sees each example once, not once an epoch."""
    model = modelfolder.load(AutoModelForSequenceClassification, teacher)
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if names != labels:
        raise UserError(f"the teacher {teacher} has the labels {names}, the task has {labels}")
    share = predict(model.to(device), examples.select(distributed.shared_out(len(examples))), collate)
    logits = distributed.collected(share, len(examples))
    return examples.add_column("teacher_logits", logits.tolist())
