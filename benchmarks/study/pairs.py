"""New pairs out of the texts of a pair task, for its teacher to judge: nobody has labelled them."""

from collections import Counter
from collections.abc import Sequence

from sentence_transformers import SentenceTransformer, util

Pair = tuple[str, str]


def neighbours(
    known: Sequence[Pair], model: str, each: int, asked: Sequence[str] = (), more: Sequence[str] = ()
) -> list[Pair]:
    """Each first text with the `each` second texts nearest to it that it is not paired with.

    Args:
        known: the pairs of the task.
        model: gives the vectors, whose cosine says what is near.
        asked: first texts beside those of `known`.
        more: second texts beside those of `known`.
    """
    distinct = dict.fromkeys(known)
    firsts = list(dict.fromkeys([*(first for first, _ in distinct), *asked]))
    seconds = list(dict.fromkeys([*(second for _, second in distinct), *more]))
    encoder = SentenceTransformer(model, device="cpu")
    queries, passages = (encoder.encode(texts, convert_to_tensor=True) for texts in (firsts, seconds))
    paired = Counter(first for first, _ in distinct)
    found = util.semantic_search(queries, passages, top_k=each + max(paired.values()) + 1)
    new = []
    for first, hits in zip(firsts, found, strict=True):
        others = [seconds[hit["corpus_id"]] for hit in hits]
        new += [(first, other) for other in others if other != first and (first, other) not in distinct][:each]
    return new
