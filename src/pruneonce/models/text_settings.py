"""Settings of sentence-transformers files that decide how a text becomes tokens, and which of them can be followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneonce.errors import UserError
from pruneonce.models.loading import load_tokenizer
from pruneonce.models.sentence_transformers import (
    EMBEDDER,
    ENCODERS,
    MODULES,
    NOTES,
    RERANKER,
    local_folder,
    type_noted,
)
from pruneonce.models.source import hub_reason
from pruneonce.system import durable
from pruneonce.wording import as_in_file, listed

# Settings of the encoder that have no effect on the vector of `encode(text)`: they are about speed, or about
# `encode_query` and `encode_document`.
NO_EFFECT = ("unpad_inputs", "query_length", "document_length", "query_expansion")
# Settings of the encoder by type of model, with the only value that can be followed.
FIXED: dict[str, dict[str, Any]] = {
    EMBEDDER: {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    },
    RERANKER: {
        "transformer_task": "sequence-classification",
        "module_output_name": "scores",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    },
}
# Arguments for transformers, which have to be empty; but for those of a model that change no vector beyond rounding.
ARGUMENTS = (
    *("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"),
    *("processing_kwargs", "tokenizer_name_or_path", "cache_dir"),
)
HARMLESS = ("add_pooling_layer", "attn_implementation", "dtype", "torch_dtype", "trust_remote_code")
PROBE = "Ein GROSSER Text"  # with letters that lower case changes


@dataclass(frozen=True)
class TextSettings:
    """Way from a text to tokens.

    Attributes:
        prompt: text before each text, of a pair before the first.
        prompt_tokens: its tokens with those that begin a text.
        max_length: tokens of the longest input; None: no limit of its own.
    """

    prompt: str = ""
    prompt_tokens: int = 0
    max_length: int | None = None

    @classmethod
    def of(cls, source: str | Path, kind: str) -> TextSettings:
        """Read the settings of a model folder or hub id, exported folders included.

        Args:
            source: the model.
            kind: type of sentence-transformers model that it is used as. Files for another type do not count.

        Raises:
            UserError: the files are damaged or cannot be read; they have a setting that cannot be followed.
        """
        folder = folder_of(source)
        tokenizer = load_tokenizer(source)
        usual = int(min(tokenizer.model_max_length, 1 << 30))
        if durable.read_json(folder / MODULES) is None or type_noted(folder) != kind:
            return cls(max_length=usual)
        encoder, prompt = encoder_settings(folder, kind), default_prompt(folder)
        if encoder.get("do_lower_case"):
            _check_lower_case(tokenizer, folder)
        most = encoder.get("max_seq_length") or usual
        tokens = tokens_of_prompt(prompt, tokenizer) if prompt else 0
        if prompt and tokens + 1 >= most:
            raise UserError(f"the prompt of {source} has {tokens} tokens and leaves no room in {most} for a text")
        return cls(prompt, tokens, most)

    def prompted(self, texts: list[str]) -> list[str]:
        """Return texts with the prompt before them."""
        return [self.prompt + text for text in texts] if self.prompt else texts

    def longest(self, most: int) -> int:
        """Return the tokens of the longest input of a task whose `max_length` is `most`."""
        return most if self.max_length is None else min(most, self.max_length)


def folder_of(source: str | Path) -> Path:
    """Return the folder with the sentence-transformers files of a model.

    Raises:
        UserError: the hub cannot be reached.
    """
    try:
        return local_folder(source)
    except OSError as error:
        raise UserError(f"cannot read how {source} makes its vectors: {hub_reason(error)}") from None


def notes_of(folder: Path) -> dict[str, Any]:
    """Return the content of config_sentence_transformers.json; empty where there is none."""
    notes = durable.read_json(folder / NOTES)
    if notes is None:
        return {}
    if not isinstance(notes, dict):
        raise UserError(f"{folder / NOTES} is damaged: not an object")
    return notes


def default_prompt(folder: Path) -> str:
    """Return the prompt that sentence-transformers puts before a text where it is told no other one."""
    notes = notes_of(folder)
    prompts, name = notes.get("prompts") or {}, notes.get("default_prompt_name")
    texts = [] if not isinstance(prompts, dict) else [text for text in prompts.values() if text is not None]
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{folder / NOTES} is damaged: `prompts` has to have a text for each name")
    if name is None:
        return ""
    known = {"query": "", "document": "", **prompts} if type_noted(folder) == EMBEDDER else prompts
    if name not in known:
        raise UserError(
            f"{folder / NOTES}: there is no prompt {as_in_file(name)}, which `default_prompt_name` names, only "
            f"{listed(list(known)) or 'none'}"
        )
    return known[name] or ""


def encoder_settings(folder: Path, kind: str) -> dict[str, Any]:
    """Return the settings of the encoder of a model of a type.

    Raises:
        UserError: one of them cannot be followed, is unknown, or has a value that it cannot have.
    """
    for name in ENCODERS:
        settings = durable.read_json(folder / name)
        if settings is not None and not isinstance(settings, dict):
            raise UserError(f"{folder / name} is damaged: not an object")
        if settings:
            break
    else:
        return {}
    for key, value in settings.items():
        if not _can_be_followed(key, value, kind):
            raise UserError(
                f"{folder / name}: `{key}: {as_in_file(value)}` cannot be followed, so vectors would not be those of "
                "sentence-transformers; remove it if it does not matter, or give another model"
            )
    return settings


def _can_be_followed(key: str, value: Any, kind: str) -> bool:
    if key == "max_seq_length":
        return value is None or (type(value) is int and value > 0)
    if key == "do_lower_case":
        return value is None or isinstance(value, bool)
    if key in NO_EFFECT:
        return True
    if key in FIXED[kind]:
        return value == FIXED[kind][key]
    if key not in ARGUMENTS:
        return False
    if key in ("model_args", "model_kwargs") and isinstance(value, Mapping):
        return all(name in HARMLESS and "/" not in str(argument) for name, argument in value.items())
    return not value or (isinstance(value, Mapping) and not any(value.values()))


def _check_lower_case(tokenizer: Any, folder: Path) -> None:
    ids = [tokenizer(text)["input_ids"] for text in (PROBE, PROBE.lower())]
    if ids[0] != ids[1]:
        raise UserError(
            f"`do_lower_case` of {folder} is not in its tokenizer, which keeps capital letters; "
            "`SentenceTransformer(FOLDER).save_pretrained(OTHER)` writes it into the tokenizer: give that folder"
        )


def tokens_of_prompt(prompt: str, tokenizer: Any) -> int:
    """Return the tokens of a prompt as sentence-transformers counts them: without a special token at the end."""
    ids = tokenizer(prompt)["input_ids"]
    return len(ids) - (ids[-1] in tokenizer.all_special_ids) if ids else 0
