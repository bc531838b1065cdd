"""Training by transformers' Trainer, with masks, methods, checkpoints and signals."""

from pruneonce.training.job import Job, examples_of, frozen_teacher, total_steps
from pruneonce.training.train import Trained, train

__all__ = ["Job", "Trained", "examples_of", "frozen_teacher", "total_steps", "train"]
