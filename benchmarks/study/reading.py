"""What the models of the study read: tasks, new pairs for them, the corpus, settings."""

import json
from pathlib import Path
from typing import Any

import inputs
import pairs
import yaml

from pruneonce import recipe
from pruneonce.runs import quickstart
from pruneonce.tasks import kind_of

SETTINGS = yaml.safe_load((Path(__file__).parent / "study.yaml").read_text(encoding="utf-8"))


class Reading:
    """The files of a study, some made when they are first asked for, and kept."""

    def __init__(self, data: Path, output: Path):
        self.data, self.output = data, output
        self.model = str(quickstart.packaged_model())
        self.corpus = recipe.Corpus(source=str(data / "corpus"), **SETTINGS["corpus"])
        self.cache = output / "cache"
        self.common: dict[str, Any] = {"cache": self.cache, "report_to": []}

    def task(self, name: str, neighbours: int = 0, questions_of: str | None = None) -> recipe.Task:
        """
        Args:
            neighbours: so many new pairs of each first text for the teacher to judge.
            questions_of: a task whose texts are first texts too.
        """
        own = ("teacher", "transfer", "neighbours", "questions_of", "start")
        said = SETTINGS["tasks"][name].items()
        # `transfer-0.95` is a transfer.
        from_file = {key: value for key, value in said if key.partition("-")[0] not in own}
        if neighbours:
            from_file["unlabelled"] = str(self.new_pairs(name, neighbours, questions_of))
        places = {}
        for split in ("train", "dev", "test"):
            files = [
                folder / f"{split}{end}"
                for folder in (self.output / "data" / name, self.data / name)
                for end in (".jsonl", ".json")
            ]
            places |= {split: str(next((file for file in files if file.is_file()), "")) or None}
        return recipe.make_task({**places, **from_file})

    def new_pairs(self, task: str, each: int, questions_of: str | None = None) -> Path:
        others = f"-{questions_of}" if questions_of else ""
        file = self.output / "data" / task / f"pairs-{each}{others}.jsonl"
        if not file.is_file():
            made = self.task(task)
            asks = made.kind == "question-answering"
            columns = (made.question, made.context) if asks else (made.text, made.text_pair)
            passages = inputs.passages(self.data / "corpus") if asks else []
            questions = [first for first, *_ in self.examples(questions_of, "train")] if questions_of else []
            found = pairs.neighbours(self.examples(task, "train"), self.model, each, questions, passages)
            inputs.write_lines(file, [json.dumps(dict(zip(columns, pair, strict=True))) + "\n" for pair in found])
        return file

    def examples(self, task: str, split: str) -> list[tuple[Any, ...]]:
        """The one or two texts of each example of a split."""
        kind = kind_of(self.task(task))
        found = kind.texts(kind.load(self.cache).splits[split])
        return [one if isinstance(one, tuple) else (one,) for one in found]

    def settings(
        self, section: str, task: str | None = None, changes: dict[str, Any] | None = None, zeros: str = ""
    ) -> Any:
        """
        Args:
            zeros: the share for which a task may say something of its own.
        """
        kinds = {
            "prune": recipe.Prune,
            "teacher": recipe.Training,
            "transfer": recipe.Transfer,
            "quantize": recipe.Quantize,
        }
        made = recipe.validate(kinds[section], SETTINGS[section])
        said = SETTINGS["tasks"][task] if task else {}
        own = said.get(section, {}) | said.get(f"{section}-{zeros}", {})
        return recipe.changed(recipe.changed(made, own), changes or {})

    def pack(self, section: str) -> None:
        """The corpus into blocks of a section's length, which trainings that begin together would each do."""
        from pruneonce.data import corpus
        from pruneonce.models import load_tokenizer

        tokenizer = load_tokenizer(self.model)
        length = SETTINGS[section]["block_length"]
        corpus.blocks_of(self.corpus.model_copy(update={"block_length": length}), tokenizer, self.cache, seed=0)

    def with_tasks(self, times: int) -> recipe.Corpus:
        """The corpus and, so often, all texts that tasks are trained on, without their labels."""
        if not times:
            return self.corpus
        folder = self.output / "data" / f"corpus-and-tasks-{times}"
        found = []
        for task, said in SETTINGS["tasks"].items():
            if "text" in said and self.task(task).trains_teacher:  # the others' texts are the corpus's
                found += [text for example in self.examples(task, "train") for text in example]
        inputs.write_lines(folder / "tasks.txt", [f"{text}\n" for text in dict.fromkeys(found)] * times)
        for file in (self.data / "corpus").glob("*.txt.xz"):
            if not (folder / file.name).exists():
                (folder / file.name).symlink_to(file.resolve())
        return self.corpus.model_copy(update={"source": str(folder)})


def new_pairs_of(said: dict[str, Any]) -> dict[str, Any]:
    """What settings say of a task's new pairs."""
    return {name: said[name] for name in ("neighbours", "questions_of") if name in said}
