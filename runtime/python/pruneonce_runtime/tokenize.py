"""Texts to token ids, by a model's tokenizer.json: truncated, never padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Encoding

from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.file import Member
from pruneonce_runtime.spec import Int32s, Network

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
# Classes of transformers whose tokenizers give token types, where tokenizer_config.json does not list what they give.
GIVE_TYPES = ("BertTokenizer", "BertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast")

Text = str | tuple[str, str]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of a text or pair.

    Attributes:
        ids: int32 [tokens].
        types: int32 [tokens]; None where the model has none.
    """

    ids: Int32s
    types: Int32s | None

    def __len__(self) -> int:
        return len(self.ids)


@contextmanager
def _using() -> Iterator[None]:
    """Turns what the tokenizers library raises into one line: any exception, and a panic is not even an Exception."""
    try:
        yield
    except (PruneonceError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise PruneonceError(f"{FILE} is damaged: {' '.join(str(error).split()):.200}") from None


class SharedTokenizer:
    """A tokenizer of a file, one for all members that have the same. Truncation is a state of it: hence the lock.

    Attributes:
        side: from which texts are cut, where tokenizer_config.json does not say.
    """

    def __init__(self, content: bytes) -> None:
        with _using():
            self.tokenizer = tokenizers.Tokenizer.from_str(content.decode())
            self.side = str((self.tokenizer.truncation or {}).get("direction", "right")).lower()
            self.tokenizer.no_padding()
        self._lock = Lock()

    @contextmanager
    def truncating(self, max_length: int | None, **settings: Any) -> Iterator[tokenizers.Tokenizer]:
        """The tokenizer, cutting at `max_length` or (None) not at all, for this thread alone.

        Raises:
            PruneonceError: it fails at a text, as one whose parts contradict each other may.
        """
        with self._lock, _using():
            if max_length is None:
                self.tokenizer.no_truncation()
            else:
                self.tokenizer.enable_truncation(max_length, **settings)
            yield self.tokenizer


class Tokenizer:
    """The tokenizer of one model.

    Attributes:
        max_length: tokens of a text at most, by the model's positions.
        usual_length: the same by tokenizer_config.json, where it says less.
        has_types: whether it gives token types that the model takes.
        marks_spaces: whether a word's tokens depend on the space before it (byte-level tokenizers).

    Raises:
        PruneonceError: there is no tokenizer.json, or it is damaged.
    """

    def __init__(self, member: Member, network: Network) -> None:
        if FILE not in member.files:
            raise PruneonceError(f"{member.packed.path} has no {FILE}; save the model with a fast tokenizer")
        entry = member.files[FILE]
        key = ("tokenizer", entry.stream, entry.size)
        self.shared = member.packed.shared(key, lambda: SharedTokenizer(member.file(FILE) or b""))
        settings = member.json(CONFIG) or {}
        if not isinstance(settings, dict):
            raise PruneonceError(f"{member.packed.path} is damaged: {CONFIG} is not an object")
        most = settings.get("model_max_length")
        self.max_length = self.usual_length = network.encoder.max_tokens
        if isinstance(most, int | float) and 0 < most < self.max_length:
            self.usual_length = int(most)
        with _using():
            self.special = self.shared.tokenizer.num_special_tokens_to_add(True)
        self.side = "left" if settings.get("truncation_side", self.shared.side) == "left" else "right"
        types = network.encoder.embeddings.types
        self.has_types = types is not None and types.rows > 1 and _gives_types(settings)
        before = self.shared.tokenizer.pre_tokenizer
        self.marks_spaces = before is not None and b'"ByteLevel"' in before.__getstate__()

    def texts(self, texts: Sequence[Text], max_length: int) -> list[Tokens]:
        """Texts or pairs. Of a pair that is too long, the longer part is cut first."""
        self.check_length(max_length)
        for text in texts:
            check_text(text)
        with self.shared.truncating(max_length, strategy="longest_first", direction=self.side) as tokenizer:
            return [self.tokens(encoding) for encoding in tokenizer.encode_batch_fast(list(texts))]

    def sentences(self, sentences: Sequence[Sequence[str]], max_length: int) -> list[tuple[Tokens, list[int | None]]]:
        """Sentences in words; with the tokens, of which word each is (None: of none)."""
        self.check_length(max_length)
        for words in sentences:
            for word in words:
                check_text(word)
        spaced = [_with_spaces(words) if self.marks_spaces and words else list(words) for words in sentences]
        with self.shared.truncating(max_length, direction=self.side) as tokenizer:
            encodings = tokenizer.encode_batch(spaced, is_pretokenized=True)  # the fast one knows no words
        return [(self.tokens(encoding), encoding.word_ids) for encoding in encodings]

    def tokens(self, encoding: Encoding) -> Tokens:
        """
        Raises:
            PruneonceError: there are none.
        """
        if not len(encoding):
            raise PruneonceError("a text has no tokens, and the tokenizer adds none")
        types = np.array(encoding.type_ids, np.int32) if self.has_types else None
        return Tokens(np.array(encoding.ids, np.int32), types)

    def prompt_tokens(self, prompt: str) -> int:
        """Tokens of a prompt with those that begin a text, without a special token at the end."""
        check_text(prompt)
        with self.shared.truncating(None) as tokenizer:
            special = tokenizer.encode(prompt).special_tokens_mask
        return len(special) - special[-1] if special else 0

    def check_length(self, max_length: int) -> None:
        """
        Raises:
            PruneonceError: texts cannot be cut to so many tokens.
        """
        if not self.special < max_length <= self.max_length:
            raise PruneonceError(
                f"max_length is {max_length}; this model takes {self.special + 1} to {self.max_length} tokens"
            )


def check_text(text: Any) -> None:
    """
    Raises:
        PruneonceError: it is neither a text nor a pair of texts, or no valid Unicode, as half of a surrogate pair.
    """
    if isinstance(text, tuple) and len(text) == 2:
        check_text(text[0])
        check_text(text[1])
        return
    if not isinstance(text, str):
        raise PruneonceError(f"a text has to be a str, or a pair of them a tuple, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PruneonceError(f"a text is not valid Unicode: {text!a:.60}") from None


def _gives_types(settings: dict[str, Any]) -> bool:
    """Whether the tokenizer gives token types, by tokenizer_config.json; one that names no class is the usual one."""
    names = settings.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    return settings.get("tokenizer_class", GIVE_TYPES[0]) in GIVE_TYPES


def _with_spaces(words: Sequence[str]) -> list[str]:
    """The words as they stand in text, all but the first after a space."""
    return [words[0], *(f" {word}" for word in words[1:])]
