"""New pairs out of the texts of a pair task, for its teacher to judge: nobody has labelled them."""

import json
from collections import Counter
from pathlib import Path

from sentence_transformers import SentenceTransformer, util


def neighbours(train: Path, first: str, second: str, model: str, each: int) -> list[str]:
    """Each first text with the `each` second texts nearest to it that it is not paired with in `train`.

    Args:
        train: rows with the columns `first` and `second`.
        model: gives the vectors, whose cosine says what is near.

    Returns:
        Lines of JSON, with the same two columns.
    """
    rows = [json.loads(line) for line in train.read_text(encoding="utf-8").splitlines()]
    known = {(row[first], row[second]) for row in rows}
    texts = {column: list(dict.fromkeys(row[column] for row in rows)) for column in (first, second)}
    encoder = SentenceTransformer(model, device="cpu")
    vectors = {column: encoder.encode(texts[column], convert_to_tensor=True) for column in texts}
    paired = Counter(one for one, _ in known)
    found = util.semantic_search(vectors[first], vectors[second], top_k=each + max(paired.values()) + 1)
    lines = []
    for text, hits in zip(texts[first], found, strict=True):
        others = [texts[second][hit["corpus_id"]] for hit in hits]
        new = [other for other in others if other != text and (text, other) not in known][:each]
        lines += [json.dumps({first: text, second: other}) + "\n" for other in new]
    return lines
