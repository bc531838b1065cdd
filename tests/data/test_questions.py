"""Question answering: what is read, the windows of it, and answers found again from logits."""

import gzip
import json
import os
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared.models import WORDS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pruneonce.data.questions import COLUMNS, Question, best_answers, from_table, n_best_answers, read, windows
from pruneonce.data.questions.windows import _position
from pruneonce.data.readers import from_dataset
from pruneonce.errors import UserError
from pruneonce.metrics import squad

CONTEXT = (
    "The river was fine, but the City of stone was «awful» in winter. Æther and naïve café music: 12.5% for 日本語."
)
XQUAD = Path(os.environ.get("PRUNEONCE_DATA", "../shared/data")) / "xquad-en"


def row(answer, identity="q", context=CONTEXT, question="which city was it"):
    """A question whose answer is `answer`, or none."""
    answers = () if answer is None else (answer,)
    return Question(identity, question, context, answers, tuple(context.index(text) for text in answers))


def flat(question):
    answers = {"text": list(question.answers), "answer_start": list(question.starts)}
    return {"id": question.id, "question": question.question, "context": question.context, "answers": answers}


def nested(*questions):
    """SQuAD's own JSON of questions about one context."""
    qas = [
        {
            "id": one.id,
            "question": one.question,
            "answers": [
                {"text": text, "answer_start": start} for text, start in zip(one.answers, one.starts, strict=True)
            ],
            "is_impossible": not one.answers,
        }
        for one in questions
    ]
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": questions[0].context, "qas": qas}]}]}


QUESTIONS = [row("the City of stone", "a"), row("«awful»", "b"), row("12.5%", "c"), row(None, "d")]


# -- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["q.json", "q.json.gz", "pretty.json", "q.jsonl", "lines.json", "list.json", "q.parquet"]
)
def test_every_form_reads_the_same(tmp_path, name):
    path = tmp_path / name
    rows = [flat(question) for question in QUESTIONS]
    if name == "q.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name in ("q.jsonl", "lines.json"):
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif name == "list.json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif name == "q.json.gz":
        path.write_bytes(gzip.compress(json.dumps(nested(*QUESTIONS)).encode()))
    else:
        path.write_text(json.dumps(nested(*QUESTIONS), indent=1 if name == "pretty.json" else None), encoding="utf-8")
    assert read(path) == QUESTIONS


def test_a_number_is_an_id_and_answers_may_be_a_list(tmp_path):
    path = tmp_path / "q.jsonl"
    answers = [{"text": "stone", "answer_start": CONTEXT.index("stone")}]
    path.write_text(json.dumps({**flat(QUESTIONS[0]), "id": 7, "answers": answers}))
    assert read(path) == [row("stone", "7")]


def test_hub_data_reads_the_same():
    texts = {name: datasets.Value("string") for name in ("id", "title", "question", "context")}
    answers = {"text": datasets.List(datasets.Value("string")), "answer_start": datasets.List(datasets.Value("int32"))}
    rows = [{**flat(question), "title": ""} for question in QUESTIONS]
    dataset = datasets.Dataset.from_list(rows, features=datasets.Features({**texts, "answers": answers}))
    assert from_table(from_dataset(dataset, "'squad', split 'train'", COLUMNS)) == QUESTIONS
    broken = datasets.Dataset.from_list([rows[3], {**rows[0], "context": ""}], features=dataset.features)
    with pytest.raises(UserError, match=r"^'squad', row 2, question 'a': the answer .* the context does not have it$"):
        from_table(from_dataset(broken, "'squad'", COLUMNS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"answers": {"text": ["stone"], "answer_start": [3]}},
            "question 'a': .*\"stone\" is not at .* 3; it is at 36",
        ),
        ({"answers": {"text": ["fine"], "answer_start": [16]}}, "not at its answer_start, 16; it is at 14 .was white"),
        ({"answers": {"text": [" stone "], "answer_start": [37]}}, "it is at 35"),
        ({"answers": {"text": [" 12.5 "], "answer_start": [92]}}, "without the white space around it, it is at"),
        ({"answers": {"text": ["marble"], "answer_start": [3]}}, "the context does not have it"),
        ({"answers": {"text": ["stone"], "answer_start": [-1]}}, "not at its answer_start, -1"),
        ({"answers": {"text": ["stone"], "answer_start": ["36"]}}, "'answer_start' has to be a whole number"),
        ({"answers": {"text": [" "], "answer_start": [3]}}, "an answer is empty"),
        ({"answers": {"text": ["stone"], "answer_start": []}}, "two lists of one length"),
        ({"answers": "stone"}, 'has to be .*not "stone"'),
        ({"answers": None}, "not null"),
        ({"question": None}, "question 'a': 'question' has to be text, not null"),
        ({"context": 3}, "'context' has to be text, not 3"),
        ({"id": None}, "'id' has to be text, not null"),
        ({"question": "\ud83d"}, "not valid Unicode"),
        ({"id": "b"}, "question id 'b' comes twice"),
    ],
)
def test_what_is_wrong_with_a_question(tmp_path, changes, message):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({**flat(QUESTIONS[0]), **changes}) + "\n" + json.dumps(flat(QUESTIONS[1])))
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "line" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_column_names_those_there_are(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"id": "a", "questions": "", "context": "", "answers": []}))
    with pytest.raises(UserError, match=r"no column 'question', only 'id', 'questions'.*did you mean 'questions'"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "broken JSON"),
        ('{"data": [{"paragraphs": [], "paragraphs": []}]}', "'paragraphs' is given twice in one object; keep one"),
        ('{"a":' * 100_000, "nested too deep"),
        ("[" * 100_000, "row 1: not a JSON object"),
        ("3", "neither JSON lines nor"),
        ("[]", "is empty"),
        ('{"data": []}', "holds no questions"),
        ('{"version": "1.1"}', "no column 'id'"),
        ('{"data": [3]}', r"data\[0\] has to be an object with a list 'paragraphs', not 3"),
        ('{"data": [{"paragraphs": [{"context": ""}]}]}', r"paragraphs\[0\] has to be an object with a list 'qas'"),
        ('{"data": [{"paragraphs": [{"qas": [3]}]}]}', "no column 'context', only 'qas'"),
        ('{"data": [{"paragraphs": [{"context": "", "qas": [3]}]}]}', r"qas\[0\] has to be an object, not 3"),
        ('{"data": [{"paragraphs": [{"context": "", "qas": [{"id": ""}]}]}]}', r"qas\[0\]: no column 'question'"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, text, message):
    path = tmp_path / "q.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read(path)


def test_a_nested_file_is_of_bounded_size(tmp_path, monkeypatch):
    path = tmp_path / "q.json"
    path.write_text(json.dumps(nested(*QUESTIONS), indent=1), encoding="utf-8")
    monkeypatch.setattr("pruneonce.data.questions.reading.MOST_CHARACTERS", 300)
    with pytest.raises(UserError, match="is larger than 300 characters"):
        read(path)


def test_a_question_and_a_context_are_of_bounded_size(tmp_path, monkeypatch):
    path = tmp_path / "q.json"
    path.write_text(json.dumps(nested(*QUESTIONS)), encoding="utf-8")
    monkeypatch.setattr("pruneonce.data.questions.reading.MOST_OF_A_TEXT", 5)
    with pytest.raises(UserError, match="is longer than 5 characters; give the part of it that has the answer"):
        read(path)


# -- windows ------------------------------------------------------------------------------------------------


def like(tokenizer, *inputs):
    """The same tokenizer, giving `inputs`."""
    other = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    other.model_input_names = ["input_ids", *inputs]
    return other


@pytest.fixture(scope="session")
def byte_level():
    """As RoBERTa's: two separators, a space belongs to the word after it, and a character can be several tokens."""
    vocabulary = {
        token: number
        for number, token in enumerate(["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="<s>",
        bos_token="<s>",
        sep_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    fast.model_input_names = ["input_ids", "attention_mask"]
    return fast


def one_hot(made, padding=0):
    """Logits of a model that is always right, for windows made for training."""
    logits = []
    for column in ("start_positions", "end_positions"):
        rows = [np.zeros(len(ids) + padding) for ids in made.inputs["input_ids"]]
        for values, position in zip(rows, made.inputs[column], strict=True):
            values[position] = 1
        logits.append(rows)
    return logits


def test_windows_overlap_and_hold_every_token(tokenizer):
    words = [WORDS[number * 7 % len(WORDS)] for number in range(60)]
    rows = [row(None, "a", " ".join(words)), row(None, "b", "fine")]
    made = windows(rows, tokenizer, max_length=24, doc_stride=5)
    assert made.example.tolist() == [0] * (len(made.example) - 1) + [1]
    assert made.inputs.column_names == ["input_ids", "attention_mask"]
    assert max(map(len, made.inputs["input_ids"])) == 24
    ids = tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
    room = 24 - 3 - 4  # three special tokens, four of the question
    for number, start in enumerate(range(0, 60 - 5, room - 5)):
        of_context = made.offsets[number][:, 0] >= 0
        assert np.array(made.inputs["input_ids"][number])[of_context].tolist() == ids[start : start + room]
        assert not of_context[:6].any()
        assert of_context[6:-1].all()
        assert not of_context[-1]
        spelled = [rows[0].context[begin:stop] for begin, stop in made.offsets[number][of_context]]
        assert spelled == words[start : start + room]
    assert number == len(made.example) - 2


def test_positions_are_those_of_windows_with_the_whole_answer(tokenizer):
    words = [WORDS[number % len(WORDS)] for number in range(48)]
    context, answer = " ".join(words), " ".join(words[14:18])
    made = windows([row(answer, context=context)], tokenizer, max_length=24, doc_stride=5, training=True)
    starts, ends = made.inputs["start_positions"][:], made.inputs["end_positions"][:]
    assert (starts[0], ends[0]) == (0, 0)  # tokens 0 to 16: a part of it
    assert (starts[1], ends[1]) == (6 + 2, 6 + 5)  # tokens 12 to 28: all of it
    assert set(starts[2:]) == set(ends[2:]) == {0}


@pytest.mark.parametrize(
    ("answer", "start", "first", "last", "position"),
    [
        ("stone", 12, False, False, (1, 1)),  # it begins where the window does
        (" stone", 11, False, False, (1, 1)),  # white space before a window is not a part of the answer that is cut off
        ("\u200bstone", 11, False, False, (0, 0)),  # but another character is, as far as one can know,
        ("\u200bstone", 11, True, False, (1, 1)),  # save where there is nothing before the window
        ("12", 22, False, False, (3, 3)),
        ("12\n", 22, False, False, (3, 3)),
        ("12%", 22, False, False, (0, 0)),
        ("12%", 22, False, True, (3, 3)),
        ("$", 21, False, False, (2, 2)),  # what stands right beside it is not in it
        ("stone eve$12", 12, False, False, (1, 3)),
        ("river", 0, False, False, (0, 0)),
    ],
)
def test_the_position_in_one_window(answer, start, first, last, position):
    offsets = np.array([[-1, -1], [12, 17], [21, 22], [22, 24], [-1, -1]])
    assert _position(Question("q", "", "", (answer,), (start,)), offsets, first, last) == position


def test_token_types_do_not_matter(tokenizer):
    without = windows(QUESTIONS, like(tokenizer, "attention_mask"), 30, 8, training=True)  # as DistilBERT's and MPNet's
    with_types = windows(QUESTIONS, like(tokenizer, "token_type_ids", "attention_mask"), 30, 8, training=True)
    assert {*with_types.inputs.column_names} - {*without.inputs.column_names} == {"token_type_ids"}
    for name in without.inputs.column_names:
        assert without.inputs[name][:] == with_types.inputs[name][:]
    assert all((a == b).all() for a, b in zip(with_types.offsets, without.offsets, strict=True))


def test_a_long_question_is_cut(tokenizer, byte_level):
    long = row("stone", question="was it " * 100)
    made = windows([long], tokenizer, training=True)
    assert made.inputs["input_ids"][0].index(tokenizer.sep_token_id) == 1 + 64
    made = windows([long], tokenizer, max_length=32, doc_stride=8, training=True)
    assert made.inputs["input_ids"][0].index(tokenizer.sep_token_id) == 1 + (32 - 3 - 8) // 2
    assert best_answers(*one_hot(made), made, [long]) == {"q": "stone"}
    made = windows([row("stone", question="日" * 100)], byte_level, max_length=50, doc_stride=20)
    assert made.inputs["input_ids"][0].index(byte_level.sep_token_id) == 1 + 12  # of 13 tokens, four whole characters


def test_many_questions_keep_their_numbers(tokenizer):
    rows = [row("stone", str(number)) for number in range(1001)]
    made = windows(rows, tokenizer, training=True)
    assert made.example.tolist() == list(range(1001))
    assert len(made.inputs) == 1001


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_length": 128}, "leaves no room .* doc_stride of 128"), ({"doc_stride": -1}, "0 or more")],
)
def test_windows_without_room(tokenizer, settings, message):
    with pytest.raises(UserError, match=message):
        windows(QUESTIONS, tokenizer, **settings)


def test_tokenizers_that_will_not_do(tokenizer):
    left = like(tokenizer)
    left.padding_side = "left"
    with pytest.raises(UserError, match="pads on the right"):
        windows(QUESTIONS, left)
    with pytest.raises(UserError, match="fast tokenizer"):
        windows(QUESTIONS, object())


# -- answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(("max_length", "doc_stride"), [(384, 128), (30, 12)])
def test_gold_positions_give_gold_answers(tokenizer, byte_level, max_length, doc_stride, padding):
    rows = [*QUESTIONS, row("日本語", "e"), row("Æther and naïve café music", "f"), row("The", "g")]
    gold = {question.id: next(iter(question.answers), "") for question in rows}
    made = windows(rows, tokenizer, max_length, doc_stride, training=True)
    assert best_answers(*one_hot(made, padding), made, rows, no_answer=True) == gold
    made = windows(rows, byte_level, 384, 128, training=True)
    assert best_answers(*one_hot(made, padding), made, rows, no_answer=True, max_answer_length=99) == gold


def test_white_space_around_an_answer_is_no_token(byte_level):
    rows = [row(" fine", "a"), row("stone ", "b")]
    made = windows(rows, byte_level, training=True)
    assert best_answers(*one_hot(made), made, rows) == {"a": "fine", "b": "stone"}


def plain_best(row, start_logits, end_logits, offsets, no_answer, n_best=20, longest=30):
    """All that is described, for one question, in loops."""
    found, null = [], min(start[0] + end[0] for start, end in zip(start_logits, end_logits, strict=True))
    for start, end, window in zip(start_logits, end_logits, offsets, strict=True):
        context = [token for token in range(len(window)) if window[token][0] >= 0]
        for i in sorted(context, key=lambda token: -start[token])[:n_best]:
            for j in sorted(context, key=lambda token: -end[token])[:n_best]:
                if i <= j < i + longest:
                    found.append((start[i] + end[j], row.context[window[i][0] : window[j][1]]))
    score, text = max(found)
    return "" if no_answer and null > score else text


@pytest.mark.parametrize("no_answer", [False, True])
def test_the_search_is_the_plain_one(tokenizer, no_answer):
    chosen = np.random.default_rng(0)
    rows = [row(None, str(number), " ".join(chosen.choice(WORDS, 70))) for number in range(8)]
    made = windows(rows, tokenizer, 32, 8)
    starts, ends = chosen.normal(size=(2, len(made.example), 40))
    starts[:, 0] += no_answer * np.linspace(0, 8, len(starts))  # some have none
    found = best_answers(starts, ends, made, rows, no_answer=no_answer, n_best=5, max_answer_length=4)
    for number, question in enumerate(rows):
        mine = np.flatnonzero(made.example == number)
        offsets = [made.offsets[window] for window in mine]
        assert found[question.id] == plain_best(question, starts[mine], ends[mine], offsets, no_answer, 5, 4)
    assert ("" in found.values()) == no_answer


def test_n_best(tokenizer):
    rows = [row("stone", context="stone city river")]
    made = windows(rows, tokenizer)
    starts, ends = np.zeros((2, 1, len(made.offsets[0])))
    city = int(np.flatnonzero(made.offsets[0][:, 0] == 6)[0])
    starts[0, city] = ends[0, city] = 1
    answers = n_best_answers(starts, ends, made, rows, no_answer=True)["q"]
    assert [(a.text, a.score) for a in answers] == [
        ("city", 2),
        ("stone city", 1),  # equal scores: the earlier first
        ("city river", 1),
        ("stone", 0),
        ("stone city river", 0),
        ("river", 0),
        ("", 0),
    ]
    assert all(rows[0].context[a.start : a.end] == a.text for a in answers)
    short = n_best_answers(starts, ends, made, rows, n_best=2, max_answer_length=1)["q"]
    assert [a.text for a in short] == ["city", "stone"]


def test_of_several_windows_the_best_score_of_a_span_counts(tokenizer):
    rows = [row(None, context=" ".join(WORDS))]
    made = windows(rows, tokenizer, 32, 12)
    starts, ends = np.zeros((2, len(made.example), 32))
    begin, stop = made.offsets[1][7]
    tokens = [np.flatnonzero(made.offsets[window][:, 0] == begin)[0] for window in (0, 1)]
    starts[[0, 1], tokens] = ends[[0, 1], tokens] = 2, 1
    best, *others = n_best_answers(starts, ends, made, rows)["q"]
    assert best == (rows[0].context[begin:stop], 4, begin, stop)
    assert best[2:] not in [answer[2:] for answer in others]
    assert len(others) == 19


def test_the_threshold_of_no_answer(tokenizer):
    rows = [row("stone")]
    made = windows(rows, tokenizer)
    starts, ends = np.zeros((2, 1, len(made.offsets[0])))
    starts[0, 0], starts[0, 10] = 3, 2
    for threshold, answered in ((0.0, False), (0.99, False), (1.0, True), (5.0, True)):
        found = best_answers(starts, ends, made, rows, null_threshold=threshold, no_answer=True)["q"]
        assert bool(found) == answered
    assert best_answers(starts, ends, made, rows)["q"]  # without `no_answer` there is always one


def test_a_diverged_model_still_answers(tokenizer):
    made = windows(QUESTIONS, tokenizer)
    shape = (len(made.example), max(map(len, made.offsets)))
    for value in (np.nan, np.inf, -np.inf):
        assert all(best_answers(np.full(shape, value), np.full(shape, value), made, QUESTIONS).values())


def test_a_context_without_tokens_has_no_answer(tokenizer):
    rows = [row(None, context=""), row("stone", "r")]
    made = windows(rows, tokenizer, training=True)
    assert best_answers(*one_hot(made), made, rows) == {"q": "", "r": "stone"}


def test_logits_of_something_else_are_refused(tokenizer):
    made = windows(QUESTIONS, tokenizer)
    starts = np.zeros((len(made.example), 10))
    with pytest.raises(UserError, match="10 logits for a window of"):
        best_answers(starts, starts, made, QUESTIONS)
    with pytest.raises(UserError, match="3 rows of start logits and 4 of end logits for 4 windows"):
        best_answers(starts[:3], starts, made, QUESTIONS)


@st.composite
def asked(draw):
    """A question whose answer is some words of its context, or none."""
    words = draw(st.lists(st.sampled_from([*WORDS, "«x»", "Zürich", "日本", "U.S."]), min_size=1, max_size=60))
    gaps = draw(st.lists(st.sampled_from([" ", "  ", "\n", ", "]), min_size=len(words), max_size=len(words)))
    first = draw(st.integers(0, len(words) - 1))
    count = draw(st.integers(0, 2))
    start = sum(map(len, words[:first])) + sum(map(len, gaps[:first]))
    context = "".join(word + gap for word, gap in zip(words, gaps, strict=True))
    last = min(first + count, len(words)) - 1
    length = sum(map(len, words[first : last + 1])) + sum(map(len, gaps[first:last]))
    answers = (context[start : start + length],) if count else ()
    question = " ".join(draw(st.lists(st.sampled_from(WORDS), max_size=40)))
    return question, context, answers, (start,) if count else ()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(asked(), min_size=1, max_size=4), st.integers(30, 64), st.integers(12, 16))
def test_gold_always_scores_100(tokenizer, drawn, max_length, doc_stride):
    rows = [Question(str(number), *values) for number, values in enumerate(drawn)]
    made = windows(rows, tokenizer, max_length, doc_stride, training=True)
    found = best_answers(*one_hot(made), made, rows, no_answer=True)
    scores = squad.score(found, {question.id: question.answers for question in rows})
    assert set(scores.values()) == {100}


@pytest.mark.skipif(not XQUAD.is_dir(), reason="PRUNEONCE_DATA has no xquad-en")
@pytest.mark.parametrize("split", ["train", "dev"])
def test_gold_of_xquad(tokenizer, split):
    rows = read(XQUAD / f"{split}.json")
    made = windows(rows, tokenizer, training=True)
    found = best_answers(*one_hot(made), made, rows, max_answer_length=100)
    inexact = [q for q in rows if not squad.exact_match(found[q.id], q.answers)]
    # An answer may end within a token, as "5" in "5th" does: then the answer is all of the token.
    for question in inexact:
        start, end = question.starts[0], question.starts[0] + len(question.answers[0])
        around = question.context[max(start - 1, 0) : end + 1]
        assert question.answers[0] in found[question.id]
        assert re.search(r"\w\w$|^\w\w", around)
    assert len(inexact) < len(rows) / 50
    assert squad.score(found, {q.id: q.answers for q in rows})["f1"] > 98


# -- offsets with holes -------------------------------------------------------------------------------------


def with_holes(before, is_trimmed=True):
    """A byte-level step behind another pre-tokenizer, as RobBERT-2023 has; common letters are one token with the space.

    `trim_offsets` takes the space before a word for a part of its offsets, where it is none.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    merges = [("Ġ", letter) for letter in "NTwi(1"] + [("ĠN", "a"), ("a", "p")]
    vocabulary |= {left + right: len(vocabulary) + number for number, (left, right) in enumerate(merges)}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence([before, pre_tokenizers.ByteLevel(add_prefix_space=True)])
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=is_trimmed)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", pad_token="<pad>")
    fast.model_input_names = ["input_ids", "attention_mask"]
    return fast


@pytest.mark.parametrize("is_trimmed", [True, False])
@pytest.mark.parametrize(
    "before",
    [pre_tokenizers.Whitespace(), pre_tokenizers.BertPreTokenizer(), pre_tokenizers.WhitespaceSplit()],
    ids=lambda before: type(before).__name__,
)
def test_letters_that_no_token_covers_are_in_the_answer(before, is_trimmed):
    context = "The Nalapi was there (1 in winter), Nap and Ida. " * 3
    texts = ["Nalapi", "The", "(1 in winter)", "winter", "Nap and Ida", "Ida"]
    texts = [
        text for text in texts if not isinstance(before, pre_tokenizers.WhitespaceSplit) or text != "(1 in winter)"
    ]
    rows = [row(text, text, context) for text in texts]
    tokenizer = with_holes(before, is_trimmed)
    holes = [
        place
        for place in range(len(context))
        if not context[place].isspace()
        and not any(
            start <= place < end for start, end in tokenizer(context, return_offsets_mapping=True)["offset_mapping"]
        )
    ]
    assert bool(holes) == is_trimmed  # the offsets of the tokenizer itself lack letters
    for max_length, doc_stride in ((384, 128), (48, 12)):
        made = windows(rows, tokenizer, max_length, doc_stride, training=True)
        assert best_answers(*one_hot(made), made, rows) == {text: text for text in texts}


def test_what_tokenizers_drop_on_purpose_stays_out():
    from pruneonce.data.questions.windows import fill_holes

    context = "\u200bstone\ufffd cafe\u0301 x"
    offsets = np.array([[-1, -1], [1, 6], [8, 12], [14, 15]], dtype=np.int32)
    fill_holes(context, [offsets])
    assert offsets.tolist() == [[-1, -1], [1, 6], [8, 13], [14, 15]]  # the accent is a part of its letter
