"""Tiny random models of every architecture that is pruned, and a tokenizer of a few words."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

WORDS = [
    "the",
    "a",
    "of",
    "and",
    "in",
    "to",
    "was",
    "is",
    "on",
    "for",
    "with",
    "as",
    "by",
    "at",
    "from",
    "it",
    "his",
    "her",
    "they",
    "were",
    "which",
    "this",
    "that",
    "be",
    "had",
    "not",
    "but",
    "one",
    "good",
    "bad",
    "fine",
    "poor",
    "great",
    "awful",
    "river",
    "stone",
    "city",
    "train",
    "winter",
    "summer",
    "people",
    "number",
    "music",
    "paper",
    "light",
    "water",
    "house",
    "garden",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
COMMON = {"vocab_size": len(SPECIAL) + len(WORDS), "pad_token_id": 0}
CONFIGS = {
    "bert": BertConfig(**SIZE, **COMMON, max_position_embeddings=128),
    "distilbert": DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **COMMON, max_position_embeddings=128),
    "electra": ElectraConfig(**SIZE, **COMMON, embedding_size=16, max_position_embeddings=128),
    "modernbert": ModernBertConfig(
        **SIZE,
        **COMMON,
        max_position_embeddings=128,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
    ),
    "mpnet": MPNetConfig(**SIZE, **COMMON, max_position_embeddings=130),
    "roberta": RobertaConfig(**SIZE, **COMMON, max_position_embeddings=129),
}


def make_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
        **settings,
    )


def make_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast, architecture: str = "bert", head: bool = False, **changes: Any
) -> Path:
    """A small random model folder; `head` gives it an MLM head, `changes` are of its configuration."""
    torch.manual_seed(0)
    auto = AutoModelForMaskedLM if head else AutoModel
    config = copy.deepcopy(CONFIGS[architecture])
    config.update(changes)
    auto.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_loud(folder: Path) -> Path:
    """Make the layers of an encoder count for something, as those of a new model hardly do, in place."""
    file = folder / "model.safetensors"
    louder = {name: weight * 8 if name.startswith("encoder") else weight for name, weight in load_file(file).items()}
    save_file(louder, file, metadata={"format": "pt"})
    return folder
