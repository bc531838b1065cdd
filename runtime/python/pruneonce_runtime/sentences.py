"""Settings of sentence-transformers' files: what stands before a text, how long it may be, and what is not followed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.file import Member
from pruneonce_runtime.tokenize import Text, Tokenizer

EMBEDDER, RERANKER = "SentenceTransformer", "CrossEncoder"  # types of models
MODULES, NOTES = "modules.json", "config_sentence_transformers.json"
ENCODERS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)  # the first that is there counts
# About speed, or about `encode_query` and `encode_document` alone.
NO_EFFECT = ("unpad_inputs", "query_length", "document_length", "query_expansion")
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
}  # by type of model, the only values that can be followed
ARGUMENTS = (
    *("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"),
    *("processing_kwargs", "tokenizer_name_or_path", "cache_dir"),
)  # for transformers; they have to be empty, but for these of a model
HARMLESS = ("add_pooling_layer", "attn_implementation", "dtype", "torch_dtype", "trust_remote_code")
PROBE = "Ein GROSSER Text"  # with letters that lower case changes


@dataclass(frozen=True)
class TextSettings:
    """
    Attributes:
        prompt: text before each text, of a pair before the first.
        prompt_tokens: its tokens with those that begin a text.
        max_length: tokens that texts are cut to where the caller says nothing.
    """

    prompt: str
    prompt_tokens: int
    max_length: int

    @classmethod
    def of(cls, member: Member, tokenizer: Tokenizer, kind: str) -> TextSettings:
        """
        Raises:
            PruneonceError: the files are damaged; a setting cannot be followed.
        """
        plain = cls("", 0, tokenizer.usual_length)
        if member.json(MODULES) is None or type_noted(member) != kind:
            return plain
        encoder, prompt = _encoder(member, kind), _prompt(member)
        most = encoder.get("max_seq_length")
        settings = replace(plain, max_length=min(most, tokenizer.max_length) if most else plain.max_length)
        texts: list[Text] = [PROBE, PROBE.lower()]
        if encoder.get("do_lower_case") and len({tuple(text.ids) for text in tokenizer.texts(texts, 64)}) > 1:
            raise PruneonceError(f"{member.packed.path}: `do_lower_case` is not in the tokenizer, which keeps capitals")
        if not prompt:
            return settings
        tokens = tokenizer.prompt_tokens(prompt)
        if tokens + 1 >= settings.max_length:
            raise PruneonceError(
                f"{member.packed.path}: the prompt has {tokens} tokens and leaves no room in {settings.max_length}"
            )
        return replace(settings, prompt=prompt, prompt_tokens=tokens)

    def prompted(self, texts: list[Any]) -> list[Any]:
        """Texts or pairs with the prompt before them; anything else as it is."""
        return [self._prompted(text) for text in texts] if self.prompt else texts

    def _prompted(self, text: Any) -> Any:
        if isinstance(text, str):
            return self.prompt + text
        is_pair = isinstance(text, tuple) and len(text) == 2 and isinstance(text[0], str)
        return (self.prompt + text[0], text[1]) if is_pair else text


def notes_of(member: Member) -> dict[str, Any]:
    """The content of config_sentence_transformers.json; empty where there is none."""
    notes = member.json(NOTES)
    if notes is not None and not isinstance(notes, dict):
        raise PruneonceError(f"{member.packed.path} is damaged: {NOTES} is not an object")
    return notes or {}


def type_noted(member: Member) -> str:
    return str(notes_of(member).get("model_type", EMBEDDER))


def _prompt(member: Member) -> str:
    notes = notes_of(member)
    prompts, name = notes.get("prompts") or {}, notes.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(text is None or isinstance(text, str) for text in prompts.values()):
        raise PruneonceError(f"{member.packed.path} is damaged: `prompts` in {NOTES}")
    if name is None:
        return ""
    known = {"query": "", "document": "", **prompts} if type_noted(member) == EMBEDDER else prompts
    if not isinstance(name, str) or name not in known:
        raise PruneonceError(f"{member.packed.path}: no prompt {name!r:.60}, which `default_prompt_name` names")
    return known[name] or ""


def _encoder(member: Member, kind: str) -> dict[str, Any]:
    for name in ENCODERS:
        settings = member.json(name)
        if settings is not None and not isinstance(settings, dict):
            raise PruneonceError(f"{member.packed.path} is damaged: {name} is not an object")
        if settings:
            break
    else:
        return {}
    for key, value in settings.items():
        if not _can_be_followed(key, value, kind):
            raise PruneonceError(f"{member.packed.path}: `{key}: {value!r:.60}` in {name} cannot be followed")
    return settings


def _can_be_followed(key: str, value: Any, kind: str) -> bool:
    if key == "max_seq_length":
        return value is None or (type(value) is int and value > 0)
    if key == "do_lower_case":
        return value is None or isinstance(value, bool)
    if key in NO_EFFECT:
        return True
    if key in FIXED[kind]:
        return bool(value == FIXED[kind][key])
    if key not in ARGUMENTS:
        return False
    if key in ("model_args", "model_kwargs") and isinstance(value, dict):
        return all(name in HARMLESS and "/" not in str(argument) for name, argument in value.items())
    return not value or (isinstance(value, dict) and not any(value.values()))
