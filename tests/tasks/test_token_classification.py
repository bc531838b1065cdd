"""Token classification: what is read, tags on sub-tokens, loss and metrics, and a model from data to engine."""

import gzip
import json
import random

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from shared.models import SPECIAL, WORDS, make_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast, pipeline

from pruneonce import stages
from pruneonce.data.conll import read_conll
from pruneonce.data.readers import from_dataset
from pruneonce.errors import UserError
from pruneonce.metrics.glue import f1_macro
from pruneonce.recipe import Calibrate, Classification, Prune, TokenClassification, Training, Transfer
from pruneonce.sparsity import verify
from pruneonce.tasks import kind_of

ROWS = [
    {"tokens": ["the", "river", "stone", "was", "fine"], "tags": ["O", "B-LOC", "I-LOC", "O", "O"]},
    {"tokens": ["good"], "tags": ["O"]},
]
CONLL = "-DOCSTART- -X- O\n\nthe DT O\nriver NN B-LOC\nstone NN I-LOC\nwas VB O\nfine JJ O\n\n\ngood JJ O\n"


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        content = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return str(path)


@pytest.fixture
def make(tmp_path):
    """`make(train, dev, ...)`: the kind for a task over files of these rows, or of this text."""

    def make(train=ROWS, dev=ROWS, suffix=".jsonl", **settings):
        files = {name: write(tmp_path / f"{name}{suffix}", rows) for name, rows in (("train", train), ("dev", dev))}
        return kind_of(TokenClassification(**{**files, **settings}))

    return make


def tagged(*tags, words=None):
    return [{"tokens": words or ["the"] * len(tags), "tags": list(tags)}]


def pieces():
    """A WordPiece tokenizer that cuts `gardens` into `garden ##s`, with as many tokens as the tiny models have."""
    known = [word for word in WORDS if word not in ("number", "music", "paper")]
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *known, "##s", "##er", ","])}
    words = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names, model_max_length=32)


# -- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".parquet"])
def test_every_format_gives_the_same_task(tmp_path, make, suffix):
    data = make(suffix=suffix).load(tmp_path)
    assert data.labels == ["B-LOC", "I-LOC", "O"]
    assert data.splits["train"].to_list() == [
        {"tokens": ROWS[0]["tokens"], "tags": [2, 0, 1, 2, 2]},
        {"tokens": ["good"], "tags": [2]},
    ]


@pytest.mark.parametrize("suffix", [".txt", ".conll", ".txt.gz", ".conll.gz"])
@pytest.mark.parametrize("text", [CONLL, CONLL.replace(" ", "\t"), CONLL.replace("\n", "\r\n")])
def test_conll_files_give_it_too(tmp_path, make, suffix, text):
    found, expected = make(text, text, suffix).load(tmp_path), make().load(tmp_path)
    assert found.labels == expected.labels
    assert found.splits["train"].to_list() == expected.splits["train"].to_list()


def test_a_word_between_tabs_may_have_spaces(tmp_path):
    table = read_conll(tmp_path / write(tmp_path / "a.txt", "new york\tB-LOC\n"), "words", "ner")
    assert table.columns == {"words": [["new york"]], "ner": [["B-LOC"]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train\.txt is empty: it holds no sentences"),
        ("-DOCSTART- O\n\n", r"train\.txt is empty: it holds no sentences"),
        ("the O\nriver\n", r"train\.txt, line 2: one column, not 2; write a word, a space and its tag a line"),
        ("river\n", r"train\.txt, line 1: one column, not 2; "),
        (
            "O the\nB-X river\n\nO good\n",
            "no metric 'f1' for tags that do not mark spans by O, B-, I-, ... .'good' does not",
        ),
        ("the O\rriver B-X\r\rgood O\r", r"train\.txt, line 1: a carriage return within the line; .*`tr '"),
        ("the DT O\n\n# id 1 2\n", r"train\.txt, line 3: 4 columns, not 3; "),
        (
            "1\tthe\tO\n2\triver\tB-X\n\n1\tgood\tO\n",
            r"train\.txt: the first column numbers the words of each sentence; ",
        ),
        ("0 the O\n1 river B-X\n\n0 good O\n", r"train\.txt: the first column numbers the words of each sentence; "),
    ],
)
def test_broken_conll_files(tmp_path, make, text, message):
    fails(make(text, CONLL, ".txt"), tmp_path, message)


def test_words_that_are_numbers_are_read(tmp_path):
    table = read_conll(tmp_path / write(tmp_path / "a.txt", "1 O\n2 O\n\n7 B-X\n"), "words", "ner")
    assert table.columns["words"] == [["1", "2"], ["7"]]


def test_a_split_without_spans_is_said(tmp_path, make):
    kind = make(dev=tagged("O", "O"))
    data = kind.load(tmp_path)
    assert kind.undefined(data.splits["dev"], data).startswith(
        "every tag is 'O', so precision, recall and f1 are undef"
    )
    assert not kind.undefined(data.splits["train"], data)


def fails(kind, tmp_path, message):
    with pytest.raises(UserError, match=message) as failure:
        kind.load(tmp_path / "cache")
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("train", "settings", "names", "numbers"),
    [
        (["NOUN", "VERB"], {"metric": "accuracy"}, ["NOUN", "VERB"], [0, 1]),
        (["NOUN", "VERB"], {"metric": "f1_macro", "labels": ["VERB", "NOUN", "X"]}, ["VERB", "NOUN", "X"], [1, 0]),
        ([1, 0], {"labels": ["O", "B-X"]}, ["O", "B-X"], [1, 0]),
        ([1, 0], {"metric": "accuracy"}, ["0", "1"], [1, 0]),
        (["S-X", "O"], {"metric": "precision"}, ["O", "S-X"], [1, 0]),
    ],
)
def test_tags(tmp_path, make, train, settings, names, numbers):
    data = make(tagged(*train), tagged(*train), **settings).load(tmp_path)
    assert data.labels == names
    assert data.splits["dev"]["tags"][:] == [numbers]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (
            [{"tokens": "the river", "tags": ["O"]}],
            {},
            "line 1: 'tokens' has to be a list, an entry for each word, not ",
        ),
        ([{"tokens": [], "tags": []}], {}, r"line 1: 'tokens' has to be a list, an entry for each word, not \[\]"),
        ([{"tokens": ["the"], "tags": "O"}], {}, "line 1: 'tags' has to be a list, an entry for each word, not \"O\""),
        ([{"tokens": ["the", None], "tags": ["O", "O"]}], {}, "line 1: 'tokens' has to be a list of words, null is no"),
        ([*ROWS, {"tokens": ["a", "b"], "tags": ["O"]}], {}, "line 3: 2 words in 'tokens', but 1 tags in 'tags'"),
        ([*ROWS, *tagged("B-PER")], {}, r"dev\.jsonl, line 3: label 'B-PER' is none of 'B-LOC', 'I-LOC', 'O'"),
        ([*ROWS, *tagged(None)], {}, r"line 3: a label has to be a name or a whole number, not null"),
        ([*ROWS, *tagged(7)], {}, r"line 3: label 7 is none of"),
        (ROWS, {"tags": "ner"}, r"train\.jsonl, line 1: no column 'ner', only 'tokens', 'tags'"),
        (ROWS, {"tokens": "token"}, r"no column 'token', only 'tokens', 'tags'; did you mean 'tokens'\?"),
        (ROWS, {"labels": ["O", "O"]}, r"`labels` has to be two or more different names"),
        (
            ROWS,
            {"metric": "f1_macro"},
            r"no metric 'f1_macro' for tags that mark spans; there are precision, recall, f1",
        ),
        (
            ROWS,
            {"test": "rows.csv"},
            r"rows\.csv: CSV cannot hold lists of words and tags; use JSONL, Parquet or CoNLL's",
        ),
        (ROWS, {"test": "gone.txt"}, r"no such file: gone\.txt"),
        (ROWS, {"test": "gone.xml"}, r"no such file: gone\.xml"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, make, rows, settings, message):
    fails(make(ROWS, rows, **settings), tmp_path, message)


def test_other_files_are_refused(tmp_path, make):
    (tmp_path / "a.xml").write_text("<a/>")
    message = r"its name has to end in \.txt, \.conll, \.jsonl, \.ndjson, \.json, \.parquet, \.arrow, "
    fails(make(test=str(tmp_path / "a.xml")), tmp_path, message)


def test_tags_of_one_kind_and_metrics_that_do_not_fit(tmp_path, make):
    same = tagged("O", "O")
    fails(make(same, same, labels=["O", "B-X"]), tmp_path, r"train\.jsonl: all tags are the same")
    pos = tagged("NOUN", "VERB")
    fails(
        make(pos, pos),
        tmp_path,
        r"no metric 'f1' for tags that do not mark spans .*'NOUN' does not.*accuracy, f1_macro",
    )


def test_hub_names_are_the_tags(tmp_path, monkeypatch):
    """As conll2003 has them: ClassLabels inside a list."""
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    for many in (datasets.Sequence, datasets.List, datasets.LargeList):
        features = datasets.Features(
            tokens=many(datasets.Value("string")),
            ner_tags=many(datasets.ClassLabel(names=names)),
            kind=datasets.ClassLabel(names=["a", "b"]),
        )
        rows = {"tokens": [["the", "river"], ["a"]], "ner_tags": [[0, 3], [1]], "kind": [0, 1]}
        split = datasets.Dataset.from_dict(rows, features=features)
        assert from_dataset(split, "it", ["kind"]).class_names == {"ner_tags": names, "kind": ["a", "b"]}
        monkeypatch.setattr("pruneonce.data.readers.load_dataset", lambda *given, found=split, **options: found)
        kind = kind_of(TokenClassification(source="some/ner", train="train", dev="dev", tags="ner_tags"))
        data = kind.load(tmp_path)
        assert data.labels == names
        assert data.splits["dev"]["tags"][:] == [[0, 3], [1]]
        assert kind.config(data)["id2label"] == dict(enumerate(names))


# -- alignment --------------------------------------------------------------------------------------------------


def test_the_first_token_of_a_word_has_its_tag(tmp_path, make):
    rows = [{"tokens": ["gardens", "in", "rivers,", "\u200b", "stones"], "tags": ["B-LOC", "O", "I-LOC", "O", "B-LOC"]}]
    kind = make(rows, rows)
    split, tokenizer = kind.load(tmp_path).splits["train"], pieces()
    trained, asked = kind.encode(split, tokenizer, training=True)[0], kind.encode(split, tokenizer)[0]
    tokens = tokenizer.convert_ids_to_tokens(trained["input_ids"])
    assert tokens == ["[CLS]", "garden", "##s", "in", "river", "##s", ",", "stone", "##s", "[SEP]"]
    assert trained["labels"] == [-100, 0, -100, 2, 1, -100, -100, 0, -100, -100]
    assert asked["words"] == [-1, 0, -1, 1, 2, -1, -1, 4, -1, -1]  # of a character without width there is no token
    assert asked["input_ids"] == trained["input_ids"]
    assert "labels" not in asked
    short = make(rows, rows, max_length=8)
    assert short.encode(split, tokenizer)[0]["words"] == [-1, 0, -1, 1, 2, -1, -1, -1]


def byte_level(folder):
    """A tokenizer like RoBERTa's and ModernBERT's: words are other tokens after a space."""
    spaced = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: n for n, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "Ġriver", "river", *spaced])}
    words = Tokenizer(models.BPE(vocabulary, merges_of(vocabulary), unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", model_max_length=32)


def merges_of(vocabulary):
    steps = [("r", "i"), ("ri", "v"), ("riv", "e"), ("rive", "r"), ("Ġ", "river")]
    for left, right in steps:
        vocabulary.setdefault(left + right, len(vocabulary))
    return steps


def test_words_of_byte_level_tokenizers_are_those_of_the_text(tmp_path, make):
    rows = [{"tokens": ["river", "river", "on"], "tags": ["O", "B-X", "O"]}]
    kind, tokenizer = make(rows, rows), byte_level(tmp_path)
    encoded = kind.encode(kind.load(tmp_path).splits["dev"], tokenizer)[0]
    assert encoded["input_ids"] == tokenizer("river river on")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["<s>", "river", "Ġriver", "Ġ", "o", "n", "</s>"]
    assert encoded["words"] == [-1, 0, 1, 2, -1, -1, -1]


def test_a_tokenizer_that_does_not_know_words_is_refused(tmp_path, make):
    kind = make()

    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="needs a fast one"):
        kind.encode(kind.load(tmp_path).splits["dev"], Slow())


# -- losses and metrics -----------------------------------------------------------------------------------------


def test_batches_are_padded_and_the_loss_is_that_of_the_words(tmp_path, make):
    kind = make()
    split, tokenizer = kind.load(tmp_path).splits["train"], pieces()
    batch = kind.collate(tokenizer)(list(kind.encode(split, tokenizer, training=True)))
    labels, mask = batch["labels"], batch["attention_mask"]
    assert labels.shape == mask.shape == batch["input_ids"].shape == (2, 8)
    assert labels[1].tolist() == [-100, 2, -100, -100, -100, -100, -100, -100]
    assert set(kind.collate(tokenizer)(list(kind.encode(split, tokenizer)))) == set(batch) - {"labels"}

    logits = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    e = np.exp(logits.numpy().astype(np.float64))
    p = e / e.sum(-1, keepdims=True)
    at = [(0, 1, 2), (0, 2, 0), (0, 3, 1), (0, 4, 2), (0, 5, 2), (1, 1, 2)]
    assert kind.loss(logits, labels).item() == pytest.approx(np.mean([-np.log(p[i]) for i in at]), rel=1e-5)
    assert kind.loss(logits, torch.full_like(labels, -100)).item() == 0.0


def test_distillation_is_over_all_tokens_but_padding(make):
    student, teacher = torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    kept = mask.numpy().astype(bool)
    q, p = (np.exp(logits.numpy()[kept].astype(np.float64) / 2) for logits in (student, teacher))
    q, p = q / q.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)
    expected = 4 * np.mean(np.sum(p * np.log(p / q), -1))
    found = make().distillation(student, teacher, mask, 2.0).item()
    assert found == pytest.approx(expected, rel=1e-5)
    student[1, 2:] += 9
    assert make().distillation(student, teacher, mask, 2.0).item() == found


def answered(kind, rows, tokenizer, tags):
    """Metrics of a model that gives each of `tags` to the words in turn, and nonsense elsewhere."""
    split = kind.load(None).splits["dev"]
    examples = kind.encode(split, tokenizer)
    names, outputs = split.features["tags"].feature.names, []
    for begun, theirs in zip(examples["words"], tags, strict=True):
        output = np.random.default_rng(0).normal(size=(len(begun) + 3, len(names)))  # padded
        for token, word in enumerate(begun):
            if word != -1:
                output[token] = 9 * np.eye(len(names))[names.index(theirs[word])]
        outputs.append(output)
    return kind.measure(outputs, split, examples)


def test_entities_are_scored_whole(make):
    rows = [{"tokens": ["rivers", "stones", "was", "gardens"], "tags": ["B-LOC", "I-LOC", "O", "B-LOC"]}]
    kind = make(rows, rows)
    right = answered(kind, rows, pieces(), [rows[0]["tags"]])
    assert right == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "accuracy": 1.0, "unseen": 0.0}
    half = answered(kind, rows, pieces(), [["B-LOC", "O", "O", "B-LOC"]])
    assert half == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.75, "unseen": 0.0}


def test_words_that_were_cut_off_count_as_o(make):
    rows = [{"tokens": ["rivers", "was", "stones", "gardens", "is"], "tags": ["B-LOC", "O", "B-LOC", "B-LOC", "O"]}]
    kind = make(rows, rows, max_length=8)  # [CLS] river ##s was stone ##s garden [SEP]
    found = answered(kind, rows, pieces(), [rows[0]["tags"]])
    assert found["unseen"] == 0.2
    assert found["f1"] == 1.0, "an O was cut off"
    rows = [
        {"tokens": ["rivers", "was", "stones", "is", "is", "gardens"], "tags": ["B-X", "O", "B-X", "O", "O", "B-X"]}
    ]
    found = answered(make(rows, rows, max_length=8), rows, pieces(), [rows[0]["tags"]])
    assert (found["precision"], found["recall"], found["accuracy"]) == (1.0, pytest.approx(2 / 3), pytest.approx(5 / 6))


def test_parts_of_speech_have_accuracy_and_macro_f1_and_a_word_cut_off_is_wrong(make):
    rows = [{"tokens": ["rivers", "was", "stones", "in", "gardens", "is"], "tags": ["N", "V", "N", "P", "N", "V"]}]
    kind = make(rows, rows, metric="accuracy", max_length=8)  # neither gardens nor is
    found = answered(kind, rows, pieces(), [["N", "V", "P", "P", "N", "V"]])
    # N: 1 of 3, precision 1; V: 1 of 2, precision 1; P: 1 of 1, precision 1/2
    assert found == pytest.approx({"accuracy": 3 / 6, "f1_macro": (2 / 4 + 2 / 3 + 2 / 3) / 3, "unseen": 2 / 6})


def test_macro_f1_of_no_prediction_is_no_class():
    assert f1_macro(np.array([0, 1, -1]), np.array([0, 1, 1])) == pytest.approx((1 + 2 / 3) / 2)


# -- from data to engine ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A learnable task: rivers and stones are places, gardens are people."""
    chosen, folder = random.Random(0), tmp_path_factory.mktemp("ner")
    for split, size in (("train", 160), ("dev", 40)):
        rows = []
        for _ in range(size):
            words = chosen.choices([*WORDS[:8], "rivers", "stones", "gardens"], k=chosen.randint(3, 9))
            tags = [{"rivers": "B-LOC", "stones": "B-LOC", "gardens": "B-PER"}.get(word, "O") for word in words]
            rows.append({"tokens": words, "tags": tags})
        write(folder / f"{split}.jsonl", rows)
    return TokenClassification(train=str(folder / "train.jsonl"), dev=str(folder / "dev.jsonl"), max_length=16)


@pytest.fixture(scope="module")
def made(files, tmp_path_factory):
    """Dense, sparse, transferred and quantized models of it."""
    folder = tmp_path_factory.mktemp("made")
    encoder = make_model(folder / "encoder", pieces())
    settings = {"epochs": 10, "batch_size": 16, "learning_rate": 2e-3}
    dense = stages.finetune(encoder, files, Training(**settings), folder / "dense")
    sparse = stages.prune_one_shot(
        encoder, Prune(steps=1, learning_rate=1e-4, sparsity=0.5, objective="hidden"), folder / "sparse"
    )
    transferred = stages.transfer(
        sparse, files, Transfer(**settings, task_weight=0.5), folder / "transferred", teacher=dense
    )
    int8 = stages.calibrate(transferred, files, Calibrate(examples=64), folder / "int8")
    return {"dense": dense, "sparse": sparse, "transferred": transferred, "int8": int8}


def test_transfer_learns_the_task_and_keeps_its_zeros(files, made):
    found = stages.evaluate(made["transferred"], files)["dev"]
    assert list(found) == ["precision", "recall", "f1", "accuracy", "unseen", "examples"]
    assert found["f1"] > 0.8
    before, after = (load_file(made[name] / "model.safetensors") for name in ("sparse", "transferred"))
    zeros = 0
    for name, weight in before.items():
        if name.startswith("encoder.") and weight.ndim == 2:  # models that tag have no pooler
            assert not after[f"bert.{name}"][weight == 0].any()
            zeros += int((weight == 0).sum())
    assert zeros > 5000
    assert verify(made["transferred"], made["sparse"]).ok


def test_the_model_is_one_of_transformers(made):
    tagger = pipeline("token-classification", model=str(made["transferred"]), aggregation_strategy="simple")
    found = tagger("the gardens stones of rivers")
    assert {entity["entity_group"] for entity in found} == {"LOC", "PER"}
    assert isinstance(tagger.model, AutoModelForTokenClassification._model_mapping[type(tagger.model.config)])
    assert "AutoModelForTokenClassification" in (made["transferred"] / "README.md").read_text()


def test_int8_tags_like_fp32(files, made):
    expected, found = (stages.evaluate(made[name], files)["dev"]["accuracy"] for name in ("transferred", "int8"))
    assert found == pytest.approx(expected, abs=0.03)


def test_an_engine_gives_what_pytorch_gives(files, made, tmp_path):
    exported = stages.export(made["transferred"], tmp_path / "onnx")
    expected, found = (stages.evaluate(model, files)["dev"] for model in (made["transferred"], exported))
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_model_for_something_else_is_refused(made, files, encoder, task_files):
    other = files.model_copy(update={"labels": ["O", "B-PER", "B-LOC", "B-ORG"]})
    with pytest.raises(UserError, match="has the labels 'B-LOC', 'B-PER', 'O', the task has 'O', 'B-PER', 'B-LOC', 'B"):
        stages.evaluate(made["dense"], other)
    with pytest.raises(UserError, match="has the labels"):
        stages.evaluate(
            made["dense"], Classification(train=str(task_files / "dev.jsonl"), dev=str(task_files / "dev.jsonl"))
        )
