"""The models of the study: what each is made of, and how it is measured."""

import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import collected
import distance
from reading import SETTINGS, Reading, new_pairs_of

from pruneonce import recipe

OTHER_TRANSFERS = SETTINGS["other_transfers"]


class Study(Reading):
    """The models of a study by what they are; each is made when it is first asked for, and kept."""

    def sparse(
        self, zeros: str, changes: dict[str, Any] | None = None, name: str = "sparse", parent: Path | None = None
    ) -> Path:
        """
        Args:
            parent: a sparse model that goes on; None: the dense one is pruned.
        """
        from pruneonce import stages

        own = {"sparsity": float(zeros), **(changes or {})}
        corpus = self.with_tasks(own.pop("tasks_texts", 0))
        corpus = corpus.model_copy(update={"block_length": own.pop("block_length", corpus.block_length)})
        seed = own.pop("seed", 42)
        settings = self.settings("prune", changes=own)
        dense = self.model if settings.objective == "hidden" else self.with_words()
        folder = self.output / "pretrained" / f"{name}-{zeros}"
        teacher = dense if parent else None
        return stages.prune(parent or dense, corpus, settings, folder, teacher=teacher, seed=seed, **self.common)

    def long_blocks(self, zeros: str) -> Path:
        """The sparse model after going on with blocks of 256 tokens, for tasks with long texts."""
        return self.gone_on("long-blocks", zeros, self.sparse(zeros), {})

    def gone_on(self, name: str, zeros: str, parent: Path, own: dict[str, Any]) -> Path:
        changes = {**SETTINGS["long_blocks"], **own, "initial_sparsity": float(zeros)}
        return self.sparse(zeros, changes, name, parent)

    def otherwise(self, arm: str, zeros: str) -> Path:
        """The sparse model of an arm with a pre-training of its own."""
        return self.sparse(zeros, SETTINGS["other_pretraining"][arm]["prune"], arm)

    def otherwise_long(self, arm: str, zeros: str) -> Path:
        """The same after going on with long blocks."""
        own = SETTINGS["other_pretraining"][arm]["long_blocks"]
        return self.gone_on(f"{arm}-long-blocks", zeros, self.otherwise(arm, zeros), own)

    def full_blocks(self, zeros: str) -> Path:
        """Half the steps, and no short texts among them."""
        return self.sparse(zeros, SETTINGS["full_blocks"], "full-blocks")

    def by_words(self, zeros: str) -> Path:
        return self.sparse(zeros, {"objective": "mlm"}, "masked-words")

    def by_both(self, zeros: str) -> Path:
        return self.sparse(zeros, {"objective": "both"}, "both")

    def with_words(self) -> Path:
        """The dense model with a head for masked words, which objectives other than `hidden` need."""
        from pruneonce import stages

        settings = recipe.validate(recipe.Prepare, SETTINGS["prepare"])
        return stages.prepare(self.model, self.corpus, settings, self.output / "pretrained" / "words", **self.common)

    def short(self, name: str) -> Path:
        """A variant of a short pre-training at 90 %."""
        changes = {**SETTINGS["ablation"], **SETTINGS["pretraining"][name]}
        return self.sparse("0.9", changes, f"ablation-{collected.slug(name)}")

    def one_shot(self, zeros: str) -> Path:
        from pruneonce import stages

        settings = self.settings("prune", changes={"sparsity": float(zeros)})
        return stages.prune_one_shot(self.model, settings, self.output / "pretrained" / f"one-shot-{zeros}")

    def distances(self) -> None:
        """Of sparse pre-trained models that are there, on running text and on texts as tasks have them."""
        from pruneonce.models import load_tokenizer

        tokenizer = load_tokenizer(self.model)
        lines = (self.output / "data" / "embedding" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        labelled = [task for task in SETTINGS["tasks"] if self.task(task).trains_teacher]
        tasks = {task: self.examples(task, "dev") for task in labelled}
        kinds = distance.texts(tokenizer, [json.loads(line)["text"] for line in lines], tasks)
        for name in SETTINGS["distance"].values():
            model, file = self.output / "pretrained" / name, self.output / "distance" / f"{name}.json"
            known = collected.read(file) if file.is_file() else {}
            new = {kind: texts for kind, texts in kinds.items() if kind not in known}
            if new and (model / "pruneonce.json").is_file():
                file.parent.mkdir(exist_ok=True)
                found = known | distance.distances(model, self.model, new, tokenizer)
                file.write_text(json.dumps({kind: found[kind] for kind in kinds}), encoding="utf-8")

    def sizes(self, zeros: str, seed: int) -> None:
        """Of packed models with so many zeros: the first task's, sparse and in int8, and the family's in one file."""
        from pruneonce import storage

        folders = [self.output / "tasks" / task / f"seed-{seed}" for task in SETTINGS["family"]]
        sparse, int8 = ([folder / f"{arm}-{zeros}" for folder in folders] for arm in ("sparse", "int8"))
        file = self.output / "sizes" / f"{zeros}.json"
        if file.is_file() or not all((model / "pruneonce.json").is_file() for model in [*sparse, *int8]):
            return
        models = {"sparse": sparse[:1], "int8": int8[:1], "all": int8}
        with TemporaryDirectory() as aside:
            packed = {name: storage.pack(of, Path(aside) / f"{name}.pruneonce", "fp32") for name, of in models.items()}
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({name: size.to_json() for name, size in packed.items()}), encoding="utf-8")

    def dense(self, task: str, seed: int) -> Path | str:
        """The task teacher; where there are no labels to train one on, the model itself."""
        from pruneonce import stages

        if not self.task(task).trains_teacher:
            return self.model
        folder = self.output / "tasks" / task / f"seed-{seed}" / "dense"
        return stages.finetune(
            self.model, self.task(task), self.settings("teacher", task), folder, seed=seed, **self.common
        )

    def arm(self, arm: str, zeros: str, task: str, seed: int) -> Path | str:
        from pruneonce import stages

        teacher = self.dense(task, seed)
        folder = self.output / "tasks" / task / f"seed-{seed}" / f"{arm}-{zeros}"
        how: dict[str, Any] = {"teacher": teacher, "seed": seed, **self.common}
        if arm == "dense":
            return teacher
        if arm == "int8":  # calibrated
            sparse = self.arm("sparse", zeros, task, seed)
            return stages.calibrate(sparse, self.task(task), recipe.Calibrate(), folder, seed=seed, cache=self.cache)
        whole = self.task(task, **new_pairs_of(SETTINGS["tasks"][task]))
        if arm == "int8-trained":
            sparse = self.arm("sparse", zeros, task, seed)
            return stages.quantize(sparse, whole, self.settings("quantize", task), folder, **how)
        if arm == "gradual":
            budget = self.budget(zeros, task, seed)
            return stages.transfer_gradual(self.model, whole, self.gradual(zeros, task, budget), folder, **how)
        settings = self.settings("transfer", task, OTHER_TRANSFERS.get(arm, {}).get("transfer"), zeros)
        return stages.transfer(self.start(start_of(arm, task), zeros), whole, settings, folder, **how)

    def start(self, name: str, zeros: str) -> Path:
        """What a transfer begins with."""
        starts = {"sparse": self.sparse, "long-blocks": self.long_blocks, "full-blocks": self.full_blocks}
        starts |= {"one-shot": self.one_shot, "masked-words": self.by_words, "both": self.by_both}
        for other in SETTINGS["other_pretraining"]:
            starts |= {other: partial(self.otherwise, other)}
            starts |= {f"{other}-long-blocks": partial(self.otherwise_long, other)}
        return starts[name](zeros)

    def variant(self, ablation: str, name: str, task: str, seed: int) -> Path:
        """A transfer with the changes of the variant `name`."""
        from pruneonce import stages

        said = SETTINGS["transfer_ablation"][ablation]
        changes = {**said["base"], **said["variants"][name]}
        start, new = changes.pop("start", None), new_pairs_of(changes)
        whole = self.task(task, **new)
        changes = {name: value for name, value in changes.items() if name not in new}
        folder = self.output / "transfer" / ablation / task / f"seed-{seed}" / collected.slug(name)
        how: dict[str, Any] = {"teacher": self.dense(task, seed), "seed": seed, **self.common}
        zeros = ablation.rpartition("-")[2]
        if said["arm"] == "gradual":
            return stages.transfer_gradual(self.model, whole, self.gradual(zeros, task, changes), folder, **how)
        source = self.short(start) if start else self.start(said["arm"], zeros)
        return stages.transfer(source, whole, self.settings("transfer", task, changes), folder, **how)

    def gradual(self, zeros: str, task: str, changes: dict[str, Any]) -> recipe.Gradual:
        transfer = self.settings("transfer", task, zeros=zeros).model_dump(exclude_none=True)
        values = {**transfer, **SETTINGS["gradual"], **changes, "sparsity": float(zeros)}
        return recipe.validate(recipe.Gradual, values)  # type: ignore[no-any-return]

    def budget(self, zeros: str, task: str, seed: int) -> dict[str, float]:
        """Epochs for as many tokens as prune-once takes for this task: its transfer, and a share of pre-training; the
        whole of what is for this task alone."""
        own = spent(self.arm("sparse", zeros, task, seed))
        share = spent(self.sparse(zeros)) / len(SETTINGS["family"])
        if start_of("sparse", task) == "long-blocks":
            share += spent(self.long_blocks(zeros))
        return {"epochs": round(self.settings("transfer", task, zeros=zeros).epochs * (1 + share / own), 2)}

    def result(self, arm: str, zeros: str, task: str, seed: int) -> None:
        """Make a model of the main table and measure it."""
        made = self.arm(arm, zeros, task, seed)
        name = arm if arm == "dense" else f"{arm}-{zeros}"
        self.measured(made, task, self.output / "tasks" / task / f"seed-{seed}" / f"{name}.json")

    def variant_result(self, ablation: str, name: str, task: str, seed: int) -> None:
        """Make a model of an ablation and measure it on dev."""
        made = self.variant(ablation, name, task, seed)
        self.measured(made, task, made.with_name(f"{made.name}.json"), ["dev"])

    def measured(self, model: Path | str, task: str, file: Path, splits: list[str] | None = None) -> dict[str, Any]:
        """`{split: {metric: value}}`, kept in `file`."""
        from pruneonce import stages

        if not file.is_file():
            found = stages.evaluate(model, self.task(task), splits=splits, cache=self.cache)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def start_of(arm: str, task: str) -> str:
    """The name of what an arm's transfer to a task begins with."""
    arm, own = OTHER_TRANSFERS.get(arm, {}).get("arm", arm), SETTINGS["tasks"][task].get("start")
    if not own or arm not in ("sparse", *SETTINGS["other_pretraining"]):
        return arm
    return own if arm == "sparse" else f"{arm}-{own}"


def spent(model: Path | str) -> int:
    """Tokens that training the model in a folder took."""
    return collected.read(Path(model) / "pruneonce.json")["training"]["tokens"]  # type: ignore[no-any-return]
