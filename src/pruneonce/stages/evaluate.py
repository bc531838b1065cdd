"""Measure a task model on the held-out splits of its task."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from pruneonce import modelfolder, quantization
from pruneonce.data.tasks import encode, load_task, metrics
from pruneonce.errors import UserError
from pruneonce.recipe import Task
from pruneonce.stages.common import begin
from pruneonce.training import predict


def evaluate(
    model: str | Path, task: Task, *, splits: list[str] | None = None, cache: Path | None = None
) -> dict[str, dict[str, float]]:
    """`{split: {metric: value}}` of a task model on `dev` and, where the task has one, `test`.

    `examples` among the metrics is the number of examples. Nothing is written. A quantized
    model is measured as such, by fake quantization.

    Raises:
        UserError: a mistake in the model or the task; the model's labels are not the task's.
    """
    device = begin(0)
    with TemporaryDirectory() as scratch:
        data = load_task(task, cache or Path(scratch))
        classifier = modelfolder.load(AutoModelForSequenceClassification, model).to(device)
        if quantization.is_quantized(model):
            quantization.restore(classifier, model)
        names = [classifier.config.id2label[index] for index in range(classifier.config.num_labels)]
        if names != data.labels:
            raise UserError(f"{model} has the labels {names}, the task has {data.labels}")
        tokenizer = modelfolder.load_tokenizer(model)
        collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
        found = {}
        for split in splits or [name for name in ("dev", "test") if name in data.splits]:
            if split not in data.splits:
                raise UserError(f"the task has no split {split!r}")
            examples = encode(data.splits[split], tokenizer, task)
            logits = predict(classifier, examples, collate)
            found[split] = {
                **metrics(logits.numpy(), examples.with_format("numpy")["labels"][:]),
                "examples": len(examples),
            }
    return found
