"""A tiny int8 encoder of sentence-transformers and a tiny int8 classifier, with a tokenizer that every client reads."""

import json
from pathlib import Path

from transformers import AutoModel, AutoModelForSequenceClassification, BertTokenizer

from shared.exports import task_model
from shared.models import SPECIAL, WORDS

MODULES = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]


def bert_tokenizer(folder: Path) -> BertTokenizer:
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n")
    return BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=32)


def make_embedder(folder: Path, tokenizer: BertTokenizer, grid: str = "int8") -> Path:
    task_model(folder, "bert", tokenizer, grid, AutoModel)
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate(MODULES)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": false}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}'
    )
    return folder


def make_classifier(folder: Path, tokenizer: BertTokenizer, grid: str = "int8") -> Path:
    return task_model(folder, "bert", tokenizer, grid, AutoModelForSequenceClassification)
