"""Comparison of two tokenizers: whether one reads the tokens of the other, and the first difference in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruneonce.data.packing import backend

SPECIAL = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token", "bos_token", "eos_token")
# Texts that show most ways in which tokenizers of the same vocabulary differ.
SAMPLES = (
    "The quick brown Fox, 1,234.5 jumps  over\tthe lazy dog's back -- isn't it?",
    "Größe, naïve café, ÀÉÎ, straße; Ελληνικά, русский язык, العربية, हिन्दी",
    "東京は日本の首都です。 한국어 ภาษาไทย 🙂👍🏽 ﬁ ½ ™",
    "x_y+z=10%; https://example.org/a?b=c#d user@example.org\n\n[MASK] <s> </s>",
    " leading and trailing blanks  ",
    "",
)


def same(ours: Any, theirs: Any) -> bool:
    """Return whether two tokenizers are equal but for truncation and padding; False where that does not show."""
    if not (getattr(ours, "is_fast", False) and getattr(theirs, "is_fast", False)):
        return False
    if ours.model_input_names != theirs.model_input_names or ours.truncation_side != theirs.truncation_side:
        return False
    return ours.special_tokens_map == theirs.special_tokens_map and backend(ours) == backend(theirs)


def difference(ours: Any, theirs: Any, texts: Sequence[str] = SAMPLES) -> str:
    """Return the first difference of two tokenizers as a noun phrase; empty where there is none.

    A token that one of them has beyond all tokens of the other is no difference.

    Args:
        ours: of the model.
        theirs: of the other model.
        texts: to compare their tokens in.
    """
    if same(ours, theirs):
        return ""
    vocabularies = [each.get_vocab() for each in (ours, theirs)]
    tokens = [{index: token for token, index in vocabulary.items()} for vocabulary in vocabularies]
    for index in sorted(tokens[0].keys() & tokens[1].keys()):
        if tokens[0][index] != tokens[1][index]:
            return (
                f"another vocabulary than the model ({len(tokens[1]):,} and {len(tokens[0]):,} tokens; first "
                f"difference: token {index} is {tokens[1][index]!r:.40} and {tokens[0][index]!r:.40})"
            )
    for name in SPECIAL:
        special = [getattr(each, name, None) for each in (theirs, ours)]
        if None not in special and special[0] != special[1]:
            return f"another `{name}` than the model ({special[0]!r:.40} and {special[1]!r:.40})"
    for text in texts:
        ids = [each(text, verbose=False)["input_ids"] for each in (theirs, ours)]
        if ids[0] != ids[1]:
            return f"other tokens than the model for the text {text!r:.60}"
    return ""
