"""What the study reads and does not find as a task wants it: dev splits, sentences, judged passages."""

import json
import lzma
import re
from pathlib import Path

SENTENCES = 12_000  # of the embedding task


def prepare(data: Path, output: Path) -> None:
    """What is not there as a task wants it.

    TREC has no dev split of its own: the last 500 of its training examples. The embedding task: SENTENCES of the
    corpus, and the questions of qnli-xquad with the sentences among which their answers are; those of its training
    split are dev.
    """
    lines = (data / "trec" / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    parts = {"trec/train.jsonl": lines[:-500], "trec/dev.jsonl": lines[-500:]}
    for split, name in (("train", "dev"), ("dev", "test")):
        rows = [json.loads(line) for line in (data / "qnli-xquad" / f"{split}.jsonl").open(encoding="utf-8")]
        judged = {(row["question"], row["sentence"]): 1 - row["label"] for row in rows}
        parts[f"embedding/{name}.jsonl"] = [
            json.dumps({"question": question, "sentence": sentence, "relevance": relevance}) + "\n"
            for (question, sentence), relevance in judged.items()
        ]
    for name, chosen in parts.items():
        write_lines(output / "data" / name, chosen)
    if not (output / "data" / "embedding" / "train.jsonl").is_file():
        found = [json.dumps({"text": text}) + "\n" for text in sentences(data / "corpus")]
        write_lines(output / "data" / "embedding" / "train.jsonl", found)


def sentences(corpus: Path) -> list[str]:
    """Some of each file, evenly spaced, of 5 to 40 words."""
    found = []
    for file in sorted(corpus.glob("*.txt.xz")):
        with lzma.open(file, "rt", encoding="utf-8") as text:
            whole = [
                one for line in text for one in re.split(r"(?<=[.!?]) ", line.strip()) if 5 <= len(one.split()) <= 40
            ]
        found += whole[:: max(1, len(whole) // (SENTENCES // 10))][: SENTENCES // 10]
    return found


def passages(corpus: Path) -> list[str]:
    """The encyclopedia's paragraphs of 50 to 150 words."""
    with lzma.open(corpus / "enwiki.txt.xz", "rt", encoding="utf-8") as text:
        return [line.strip() for line in text if 50 <= len(line.split()) <= 150]


def write_lines(file: Path, lines: list[str]) -> None:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines), encoding="utf-8")
