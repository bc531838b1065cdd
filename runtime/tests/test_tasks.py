"""Texts in, answers out: every kind of model against the main package's tokenization, reading and PyTorch."""

import json
import random
import string
import threading

import numpy as np
import pytest
import torch
from oracle import HEADS, pack_folder, packed, random_model
from pruneonce.data.questions import Question, best_answers, n_best_answers, windows
from pruneonce.models.pooling import MODES, Pooling
from pruneonce.tasks.token_classification import NONE, _first_tokens, _marks_spaces, _with_spaces
from shared.models import CONFIGS, SPECIAL, WORDS, make_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import AutoModel, AutoModelForMaskedLM, BertTokenizer, PreTrainedTokenizerFast

from pruneonce_runtime import PruneonceError, answers, instruction_sets, load, pooling
from pruneonce_runtime.model import WINDOW, batches

TEXTS = [
    "a great river",
    "",
    "awful winter in the city of stone and paper and music and light and water",
    "the",
    "Unknown words, by CHANCE!",
    " ".join(WORDS * 4),
    "the [PAD] of the [SEP] river",
]
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))
LABELS = {"num_labels": 3, "id2label": {0: "good", 1: "fine", 2: "bad"}}


def load_head(tmp_path, head, architecture="bert", kind="int8", tokenizer=None, max_length=None, **config):
    """A loaded model, and that of PyTorch."""
    folder = tmp_path / "model"
    case = packed(tmp_path / "first", random_model(HEADS[head], architecture, **config), kind)
    if tokenizer is not None:
        case.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        case = pack_folder(folder, kind)
    return load(case.file, max_length=max_length), case.model


@torch.no_grad()
def torch_outputs(model, tokenizer, texts, max_length, **settings):
    """Of each text by itself, as transformers tokenizes it."""
    rows = []
    for text in texts:
        columns = [[part] for part in (text if isinstance(text, tuple) else (text,))]  # of a lone "" it makes no pair
        given = tokenizer(*columns, truncation=True, max_length=max_length, return_tensors="pt", **settings)
        rows.append(model(**given))
    return rows


# -- classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_classes(architecture, texts, tmp_path):
    model, theirs = load_head(tmp_path, "sequence", architecture, **LABELS)
    assert model.task == "classification"
    assert model.labels == ("good", "fine", "bad")
    assert model.max_length == 32  # of the tokenizer
    rows = torch_outputs(theirs, make_tokenizer(), texts, 32)
    for found, row in zip(model(texts), rows, strict=True):
        shares = torch.softmax(row.logits[0], -1).numpy()
        assert list(found.probabilities) == list(model.labels)
        np.testing.assert_allclose(list(found.probabilities.values()), shares, rtol=1e-5)
        assert found.label == model.labels[shares.argmax()]
        assert found.probability == max(found.probabilities.values())
        assert isinstance(found.probability, float)


def test_forms_of_input(tmp_path):
    model, _ = load_head(tmp_path, "sequence", **LABELS)
    assert model([]) == []
    assert list(model.stream([])) == []
    assert model("a great river") == model(["a great river"])[0]
    assert model("a great river", "the city") == model([("a great river", "the city")])[0]
    assert model(("a great river", "the city")) != model("a great river")


@pytest.mark.parametrize(
    "wrong", [[3], [None], [["a", "b"]], [("a",)], [("a", 1)], [("a", "b", "c")], ["\ud83d"], [("a", "\udc00")], [b"a"]]
)
def test_what_is_no_text(wrong, tmp_path):
    model, _ = load_head(tmp_path, "sequence")
    with pytest.raises(PruneonceError, match=r"a text has to be a str|not valid Unicode"):
        model(wrong)


def test_a_stream_is_lazy_and_in_order(tmp_path):
    model, _ = load_head(tmp_path, "sequence", **LABELS)
    chosen = random.Random(0)
    texts = [" ".join(chosen.choices(WORDS, k=chosen.randrange(0, 20))) for _ in range(WINDOW + 200)]
    taken = []

    def source():
        for text in texts:
            taken.append(text)
            yield text

    stream = model.stream(source())
    first = next(stream)
    assert len(taken) == WINDOW
    everything = [first, *stream]
    for number in (0, 5, WINDOW - 1, WINDOW, WINDOW + 199):
        assert everything[number] == model(texts[number])


def test_batches_are_bounded_and_sorted_by_length():
    lengths = [random.Random(1).randrange(1, 300) for _ in range(200)] + [5000]
    found = list(batches(lengths, 1000))
    assert sorted(number for batch in found for number in batch) == list(range(201))
    assert [lengths[number] for batch in found for number in batch] == sorted(lengths)
    assert all(sum(lengths[number] for number in batch) <= 1000 for batch in found[:-1])
    assert found[-1] == [200]
    assert list(batches([])) == []


@pytest.mark.parametrize("max_length", [4, 5, 20, 128])
def test_truncation(max_length, tmp_path):
    model, theirs = load_head(tmp_path, "sequence", max_length=max_length, **LABELS)
    for texts in (TEXTS, PAIRS):
        rows = torch_outputs(theirs, make_tokenizer(), texts, max_length)
        found = [list(each.probabilities.values()) for each in model(texts)]
        np.testing.assert_allclose(found, [torch.softmax(row.logits[0], -1).numpy() for row in rows], rtol=1e-5)


@pytest.mark.parametrize("said_by", ["tokenizer_config.json", "tokenizer.json"])
def test_truncation_on_the_left(said_by, tmp_path):
    words = make_tokenizer().backend_tokenizer
    side = {"truncation_side": "left"} if said_by == "tokenizer_config.json" else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", model_max_length=32, **side)
    if not side:
        tokenizer.truncation_side = "left"
        tokenizer("a b c d e", truncation=True, max_length=4)  # from here on it is in what is saved
    model, theirs = load_head(tmp_path, "sequence", tokenizer=tokenizer, max_length=8, **LABELS)
    for texts in (TEXTS, PAIRS):
        rows = torch_outputs(theirs, tokenizer, texts, 8)
        found = [list(each.probabilities.values()) for each in model(texts)]
        np.testing.assert_allclose(found, [torch.softmax(row.logits[0], -1).numpy() for row in rows], rtol=1e-5)


@pytest.mark.parametrize("max_length", [0, 3, 129, -1])
def test_lengths_that_cannot_be(max_length, tmp_path):
    with pytest.raises(PruneonceError, match=f"max_length is {max_length}; this model takes 4 to 128 tokens"):
        load_head(tmp_path, "sequence", max_length=max_length)


def test_token_types_are_given_where_transformers_gives_them(tmp_path):
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = BertTokenizer(vocab=vocabulary, model_max_length=32)
    assert "token_type_ids" in tokenizer("a", "b")
    model, theirs = load_head(tmp_path, "sequence", tokenizer=tokenizer, **LABELS)
    assert model._parts.tokenizer.has_types
    found = [list(each.probabilities.values()) for each in model(PAIRS)]
    rows = torch_outputs(theirs, tokenizer, PAIRS, 32)
    np.testing.assert_allclose(found, [torch.softmax(row.logits[0], -1).numpy() for row in rows], rtol=1e-5)
    without = torch_outputs(theirs, tokenizer, PAIRS[:1], 32, return_token_type_ids=False)[0]
    assert np.abs(torch.softmax(without.logits[0], -1).numpy() - found[0]).max() > 1e-4


def test_tokens_of_another_model(tmp_path):
    """A tokenizer with more tokens than the model has gives an error, and not another row of memory."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["seventeen"])
    model, _ = load_head(tmp_path, "sequence", tokenizer=tokenizer)
    assert model("a great river")
    with pytest.raises(PruneonceError, match="the tokenizer is of another model"):
        model("seventeen")


def test_a_text_without_tokens(tmp_path):
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(SPECIAL + WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    model, _ = load_head(tmp_path, "sequence", tokenizer=tokenizer)
    assert model("river")
    with pytest.raises(PruneonceError, match="no tokens, and the tokenizer adds none"):
        model("")


def test_calls_from_several_threads(tmp_path):
    """Truncation is a state of a tokenizer that members share."""
    model, _ = load_head(tmp_path, "answers", max_length=24)
    pairs = [("which was bad", " ".join(WORDS * 3)), ("river " * 80, "a great city")]
    expected = [model(pair) for pair in pairs]
    wrong = []

    def call(pair, answer):
        wrong.extend(model(pair) for _ in range(5) if model(pair) != answer)

    threads = [threading.Thread(target=call, args=each) for each in zip(pairs * 2, expected * 2, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- one number --------------------------------------------------------------------------------------------------


def test_regression(tmp_path):
    model, theirs = load_head(tmp_path, "sequence", num_labels=1, problem_type="regression")
    assert model.task == "regression"
    assert model.labels == ()
    rows = torch_outputs(theirs, make_tokenizer(), PAIRS, 32)
    np.testing.assert_allclose(model(PAIRS), [row.logits.item() for row in rows], rtol=1e-5)
    assert isinstance(model("a", "b"), float)


def test_reranking(tmp_path):
    settings = {"num_labels": 1, "problem_type": "multi_label_classification"}
    model, theirs = load_head(tmp_path, "sequence", **settings)
    assert model.task == "reranking"
    rows = torch_outputs(theirs, make_tokenizer(), [("river", text) for text in TEXTS], 32)
    scores = [torch.sigmoid(row.logits).item() for row in rows]
    np.testing.assert_allclose(model([("river", text) for text in TEXTS]), scores, rtol=1e-5)
    ranked = model.rank("river", TEXTS)
    assert [each.number for each in ranked] == sorted(range(len(TEXTS)), key=lambda number: -scores[number])
    assert all(each.passage == TEXTS[each.number] for each in ranked)
    assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)
    assert model.rank("river", TEXTS, top=2) == ranked[:2]
    assert model.rank("river", []) == []
    assert [each.number for each in model.rank("river", ["a", "a"])] == [0, 1]


# -- a label for each word ---------------------------------------------------------------------------------------


def pieces():
    """A WordPiece tokenizer that cuts `gardens` into `garden ##s`, with as many tokens as the tiny models have."""
    known = [word for word in WORDS if word not in ("number", "music", "paper")]
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *known, "##s", "##er", ","])}
    words = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return with_template(words)


def bytes_level():
    """A byte-level tokenizer, whose tokens depend on the space before a word."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, "Ġ", ",", *string.ascii_lowercase])}
    words = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    return with_template(words)


def with_template(words):
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names, model_max_length=32)


@pytest.mark.parametrize("make", [pieces, bytes_level])
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_words(architecture, make, tmp_path):
    tokenizer = make()
    model, theirs = load_head(tmp_path, "tokens", architecture, tokenizer=tokenizer, **LABELS)
    assert model.task == "token-classification"
    assert model._parts.tokenizer.marks_spaces == _marks_spaces(tokenizer) == (make is bytes_level)
    chosen = random.Random(2)
    sentences = [chosen.choices([*WORDS, "gardens", "waterer", ","], k=size) for size in (1, 5, 12, 50)]
    for sentence, found in zip(sentences, model(sentences), strict=True):
        words = _with_spaces(sentence) if make is bytes_level else sentence
        given = tokenizer(words, is_split_into_words=True, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            shares = torch.softmax(theirs(**given).logits[0], -1).numpy()
        expected = [(None, 0.0)] * len(sentence)
        for token, word in enumerate(_first_tokens(given.word_ids(0))):
            if word != NONE:
                expected[word] = (model.labels[shares[token].argmax()], shares[token].max())
        assert [word.text for word in found] == sentence
        assert [word.label for word in found] == [label for label, _ in expected]
        np.testing.assert_allclose([word.probability for word in found], [share for _, share in expected], rtol=1e-5)
        text = " ".join(sentence)
        assert all(text[word.start : word.end] == word.text for word in found)
    assert [word.label for word in model(sentences[-1:])[0]].count(None) > 10  # cut off


def test_words_of_a_text(tmp_path):
    model, _ = load_head(tmp_path, "tokens", tokenizer=pieces(), **LABELS)
    text = "  The river-stone, gardens\tof 2\u00a0cities!\u200b"
    found = model(text)
    words = ["The", "river", "-", "stone", ",", "gardens", "of", "2", "cities", "!", "\u200b"]
    assert [word.text for word in found] == words
    assert all(text[word.start : word.end] == word.text for word in found)
    assert [(word.label, word.probability) for word in found] == [
        (word.label, word.probability) for word in model([[word.text for word in found]])[0]
    ]
    assert found[-1].label is None  # it has no token
    assert model("") == []
    assert model(["", "the"])[1] == model("the")
    assert model([[]]) == [[]]
    for wrong in ([3], [[3]], [("a", "b")]):
        with pytest.raises(PruneonceError, match="a text to tag has to be a str or a list of words"):
            model(wrong)


# -- spans -------------------------------------------------------------------------------------------------------


def questions(count, size):
    chosen = random.Random(3)
    return [
        Question(str(n), " ".join(chosen.choices(WORDS, k=n + 1)), " ".join(chosen.choices(WORDS, k=size)), (), ())
        for n in range(count)
    ]


@pytest.mark.parametrize(("max_length", "stride"), [(32, 8), (24, 0), (64, 21)])
@pytest.mark.parametrize("no_answer", [False, True])
@pytest.mark.parametrize("size", [4, 70])
def test_answers(size, no_answer, max_length, stride, tmp_path):
    tokenizer = make_tokenizer()
    model, theirs = load_head(tmp_path, "answers", "bert", max_length=max_length)
    assert model.task == "question-answering"
    rows = questions(6, size)
    found = windows(rows, tokenizer, max_length, stride)
    logits = []
    with torch.no_grad():
        for window in found.inputs:
            logits.append(theirs(input_ids=torch.tensor([window["input_ids"]])))
    starts, ends = ([row[name][0].numpy() for row in logits] for name in ("start_logits", "end_logits"))
    settings = {"n_best": 5, "max_answer_length": 4}
    expected = best_answers(starts, ends, found, rows, no_answer=no_answer, null_threshold=0.1, **settings)
    spans = n_best_answers(starts, ends, found, rows, **settings)
    options = {**settings, "doc_stride": stride, "no_answer": no_answer, "null_threshold": 0.1}
    given = model([(row.question, row.context) for row in rows], **options)
    for row, answer in zip(rows, given, strict=True):
        assert answer.text == expected[row.id] == row.context[answer.start : answer.end]
        if answer.text:
            assert answer.score == pytest.approx(spans[row.id][0].score, rel=1e-5)
    assert model(rows[0].question, rows[0].context, **options) == given[0]


def test_long_questions_are_cut(tmp_path):
    tokenizer = pieces()
    model, _ = load_head(tmp_path, "answers", tokenizer=tokenizer, max_length=32)
    for question in ("gardens " * 60, "river", ""):
        row = Question("0", question, "a great city of stone " * 9, (), ())
        found = windows([row], tokenizer, 32, 8)
        mine = answers.windows(model._parts.tokenizer, row.question, row.context, 32, 8)
        assert [window.tokens.ids.tolist() for window in mine] == [each["input_ids"] for each in found.inputs]
        for window, offsets in zip(mine, found.offsets, strict=True):
            np.testing.assert_array_equal(window.offsets, offsets)


def test_what_is_no_question(tmp_path):
    model, _ = load_head(tmp_path, "answers")
    assert model.max_length == 128  # of 384, as many as there are positions
    assert model("who", "") == ("", pytest.approx(model("who", "").score), 0, 0)
    with pytest.raises(PruneonceError, match="a question needs its context"):
        model("who")
    with pytest.raises(PruneonceError, match="leaves no room for a question"):
        model("who", "a river", doc_stride=124)
    with pytest.raises(PruneonceError, match="have to be 1 or more"):
        model("who", "a river", n_best=0)
    with pytest.raises(TypeError):
        model("who", "a river", stride=3)
    assert model([]) == []


def test_three_outputs_are_no_span(tmp_path):
    with pytest.raises(PruneonceError, match="`id2label`"):
        load_head(tmp_path, "answers", num_labels=3)


# -- vectors -----------------------------------------------------------------------------------------------------

MODULES = ["", "1_Pooling", "2_Normalize"]
NAMES = ["Transformer", "Pooling", "Normalize"]


def sentence_transformer(folder, settings, kinds=NAMES):
    """sentence-transformers' files for a model folder, by hand."""
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(MODULES, kinds, strict=False))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **settings}))


def encoder(tmp_path, settings=None, kinds=NAMES):
    folder = tmp_path / "encoder"
    random_model(AutoModel, "bert").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    if settings is not None:
        sentence_transformer(folder, settings, kinds)
    return pack_folder(folder)


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        (None, NAMES),
        ({"pooling_mode_mean_tokens": True}, NAMES),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, NAMES[:2]),
        ({"pooling_mode_max_tokens": True}, NAMES),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, NAMES[:2]),
        ({"pooling_mode": ["cls"]}, NAMES),
        ({}, NAMES),
    ],
)
def test_vectors(settings, kinds, tmp_path):
    case = encoder(tmp_path, settings, kinds)
    model = load(case.file)
    assert model.task == "embedding"
    assert model.max_length == (32 if settings is None else 24)
    theirs = Pooling.of(tmp_path / "encoder")
    assert (model.pooling.modes, model.pooling.normalize) == (theirs.modes, theirs.normalize)
    given = make_tokenizer()(TEXTS, truncation=True, max_length=model.max_length, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(case.model(**given).last_hidden_state, given["attention_mask"]).numpy()
    found = model.encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(model.encode(TEXTS[0]), found[0])
    np.testing.assert_array_equal(model(TEXTS[0]), found[0])
    assert model.encode([]).shape == (0, 32)


def test_the_modes_of_pooling_are_those_of_the_main_package():
    assert list(pooling.MODES) == list(MODES)


@pytest.mark.parametrize(
    ("settings", "kinds", "message"),
    [
        ({"pooling_mode": "min"}, NAMES, "pooling by min is not supported"),
        ({"pooling_mode_min_tokens": True}, NAMES, "`pooling_mode_min_tokens` is not known"),
        ({"pooling_mode": []}, NAMES, "pooling by nothing"),
        ({}, ["Transformer", "Dense"], "makes its vectors by Transformer, Dense"),
        ({}, ["Transformer", "Pooling", "Dense"], "makes its vectors by Transformer, Pooling, Dense"),
    ],
)
def test_vectors_that_are_made_in_another_way(settings, kinds, message, tmp_path):
    with pytest.raises(PruneonceError, match=message):
        load(encoder(tmp_path, settings, kinds).file)


@pytest.mark.parametrize("modules", [{"a": 1}, [1], [{}], "x", [{"type": "a.Pooling", "path": "../x"}]])
def test_damaged_modules(modules, tmp_path):
    folder = tmp_path / "encoder"
    random_model(AutoModel, "bert").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(PruneonceError, match=r"modules.json is not a list|odd place|makes its vectors by"):
        load(pack_folder(folder).file)


def test_a_pooling_without_its_file(tmp_path):
    folder = tmp_path / "encoder"
    random_model(AutoModel, "bert").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    sentence_transformer(folder, {})
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(PruneonceError, match=r"1_Pooling/config.json is missing or damaged"):
        load(pack_folder(folder).file)


# -- what a model is for -----------------------------------------------------------------------------------------


def test_a_vocabulary_head_is_left_out(tmp_path):
    case = packed(tmp_path, random_model(AutoModelForMaskedLM, "bert"), "int8")
    model = load(case.file)
    assert model.task == "embedding"
    given = make_tokenizer()(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        expected = case.model.bert(**given).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(model.encode(TEXTS[0]), expected, rtol=1e-4, atol=1e-5)


def test_provenance_and_the_choice_of_an_engine(tmp_path):
    folder = tmp_path / "model"
    random_model(HEADS["sequence"], "bert").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "pruneonce.json").write_text(json.dumps({"stage": "transfer", "settings": {"steps": 3}, "key": "k"}))
    file = pack_folder(folder).file
    model = load(file, instructions="reference", verify=False)
    assert model.provenance["stage"] == "transfer"
    assert model.explain().startswith("plain numpy")
    expected = model("a great river")
    for name in instruction_sets():
        native = load(str(file), instructions=name)
        assert name in native.explain()
        assert "64 x 32" in native.explain()
        assert native("a great river").label == expected.label
    with pytest.raises(PruneonceError, match=r"no kernels for .mmx. here; there are .*reference"):
        load(file, instructions="mmx")
    with pytest.raises(PruneonceError, match="threads: 0; 1 is the least"):
        load(file, threads=0)
