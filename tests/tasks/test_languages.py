"""Every kind of task on texts without spaces, with tokenizers of the usual kinds that are trained here."""

import json

import numpy as np
import pytest
from shared.models import make_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pruneonce import stages
from pruneonce.data.questions import Question, best_answers, windows
from pruneonce.recipe import (
    Classification,
    Embedding,
    Prune,
    QuestionAnswering,
    Regression,
    Reranking,
    TokenClassification,
    Training,
    Transfer,
)
from pruneonce.tasks import kind_of, loaded

WORDS = {
    "thai": ["กรุงเทพ", "เป็น", "เมืองหลวง", "ของ", "ประเทศไทย", "แม่น้ำ", "เจ้าพระยา", "ไหล", "ผ่าน", "ตลาด", "น้ำ", "ใหญ่"],
    "chinese": ["北京", "是", "中国", "的", "首都", "长江", "流过", "很多", "城市", "我们", "喜欢", "音乐"],
    "japanese": ["東京", "は", "日本", "の", "首都", "です", "私たち", "が", "音楽", "を", "聞いた", "ギター"],
}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def sentences(language, number=40, length=8):
    """Return texts of a language as lists of words."""
    choose = np.random.default_rng(0)
    return [choose.choice(WORDS[language], length).tolist() for _ in range(number)]


def unigram():
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return backend, trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>")


def byte_level():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return backend, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)


def wordpiece():
    backend = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=500))
    backend.normalizer = normalizers.BertNormalizer(strip_accents=False)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return backend, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL)


@pytest.fixture(scope="module", params=[unigram, byte_level, wordpiece], ids=lambda make: make.__name__)
def trained(request):
    """A tokenizer that is trained on the texts of all three languages."""
    backend, trainer = request.param()
    backend.train_from_iterator(["".join(words) for language in WORDS for words in sentences(language)], trainer)
    numbers = [("<s>", backend.token_to_id("<s>")), ("</s>", backend.token_to_id("</s>"))]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=numbers
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", mask_token="<mask>", **names)
    fast.model_input_names = ["input_ids", "attention_mask"]
    return fast


def tasks(language, folder):
    """A tiny task of each kind."""
    texts = sentences(language)
    joined = ["".join(words) for words in texts]
    lines = {
        "pairs": [
            {"text": text, "text_pair": other, "label": number % 2}
            for number, (text, other) in enumerate(zip(joined, joined[1:] + joined[:1], strict=True))
        ],
        "tagged": [{"tokens": words, "tags": ["B-X", "I-X", *["O"] * (len(words) - 2)]} for words in texts],
        "asked": [
            {
                "id": str(number),
                "question": words[3],
                "context": "".join(words * 4),
                "answers": {"text": [words[4]], "answer_start": [len("".join(words[:4]))]},
            }
            for number, words in enumerate(texts)
        ],
    }
    for name, rows in lines.items():
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(joined), encoding="utf-8")
    pairs, tagged, asked = (str(folder / f"{name}.jsonl") for name in lines)
    return {
        "classification": Classification(train=pairs, dev=pairs),
        "pairs": Regression(train=pairs, dev=pairs, text_pair="text_pair"),
        "reranking": Reranking(train=pairs, dev=pairs, query="text", passage="text_pair"),
        "token-classification": TokenClassification(train=tagged, dev=tagged),
        "question-answering": QuestionAnswering(train=asked, dev=asked, max_length=40, doc_stride=8),
        "embedding": Embedding(train=str(folder / "texts.txt"), dev=pairs),
    }


@pytest.mark.parametrize("language", WORDS)
def test_every_kind_reads_texts_without_spaces(language, trained, tmp_path):
    for name, task in tasks(language, tmp_path).items():
        kind = kind_of(task)
        data = loaded.load(kind, tmp_path / "cache").data
        encoded = kind.encode(data.splits["dev"], trained, training=name == "token-classification")
        ids = [row for column in encoded.column_names if column.endswith("input_ids") for row in encoded[column]]
        assert len({tuple(row) for row in ids}) > 30, name  # texts that differ are other tokens
        assert not any(trained.unk_token_id in row for row in ids), name
        if name == "token-classification":
            for row, words in zip(encoded, sentences(language), strict=True):
                assert sum(label != -100 for label in row["labels"]) == len(words)


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("room", [384, 40])
def test_windows_hold_every_answer_without_spaces(language, room, trained):
    rows = []
    for number, words in enumerate(sentences(language)):
        context, start = "".join(words * 8), len("".join(words * 2 + words[:3]))
        rows.append(Question(str(number), words[0], context, (words[3],), (start,)))
    made = windows(rows, trained, max_length=room, doc_stride=12, training=True)
    assert len(made.example) > len(rows) or room > 40
    logits = []
    for column in ("start_positions", "end_positions"):
        values = [np.zeros(len(ids)) for ids in made.inputs["input_ids"]]
        for one, position in zip(values, made.inputs[column], strict=True):
            one[position] = 1
        logits.append(values)
    found = best_answers(*logits, made, rows)
    assert all(question.answers[0] in found[question.id] for question in rows)
    assert np.mean([question.answers[0] == found[question.id] for question in rows]) > 0.3  # tokens cross words


@pytest.mark.slow
def test_every_kind_trains_and_is_measured(trained, tmp_path):
    model = make_model(tmp_path / "dense", trained, "roberta", vocab_size=len(trained), max_position_embeddings=200)
    steps = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}
    for name, task in tasks("thai", tmp_path).items():
        output = tmp_path / name
        if name == "embedding":
            settings = Transfer(**steps, hidden_weight=0)
            sparse = stages.prune_one_shot(model, Prune(**steps), tmp_path / "sparse")
            stages.transfer(sparse, task, settings, output, teacher=model)
        else:
            stages.finetune(model, task, Training(**steps), output)
        assert stages.evaluate(output, task)
