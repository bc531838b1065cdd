"""New pairs out of the texts of a pair task, for its teacher to judge: nobody has labelled them."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer, util

from pruneonce.data import questions


def neighbours(train: Path, first: str, second: str, model: str, each: int, more: Sequence[str] = ()) -> list[str]:
    """Each first text with the `each` second texts nearest to it that it is not paired with in `train`.

    Args:
        train: rows with the columns `first` and `second`, or SQuAD's JSON.
        model: gives the vectors, whose cosine says what is near.
        more: second texts beside those of `train`.

    Returns:
        Lines of JSON, with the same two columns.
    """
    if train.suffix == ".json":
        known = {(one.question, one.context): None for one in questions.read(train)}
    else:
        rows = [json.loads(line) for line in train.read_text(encoding="utf-8").splitlines()]
        known = {(row[first], row[second]): None for row in rows}
    firsts, seconds = zip(*known, strict=True)
    texts = {first: list(dict.fromkeys(firsts)), second: list(dict.fromkeys([*seconds, *more]))}
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
