"""The data of the study in one folder: what lies in DATA, and what the tasks need besides."""

import json
import lzma
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import split_trec, write_lines
from pruneonce import recipe
from pruneonce.runs import quickstart
from pruneonce.tasks import kind_of

RECIPE = Path(__file__).with_name("recipe.yaml")
SENTENCES = 12_000  # of the embedding task
Pair = tuple[str, str]


def prepare(data: Path, output: Path) -> None:
    """Fill `output/data` and `output/model`: links to DATA and to MiniLM, TREC with a dev split, the embedding task."""
    (output / "data").mkdir(parents=True, exist_ok=True)
    link(output / "model", quickstart.packaged_model())
    link(output / "data" / "corpus", data / "corpus")
    for task in ("sst2", "sick", "mrpc", "qnli-xquad", "xquad-en"):
        for file in (data / task).iterdir():
            link(output / "data" / task / file.name, file)
    link(output / "data" / "trec" / "test.jsonl", data / "trec" / "test.jsonl")
    split_trec(data / "trec" / "train.jsonl", output / "data" / "trec")
    embedding(data, output / "data" / "embedding")


def link(name: Path, target: Path) -> None:
    if not name.is_symlink():
        name.parent.mkdir(parents=True, exist_ok=True)
        name.symlink_to(target.resolve())


def embedding(data: Path, folder: Path) -> None:
    """The embedding task: sentences of the corpus; the questions of qnli-xquad with the sentences that were judged."""
    for split, name in (("train", "dev"), ("dev", "test")):
        lines = (data / "qnli-xquad" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        judged = {(row["question"], row["sentence"]): 1 - row["label"] for row in rows}
        found: list[dict[str, Any]] = [
            {"question": question, "sentence": sentence, "relevance": relevance}
            for (question, sentence), relevance in judged.items()
        ]
        write_lines(folder / f"{name}.jsonl", as_lines(found))
    if not (folder / "train.jsonl").is_file():
        write_lines(folder / "train.jsonl", as_lines([{"text": text} for text in sentences(data / "corpus")]))


def as_lines(rows: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(row) + "\n" for row in rows]


def sentences(corpus: Path) -> list[str]:
    """SENTENCES of 5 to 40 words, as many of each file, evenly spaced."""
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


def provide(recipes: Iterable[recipe.Recipe]) -> None:
    """Make the files of new pairs, and the corpora with texts of tasks, that recipes name and that are missing."""
    tasks: dict[str, recipe.Task] = {}
    wanted: dict[Path, None] = {}
    for one in recipes:
        tasks |= one.tasks
        wanted |= {Path(one.corpus.source): None}
        wanted |= {Path(task.data()["unlabelled"]): None for task in one.tasks.values() if "unlabelled" in task.data()}
    for path in wanted:
        if not path.exists():
            make_corpus(path) if path.name.startswith("corpus-and-tasks") else make_pairs(path)


def plain(task: str) -> recipe.Task:
    """A task of the base recipe without its new pairs, in the working folder."""
    return recipe.load(str(RECIPE), [f"tasks.{task}.unlabelled=null"]).tasks[task]


def examples(task: str, split: str) -> list[tuple[str, ...]]:
    """The one or two texts of each example of a split."""
    kind = kind_of(plain(task))
    found = kind.texts(kind.load(Path("cache")).splits[split])
    return [one if isinstance(one, tuple) else (one,) for one in found]


def make_corpus(folder: Path) -> None:
    """A folder `corpus-and-tasks-TIMES`: the corpus and, TIMES times, all texts that tasks are trained on."""
    times = int(folder.name.rpartition("-")[2])
    labelled = [task for task in recipe.load(str(RECIPE)).tasks if has_labels(task)]
    found = [text for task in labelled for example in examples(task, "train") for text in example]
    write_lines(folder / "tasks.txt", [f"{text}\n" for text in dict.fromkeys(found)] * times)
    for file in Path("data/corpus").glob("*.txt.xz"):
        link(folder / file.name, file)


def has_labels(task: str) -> bool:
    """Whether a task has texts of its own: those of the embedding task are the corpus's, those of xquad-en long."""
    return isinstance(plain(task), recipe.Classification)


def make_pairs(file: Path) -> None:
    """A file `TASK/pairs-EACH[-OTHER].jsonl`: new pairs for the teacher to judge, whom nobody has labelled.

    Each first text of TASK's training pairs, and of OTHER's, comes with the EACH nearest second texts.
    """
    _, each, *other = file.stem.split("-")
    made = plain(file.parent.name)
    asks = isinstance(made, recipe.QuestionAnswering)
    columns = (made.question, made.context) if asks else (made.text, made.text_pair)  # type: ignore[attr-defined]
    questions = [first for name in other for first, *_ in examples(name, "train")]
    known: Any = examples(file.parent.name, "train")
    more = passages(Path("data/corpus")) if asks else []
    found = neighbours(known, "model", int(each), questions, more)
    write_lines(file, as_lines([dict(zip(columns, pair, strict=True)) for pair in found]))


def neighbours(
    known: Sequence[Pair], model: str, each: int, asked: Sequence[str] = (), more: Sequence[str] = ()
) -> list[Pair]:
    """Each first text with the `each` second texts nearest to it that it is not paired with.

    Args:
        known: the pairs of the task.
        model: gives the vectors, whose cosine says what is near.
        asked: first texts beside those of `known`.
        more: second texts beside those of `known`.
    """
    from sentence_transformers import SentenceTransformer, util

    distinct = dict.fromkeys(known)
    firsts = list(dict.fromkeys([*(first for first, _ in distinct), *asked]))
    seconds = list(dict.fromkeys([*(second for _, second in distinct), *more]))
    encoder = SentenceTransformer(model, device="cpu")
    queries, candidates = (encoder.encode(texts, convert_to_tensor=True) for texts in (firsts, seconds))
    paired = Counter(first for first, _ in distinct)
    found = util.semantic_search(queries, candidates, top_k=each + max(paired.values()) + 1)
    new = []
    for first, hits in zip(firsts, found, strict=True):
        others = [seconds[hit["corpus_id"]] for hit in hits]
        new += [(first, other) for other in others if other != first and (first, other) not in distinct][:each]
    return new
