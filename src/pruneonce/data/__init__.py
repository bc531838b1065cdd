"""Input: unlabelled text as packed token blocks on disk, labelled tasks as data sets with fixed columns."""

from pruneonce.data.corpus import blocks_of, corpus_key, token_blocks
from pruneonce.data.tasks import METRICS, TaskData, encode, load_task, metrics

__all__ = ["METRICS", "TaskData", "blocks_of", "corpus_key", "encode", "load_task", "metrics", "token_blocks"]
