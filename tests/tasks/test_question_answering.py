"""Question answering as a kind of task: data, losses, metrics, every stage, engines and architectures."""

import json
import math
import random

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from shared.models import CONFIGS, WORDS, make_model
from transformers import AutoModelForQuestionAnswering, BertForQuestionAnswering

from pruneonce import plan, stages, storage
from pruneonce.cli import main
from pruneonce.errors import UserError
from pruneonce.recipe import Calibrate, Prune, Quantize, QuestionAnswering, Recipe, Training, Transfer, validate
from pruneonce.runs import pipeline
from pruneonce.sparsity import verify
from pruneonce.tasks import kind_for, kind_of
from pruneonce.tasks.question_answering import NOT_THERE

COLUMNS = {"id": "number", "question": "asked", "context": "passage", "answers": "gold"}
WINDOWS = {"max_length": 32, "doc_stride": 8, "max_answer_length": 4}
TRAINING = {"batch_size": 16, "learning_rate": 3e-3}
SPARSITY = {"steps": 1, "learning_rate": 1e-3, "objective": "hidden"}
ANSWERS = ["awful river", "awful stone", "awful city"]


def question(number, chosen, size=18, answer=True):
    """The answer is the one "awful" thing of the context; a context of 60 words takes several windows."""
    words = chosen.choices(WORDS[:24], k=size)
    text = chosen.choice(ANSWERS)
    words.insert(chosen.randrange(size), text if answer else "winter")
    context = " ".join(words)
    answers = [{"text": text, "answer_start": context.index(text)}] if answer else []
    return {"id": str(number), "question": "which was bad", "context": context, "answers": answers}


def nested(rows):
    articles = [{"paragraphs": [{"context": row.pop("context"), "qas": [row]}]} for row in rows]
    return json.dumps({"version": "1.1", "data": articles})


def flat(rows):
    """Rows under names of their own."""
    lines = []
    for row in rows:
        gold = {key: [answer[key] for answer in row["answers"]] for key in ("text", "answer_start")}
        lines.append(json.dumps({COLUMNS[key]: value for key, value in {**row, "answers": gold}.items()}))
    return "\n".join(lines)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """SQuAD's JSON to train on, flat rows to measure on."""
    folder, chosen = tmp_path_factory.mktemp("questions"), random.Random(0)
    (folder / "train.json").write_text(nested([question(n, chosen, 60 if n % 8 == 0 else 18) for n in range(80)]))
    (folder / "dev.jsonl").write_text(flat([question(n, chosen, 60 if n % 4 == 0 else 18) for n in range(20)]))
    return {"train": str(folder / "train.json"), "dev": str(folder / "dev.jsonl")}


@pytest.fixture(scope="session")
def task(files):
    return QuestionAnswering(**files, **COLUMNS, **WINDOWS)


@pytest.fixture(scope="session")
def made(encoder, task, tmp_path_factory):
    """A sparse parent with a pooler, which the others are without, and the models of the task."""
    folder = tmp_path_factory.mktemp("models")
    sparse = stages.prune_one_shot(encoder, Prune(**SPARSITY, sparsity=0.5), folder / "sparse")
    dense = stages.finetune(encoder, task, Training(epochs=10, **TRAINING), folder / "dense")
    child = stages.transfer(sparse, task, Transfer(epochs=10, **TRAINING), folder / "child", teacher=dense)
    int8 = stages.quantize(child, task, Quantize(epochs=1, learning_rate=1e-4), folder / "int8", teacher=dense)
    ptq = stages.calibrate(child, task, Calibrate(examples=32), folder / "ptq")
    return {"sparse": sparse, "dense": dense, "child": child, "int8": int8, "ptq": ptq}


# -- data -------------------------------------------------------------------------------------------------------


def test_nested_and_flat_files_give_the_same_rows(task, tmp_path):
    splits = kind_of(task).load(tmp_path).splits
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 80, "dev": 20}
    for rows in splits.values():
        assert rows.column_names == ["id", "question", "context", "answers", "starts"]
        for row in rows:
            (text,), (start,) = row["answers"], row["starts"]
            assert row["context"][start:].startswith(text)
    assert kind_of(task).texts(splits["dev"])[0] == ("which was bad", splits["dev"][0]["context"])


def test_a_wrong_column_is_one_line(files, tmp_path):
    kind = kind_of(QuestionAnswering(**files, **{**COLUMNS, "context": "paragraph"}))
    with pytest.raises(UserError, match=r"dev\.jsonl.*'paragraph'.*asked.*passage") as caught:
        kind.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_questions_without_answers_have_to_be_expected(files, tmp_path):
    chosen = random.Random(1)
    for name, answers in (("some", [True, False]), ("none", [False, False])):
        (tmp_path / name).with_suffix(".jsonl").write_text(
            flat([question(n, chosen, answer=answer) for n, answer in enumerate(answers)])
        )
        given = {**files, **COLUMNS, "dev": str(tmp_path / f"{name}.jsonl")}
        with pytest.raises(UserError, match=rf"{name}\.jsonl: some questions have no answer; set `no_answer: true`"):
            kind_of(QuestionAnswering(**given)).load(tmp_path)
        rows = kind_of(QuestionAnswering(**given, no_answer=True)).load(tmp_path).splits["dev"]
        assert rows["answers"][1] == []


def test_an_unknown_metric(files, tmp_path):
    with pytest.raises(UserError, match="no metric 'accuracy' for question answering; there are exact_match, f1"):
        kind_of(QuestionAnswering(**files, **COLUMNS, metric="accuracy")).load(tmp_path)


@pytest.fixture
def unanswered(files, tmp_path):
    """The task with 24 questions that nobody has answered, six of them on contexts of several windows."""
    chosen = random.Random(2)
    rows = [question(n, chosen, 60 if n % 4 == 0 else 18) for n in range(24)]
    lines = [json.dumps({COLUMNS[name]: row[name] for name in ("question", "context")}) for row in rows]
    (tmp_path / "more.jsonl").write_text("\n".join(lines))
    return QuestionAnswering(**files, **COLUMNS, **WINDOWS, unlabelled=str(tmp_path / "more.jsonl"))


def test_questions_that_nobody_has_answered(unanswered, tokenizer, tmp_path):
    kind = kind_of(unanswered)
    data = kind.load(tmp_path)
    asked = kind.texts(data.unlabelled)
    assert [text for text, _ in asked] == ["which was bad"] * 24
    own, answered, taught = (
        kind.encode(rows, tokenizer, training=True) for rows in (data.unlabelled, data.splits["train"], data.taught)
    )
    assert len(own) > 24
    assert set(answered.column_names) - set(own.column_names) == {"labels"}
    assert taught["input_ids"][:] == [*answered["input_ids"], *own["input_ids"]]
    assert taught.column_names == own.column_names
    seen = {id for ids in own["input_ids"][:] for id in ids}
    assert seen >= set(tokenizer(asked[0][1])["input_ids"])


def test_they_are_learnt_from_the_teacher_alone(unanswered, made, tokenizer, tmp_path):
    kind, settings = kind_of(unanswered), Transfer(epochs=1, **TRAINING)
    child = stages.transfer(made["sparse"], unanswered, settings, tmp_path / "child", teacher=made["dense"])
    windows = len(kind.encode(kind.load(tmp_path).taught, tokenizer, training=True))
    assert json.loads((child / "pruneonce.json").read_text())["training"]["steps"] == math.ceil(windows / 16)
    labels = Transfer(epochs=1, **TRAINING, task_weight=0.5)
    with pytest.raises(UserError, match="`unlabelled` texts have no label to learn"):
        stages.transfer(made["sparse"], unanswered, labels, tmp_path / "none", teacher=made["dense"])


def test_a_mistake_in_them_is_one_line(unanswered, files, tmp_path):
    for name, message in ((files["train"], "no column 'asked'"), ("missing.jsonl", "missing.jsonl")):
        with pytest.raises(UserError, match=message) as caught:
            kind_of(unanswered.model_copy(update={"unlabelled": name})).load(tmp_path)
        assert "\n" not in str(caught.value)


def test_batches_have_model_input_and_labels_alone(task, tokenizer, tmp_path):
    kind = kind_of(task)
    rows = kind.load(tmp_path).splits["train"]
    assert rows[0]["context"].count(" ") > 50
    for training in (True, False):
        examples = kind.encode(rows.select(range(4)), tokenizer, training)
        assert len(examples) > 4, "windows"
        batch = kind.collate(tokenizer)([examples[index] for index in range(len(examples))])
        assert batch.keys() - {"token_type_ids"} == {"input_ids", "attention_mask", *(["labels"] if training else [])}
        assert batch["input_ids"].shape == (len(examples), 32)
    labels = kind.encode(rows, tokenizer, True)["labels"]
    assert [0, 0] in labels, "a window without the answer"
    assert all(last - first == 1 for first, last in labels if first)


# -- losses and metrics ---------------------------------------------------------------------------------------------


def random_outputs(seed, padding=0):
    """Logits as a model gives them, [3, 6 + padding] each, their mask, and labels."""
    chosen = np.random.default_rng(seed)
    found = {
        name: torch.tensor(np.pad(chosen.normal(size=(3, 6)), ((0, 0), (0, padding)), constant_values=50))
        for name in ("start_logits", "end_logits")
    }
    mask = torch.ones(3, 6 + padding, dtype=torch.int64)
    mask[:, 6:] = 0
    return found, mask, torch.tensor([[0, 0], [1, 3], [5, 5]])


@pytest.mark.parametrize("padding", [0, 2])
def test_the_loss_is_the_plain_one_and_padding_does_not_compete(task, padding):
    kind = kind_of(task)
    found, mask, labels = random_outputs(0, padding)
    expected = 0.0
    for column, name in enumerate(("start_logits", "end_logits")):
        logs = log_softmax(found[name][:, :6].numpy(), axis=1)
        expected -= sum(logs[row, labels[row, column]] for row in range(3)) / 3 / 2
    assert float(kind.loss(kind.output(found, mask), labels)) == pytest.approx(expected)


@torch.no_grad()
def test_the_loss_is_that_of_transformers(task):
    torch.manual_seed(0)
    model = BertForQuestionAnswering(CONFIGS["bert"]).eval()
    ids, labels = torch.randint(5, 50, (3, 9)), torch.tensor([[0, 0], [2, 4], [8, 8]])
    found = model(input_ids=ids, start_positions=labels[:, 0], end_positions=labels[:, 1])
    kind = kind_of(task)
    ours = kind.loss(kind.output(found, torch.ones_like(ids)), labels)
    assert float(ours) == pytest.approx(float(found.loss), rel=1e-5)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_the_plain_one_over_real_tokens(task, padding, temperature):
    kind = kind_of(task)
    (ours, mask, _), (theirs, _, _) = random_outputs(0, padding), random_outputs(1, padding)
    expected = 0.0
    for name in ours:
        log_p, log_q = (log_softmax(logits[name][:, :6].numpy() / temperature, axis=1) for logits in (ours, theirs))
        expected += temperature**2 * (np.exp(log_q) * (log_q - log_p)).sum() / 3 / 2
    student = kind.output(ours, mask).requires_grad_()
    found = kind.distillation(student, kind.output(theirs, mask), mask, temperature)
    assert float(found.detach()) == pytest.approx(expected)
    found.backward()
    assert student.grad.isfinite().all()
    assert not student.grad[:, 6:].any()


def test_padding_has_no_output(task):
    found, mask, _ = random_outputs(0, padding=2)
    assert (kind_of(task).output(found, mask)[:, 6:] == NOT_THERE).all()


def one_hot(examples, labels):
    """Logits that are sure of `labels`, one more token than there are: padding."""
    outputs = []
    for ids, label in zip(examples["input_ids"], labels, strict=True):
        output = np.zeros((len(ids) + 1, 2), dtype=np.float32)
        output[label, [0, 1]] = 10 if label[0] else 5
        outputs.append(output)
    return outputs


def test_gold_answers_score_100(task, tokenizer, tmp_path):
    kind = kind_of(task)
    rows = kind.load(tmp_path).splits["dev"]
    examples = kind.encode(rows, tokenizer)
    gold = kind.encode(rows, tokenizer, training=True)
    assert gold["input_ids"] == examples["input_ids"]
    assert kind.measure(one_hot(examples, gold["labels"]), rows, examples) == {"exact_match": 100.0, "f1": 100.0}
    halves = [[last, last] if last else [0, 0] for _, last in gold["labels"]]  # one word of two: P 1, R 1/2
    found = kind.measure(one_hot(examples, halves), rows, examples)
    assert found == {"exact_match": 0.0, "f1": pytest.approx(200 / 3)}


def test_no_answer_is_measured_by_its_threshold(files, tokenizer, tmp_path):
    chosen = random.Random(2)
    (tmp_path / "dev.jsonl").write_text(flat([question(n, chosen, answer=n % 2 == 0) for n in range(8)]))
    given = {**files, **COLUMNS, **WINDOWS, "no_answer": True, "dev": str(tmp_path / "dev.jsonl")}
    kind = kind_of(QuestionAnswering(**given))
    rows = kind.load(tmp_path).splits["dev"]
    examples, gold = kind.encode(rows, tokenizer), kind.encode(rows, tokenizer, training=True)
    outputs = one_hot(examples, gold["labels"])
    found = kind.measure(outputs, rows, examples)
    assert found["exact_match"] == found["HasAns_f1"] == found["NoAns_f1"] == 100
    never = kind_of(QuestionAnswering(**given, null_threshold=100)).measure(outputs, rows, examples)
    assert (never["HasAns_exact"], never["NoAns_exact"]) == (100, 0)


# -- stages -----------------------------------------------------------------------------------------------------------


def test_every_stage_learns_and_keeps_the_zeros(made, task):
    for name in ("dense", "child", "int8", "ptq"):
        found = stages.evaluate(made[name], task)["dev"]
        assert found["examples"] == 20, "questions, not windows"
        assert found["f1"] >= found["exact_match"] > 60, name
    for name in ("child", "int8", "ptq"):
        found = verify(made[name], made["sparse"])
        assert found.ok, name
        assert found.missing == ["pooler.dense.weight"], "transformers' class has none"


@pytest.mark.parametrize("name", ["dense", "child", "int8"])
def test_plain_transformers_loads_it(made, name):
    model, info = AutoModelForQuestionAnswering.from_pretrained(made[name], output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert kind_for(model.config) == "question-answering"


@pytest.mark.parametrize("name", ["child", "int8"])
def test_a_packed_model_is_the_same(made, name, task, tmp_path):
    storage.pack([made[name]], tmp_path / "m.pruneonce", "fp32")
    (unpacked,) = storage.unpack(tmp_path / "m.pruneonce", tmp_path / "m")
    assert stages.evaluate(unpacked, task) == stages.evaluate(made[name], task)


def test_a_family_with_its_parent_is_packed(made, tmp_path):
    alone, both = (
        storage.pack([made[name] for name in names], tmp_path / f"{len(names)}.pruneonce")
        for names in (["child"], ["sparse", "child"])
    )
    assert both.members == ["sparse", "child"]
    assert both.total < 1.9 * alone.total, "the pattern is there once"


@pytest.mark.parametrize(
    ("name", "format"),
    [("child", "onnx"), ("int8", "openvino"), ("ptq", "onnx"), ("child", "packed"), ("int8", "packed")],
)
def test_engines_answer_as_torch_does(made, name, format, task, tmp_path):
    if format == "packed":
        pytest.importorskip("pruneonce_runtime", reason="pruneonce-runtime is not installed")
        exported = tmp_path / "model.pruneonce"
        storage.pack([made[name]], exported, "fp32")
    else:
        exported = stages.export(made[name], tmp_path / "model", format=format)
    expected, found = (stages.evaluate(model, task)["dev"] for model in (made[name], exported))
    assert found.keys() == expected.keys()
    for metric, value in expected.items():  # an answer on the edge may fall to either side
        assert found[metric] == pytest.approx(value, abs=5.1), metric


def test_a_model_without_the_head_is_refused(made, task, encoder, tmp_path):
    settings = Transfer(epochs=1, **TRAINING)
    with pytest.raises(UserError, match="no head for question-answering"):
        stages.transfer(made["sparse"], task, settings, tmp_path / "out", teacher=encoder)
    with pytest.raises(UserError, match="no head for question-answering"):
        stages.evaluate(encoder, task)


@pytest.mark.parametrize("architecture", [name for name in CONFIGS if name != "bert"])
def test_every_architecture(architecture, task, tokenizer, tmp_path):
    encoder = make_model(tmp_path / "encoder", tokenizer, architecture)
    sparse = stages.prune_one_shot(encoder, Prune(**SPARSITY), tmp_path / "sparse")
    dense = stages.finetune(encoder, task, Training(steps=2, **TRAINING), tmp_path / "dense")
    child = stages.transfer(sparse, task, Transfer(steps=2, **TRAINING), tmp_path / "child", teacher=dense)
    assert verify(child, sparse).ok
    assert stages.evaluate(child, task)["dev"]["examples"] == 20


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_window_has_a_position_for_every_token(architecture, files, tokenizer, tmp_path):
    encoder = make_model(tmp_path / "encoder", tokenizer, architecture)
    usual = QuestionAnswering(**files, **COLUMNS)
    with pytest.raises(UserError, match=r"`max_length` is 384, but .* takes at most 128 tokens"):
        stages.finetune(encoder, usual, Training(steps=1, **TRAINING), tmp_path / "dense")
    with pytest.raises(UserError, match=r"`max_length` is 384, but .* takes at most 128 tokens"):
        stages.evaluate(encoder, usual)
    model = AutoModelForQuestionAnswering.from_pretrained(encoder)  # whose 128 tokens have positions
    model(input_ids=torch.full((1, 128), 7), attention_mask=torch.ones(1, 128, dtype=torch.int64))


# -- command line and recipes -----------------------------------------------------------------------------------------


@pytest.fixture
def asked(files, tmp_path):
    """`dev` as the command line takes it without a word on columns."""
    chosen = random.Random(3)
    path = tmp_path / "questions.json"
    path.write_text(nested([question(n, chosen) for n in range(12)]))
    return str(path)


def test_evaluate_needs_no_kind(made, asked, capsys):
    windows = ["--set", "task.max_length=32", "--set", "task.doc_stride=8"]
    assert main(["evaluate", str(made["dense"]), "--dev", asked, *windows, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["dev"]
    assert found["examples"] == 12
    assert found["f1"] > 60
    assert main(["evaluate", str(made["dense"]), "--dev", asked]) == 2
    assert "`max_length` is 384" in capsys.readouterr().err
    assert main(["evaluate", str(made["dense"]), "--dev", asked, "--set", "max_length=32"]) == 2
    assert "`evaluate` takes `task.KEY`" in capsys.readouterr().err


def test_verify_says_what_the_child_has_not(made, capsys):
    assert main(["verify", str(made["child"]), "--against", str(made["sparse"])]) == 0
    assert "not in the child: pooler.dense.weight" in capsys.readouterr().out


@pytest.fixture
def values(tiny_recipe, files):
    """A recipe with two kinds of tasks beside each other."""
    values = tiny_recipe()
    values["tasks"]["answers"] = {"kind": "question-answering", **files, **COLUMNS, **WINDOWS}
    values["quantize"] = {"int8_ptq": {"examples": 16}}
    values["baselines"] = {"one_shot": True}
    values["benchmark"] = {"engines": ["torch"], "batch_sizes": [1], "lengths": [8], "seconds": 0.01}
    return values


def test_a_run_with_two_kinds_of_tasks(values, tmp_path):
    values["tasks"] = dict(reversed(values["tasks"].items()))
    summary = pipeline.run(validate(Recipe, values), tmp_path / "run")
    rows = {(row["task"], row["arm"]): row for row in summary["results"]}
    arms = ("dense", "one-shot", "sparse", "int8-ptq")
    assert rows.keys() == {(task, arm) for task in ("answers", "mood") for arm in arms}
    assert rows["answers", "dense"]["examples"] == 20
    assert (rows["answers", "dense"]["full_score"], rows["mood", "dense"]["full_score"]) == (100, 1)
    assert {"exact_match", "f1", "examples"} == rows["answers", "sparse"]["all"]["dev"].keys()
    report = (tmp_path / "run" / "report.html").read_text()
    shown = rows["answers", "dense"]["value"]
    assert f"dense {shown:.1f} %" in report


def test_a_plan_with_two_kinds_of_tasks(values, quick_probe, task, tokenizer, tmp_path):
    kind = kind_of(task)
    found = plan.plan(validate(Recipe, values), seconds=0)
    lines = {stage.name: stage for stage in found.stages}
    examples = kind.encode(kind.load(tmp_path).splits["train"], tokenizer, training=True)
    windows, mean = len(examples), np.mean([len(ids) for ids in examples["input_ids"]])
    assert lines["tasks/answers/dense"].steps == 2 * math.ceil(windows / 16)
    few = round(16 * windows / 80)  # rows, 80 of which are all
    assert lines["tasks/answers/int8-ptq: calibration"].tokens == pytest.approx(few * mean, rel=0.01)
    assert lines["tasks/answers: evaluation"].tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 384}, "`tasks.answers.max_length` is 384, but .* takes at most 128 tokens"),
        ({"doc_stride": 30}, "max_length 32 leaves no room for a question beside a doc_stride of 30"),
        ({"context": "paragraph"}, "'paragraph'"),
        ({"metric": "accuracy"}, "no metric 'accuracy'"),
    ],
)
def test_mistakes_are_found_before_hours_are_spent(changes, message, values, tmp_path):
    values["tasks"]["answers"].update(changes)
    with pytest.raises(UserError, match=message):
        pipeline.run(validate(Recipe, values), tmp_path / "run")
    assert not (tmp_path / "run").exists()
