"""Account of what `max_length` cuts off, and the parts of long texts that a tokenizer has to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pruneonce.data.packing import CHARACTERS_AT_ONCE, pieces

SHORT = 2_000  # characters of a text that a tokenizer reads as a whole
CHARACTERS_A_TOKEN = 16  # more than any but odd texts have


@dataclass(frozen=True)
class Cut:
    """Number of texts and tokens, and how many of them are cut off.

    Attributes:
        texts: texts, or pairs, in all.
        cut: those that are longer than `most` tokens.
        tokens: tokens in all, special tokens not counted.
        lost: tokens that are cut off.
        most: tokens of the longest input.
        unit: noun for the texts.
    """

    texts: int
    cut: int
    tokens: int
    lost: int
    most: int
    unit: str = "texts"

    def line(self, where: str) -> str:
        """Return the sentence on what is cut in the data `where`; empty where nothing is."""
        if not self.cut:
            return ""
        return (
            f"{where}: {self.cut:,} of {self.texts:,} {self.unit} are longer than {self.most} tokens and are cut; "
            f"{_percent(self.lost / self.tokens)} of all tokens"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the account for result files: `cut` of `texts` are cut at `most` tokens, a `share` of all tokens."""
        share = self.lost / self.tokens if self.tokens else 0.0
        return {"cut": self.cut, "texts": self.texts, "share": share, "most": self.most, "unit": self.unit}


def _percent(share: float) -> str:
    return "less than 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def count_cut(kept: Sequence[int], most: int, special: int, whole: dict[int, int], unit: str = "texts") -> Cut:
    """Return the account of texts.

    Args:
        kept: tokens of each input, special tokens included.
        most: tokens of the longest input.
        special: special tokens of an input.
        whole: tokens of the uncut text, without special tokens, by the index of each input that may be cut.
        unit: noun for the texts.
    """
    lost = {index: max(0, size - (kept[index] - special)) for index, size in whole.items()}
    total = sum(kept) - special * len(kept) + sum(lost.values())
    return Cut(len(kept), sum(map(bool, lost.values())), total, sum(lost.values()), most, unit)


def tokens_in(text: str, tokenizer: Any) -> int:
    """Return the number of tokens of a text without special tokens, however long it is."""
    return sum(len(tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]) for piece in pieces(text))


def beginnings(texts: Sequence[str], tokenizer: Any, most: int) -> list[str]:
    """Return the parts of a text, or of a pair, that have the tokens which remain when it is cut to `most` tokens.

    They are ends of the texts where the tokenizer cuts off beginnings. A tokenizer keeps what it cuts off in pieces,
    and of a pair each combination of such pieces, so two texts of 100 kB as they are take 10 GB. Of a pair, the longer
    text loses tokens first, so the longer text has the longer part.
    """
    size = max(SHORT, CHARACTERS_A_TOKEN * most)
    if all(len(text) <= size for text in texts):
        return list(texts)
    if len(texts) == 1:
        return [_beginning(texts[0], tokenizer, size, 2 * most)]
    parts = list(texts)
    least = 2 * most
    for index in sorted(range(len(texts)), key=lambda index: tokens_in(texts[index], tokenizer)):
        parts[index] = _beginning(texts[index], tokenizer, size, least)
        least = max(least, tokens_in(parts[index], tokenizer))
    return parts


def _beginning(text: str, tokenizer: Any, size: int, least: int) -> str:
    """Return a part of at least `size` characters that has more than `least` tokens; the text where it has not."""
    while len(text) > size:
        part = text[-size:] if tokenizer.truncation_side == "left" else text[:size]
        if tokens_in(part, tokenizer) > least:
            return part
        size *= 4
    return text


def in_parts(columns: Sequence[Sequence[str]]) -> Iterable[tuple[int, int]]:
    """Divide rows into ranges of no more than `CHARACTERS_AT_ONCE`, or of one row."""
    start = characters = 0
    for row, texts in enumerate(zip(*columns, strict=True)):
        size = sum(map(len, texts))
        if row > start and characters + size > CHARACTERS_AT_ONCE:
            yield start, row
            start, characters = row, 0
        characters += size
    yield start, len(columns[0])
