"""Input: unlabelled text as packed token blocks on disk, and reading labelled tables."""

from pruneonce.data.corpus import blocks_of, token_blocks
from pruneonce.data.keys import corpus_key

__all__ = ["blocks_of", "corpus_key", "token_blocks"]
