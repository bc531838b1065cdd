"""One way to train: transformers' Trainer with masks, methods, checkpoints and signals."""

from pruneonce.training.train import Trained, examples_of, total_steps, train

__all__ = ["Trained", "examples_of", "total_steps", "train"]
