"""The model card: README.md of a model folder, as the hub shows it.

Metadata: https://github.com/huggingface/hub-docs/blob/main/modelcard.md. A card ends with a hash of its text. By that
hash a card that somebody has edited is known, and never replaced.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download, try_to_load_from_cache

from pruneonce.console import console
from pruneonce.errors import UserError
from pruneonce.models.certificate import certificate_block
from pruneonce.models.clients import Usage, head_of, usage_blocks
from pruneonce.models.lineage import Lineage, Scored, hub_data, lineage_of, task_of, zeros_from_elsewhere
from pruneonce.models.pooling import Pooling
from pruneonce.models.text_settings import default_prompt
from pruneonce.system import durable
from pruneonce.wording import shown

CARD = "README.md"
# Settings of a stage that the card shows; `pruneonce.json` has all.
SHOWN = ("sparsity", "method", "pattern", "bits", "granularity", "steps", "epochs", "batch_size", "learning_rate")
INHERITED = ("license", "license_name", "license_link", "language")
MARK = "<!-- written by pruneonce; sha256 of all above: {} -->"
MARKED = re.compile(r"<!-- written by pruneonce; sha256 of all above: ([0-9a-f]{64}) -->\n")
RERANKING = "reranking"
COUNT = "examples"  # stands beside the metrics in the scores of a split


@dataclass(frozen=True)
class Carded:
    """A model folder that a card is written for.

    Attributes:
        folder: the folder.
        name: of the model, in the title and in the code: the name of the folder, or USER/NAME on the hub.
        download: whether the card of the original model may be fetched from the hub.
    """

    folder: Path
    name: str
    download: bool = False

    @cached_property
    def lineage(self) -> Lineage:
        return lineage_of(self.folder)

    @cached_property
    def task(self) -> Scored | None:
        own = task_of(self.folder.with_name(self.folder.name.removesuffix(".partial")))
        return own or (task_of(self.exported) if self.exported else None)

    @cached_property
    def exported(self) -> Path | None:
        """Folder of the model that this folder is an export of; None where it is no export, or that one is gone."""
        is_export = [record.get("stage") for record in self.lineage.records[:1]] == ["export"]
        return self.lineage.folders[0] if is_export and self.lineage.folders else None

    @cached_property
    def class_name(self) -> str:
        config = durable.read_json(self.folder / "config.json") or {}
        return str((config.get("architectures") or [""])[0])

    @cached_property
    def is_sentence_transformer(self) -> bool:
        return (self.folder / "modules.json").is_file()

    @cached_property
    def is_reranker(self) -> bool:
        return self.task is not None and self.task.settings.get("kind") == RERANKING

    @cached_property
    def pipeline_tag(self) -> str:
        """Task of the hub: https://huggingface.co/tasks."""
        if self.is_reranker:
            return "text-ranking"
        if self.is_sentence_transformer:
            return "sentence-similarity"
        return head_of(self.class_name).tag

    @cached_property
    def weights(self) -> str:
        """Number format of the weights: fp32, int8, int4."""
        recorded = [record["weights"] for record in self.lineage.records[:1] if "weights" in record]
        if recorded:
            return str(recorded[0])
        settings = self.lineage.records[0].get("settings", {}) if self.lineage.records else {}
        quantized = (self.folder / "quantization.safetensors").is_file()
        return f"int{_bits(settings) or 8}" if quantized else "fp32"

    @cached_property
    def sparsity(self) -> float | None:
        """Share of zeros in the encoder's Linear weights; None where it is not recorded."""
        return next((record["sparsity"]["encoder"] for record in self.lineage.records if "sparsity" in record), None)

    @cached_property
    def elsewhere(self) -> dict[str, Any] | None:
        """What the sparse encoder was whose zeros the model has; None where pruneonce made them."""
        return zeros_from_elsewhere(self.lineage.records)

    @cached_property
    def pooling(self) -> Pooling | None:
        """Pooling of a sentence-transformers model; None where its vectors are made in another way."""
        try:
            return Pooling.of(self.folder) if self.is_sentence_transformer else None
        except UserError:
            return None

    @cached_property
    def _plain_pooling(self) -> str | None:
        """Name of the pooling where it, and perhaps scaling, is all that makes a vector of a text; else None."""
        pooling = self.pooling
        if pooling is None or pooling.dimensions or pooling.modes not in (("mean",), ("cls",)):
            return None
        return None if default_prompt(self.folder) else pooling.modes[0]

    @cached_property
    def usage(self) -> Usage:
        return Usage(
            name=self.name,
            class_name=self.class_name,
            is_sentence_transformer=self.is_sentence_transformer,
            is_reranker=self.is_reranker,
            pooling=self._plain_pooling,
            normalize=self.pooling is not None and self.pooling.normalize,
            weights=self.weights,
            files=frozenset(
                file.relative_to(self.folder).as_posix()
                for pattern in ("*.safetensors", "onnx/*.onnx", "openvino/*.xml")
                for file in self.folder.glob(pattern)
            ),
        )


def _bits(settings: Any) -> int | None:
    """Return the first `bits` in the settings of a stage, however deep."""
    if not isinstance(settings, dict):
        return None
    if isinstance(settings.get("bits"), int):
        return int(settings["bits"])
    return next((found for value in settings.values() if (found := _bits(value))), None)


# -- text -------------------------------------------------------------------------------------------------------


def _introduction(model: Carded) -> str:
    weights = f"its weights are {model.weights}"
    zeros = "" if model.sparsity is None else f"{model.sparsity:.1%} of the encoder's Linear weights are zero, and "
    made = " made by pruneonce ([Prune Once for All](https://arxiv.org/abs/2111.05754))"
    hub_id = model.lineage.hub_id
    link = f"[{hub_id}](https://huggingface.co/{hub_id})"
    base = f" It was made from {link}." if hub_id else ""
    if model.elsewhere:
        maker, encoder = shown(model.elsewhere["from"]), "Its sparse encoder"
        if model.lineage.records[0].get("stage") in ("convert", "take"):
            made, encoder = "", "It"
        if hub_id and hub_id in maker:
            maker, base = maker.replace(hub_id, link), ""
        pattern = f"{model.elsewhere['zeros']:.1%} zeros; sha256 of the pattern `{model.elsewhere['pattern']}`"
        base = f" {encoder} was {maker}: {pattern}.{base}"
    return f"A Transformer encoder{made}: {zeros}{weights}.{base}"


def _how_it_was_made(model: Carded) -> str:
    rows = [
        f"| {record.get('stage')} | {_shown(record.get('settings', {}))} |"
        for record in reversed(model.lineage.records)
        if record.get("stage") != "export"
    ]
    if not rows:
        return ""
    table = "\n".join(["| Stage | Settings |", "| --- | --- |", *rows])
    return f"## How it was made\n\n{table}\n\n`pruneonce.json` holds all settings and the versions of the libraries."


def _shown(settings: dict[str, Any]) -> str:
    flat = {**settings, **(settings.get("quantization") or {})}
    values = {name: flat.get(name) for name in SHOWN}
    if isinstance(values["method"], dict):
        values["method"] = values["method"].get("name")
    shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if isinstance(value, (str, int)))


def _scores(model: Carded) -> str:
    if not model.task or not model.task.scores:
        return ""
    rows = [
        f"| {model.task.name} | {split} | {metric} | {value:.4g} |"
        for split, scores in model.task.scores.items()
        for metric, value in scores.items()
    ]
    return "\n".join(["## Scores", "", "| Task | Split | Metric | Value |", "| --- | --- | --- | --- |", *rows])


def _certificate(model: Carded) -> str:
    return certificate_block(model.folder)


def _use(model: Carded) -> str:
    return "\n\n".join(["## How to use it", *usage_blocks(model.usage)])


# Parts of the text, in their order. Each is called with the model, and gives "" where it has nothing to say.
BLOCKS: list[Callable[[Carded], str]] = [_introduction, _scores, _certificate, _how_it_was_made, _use]


# -- metadata ---------------------------------------------------------------------------------------------------


def _metadata(model: Carded) -> ModelCardData:
    own = _data_of(model.folder / CARD)
    before = {**(_data_of(model.exported / CARD) if model.exported else {}), **own}
    cards = [before, *(_data_of(place / CARD) for place in model.lineage.folders)]
    # The name of a license and its link are those of the card that has the license.
    licensed = next((card for card in cards if card.get("license") is not None), before)
    language = next((card["language"] for card in cards if card.get("language") is not None), None)
    inherited = {**{name: licensed.get(name) for name in INHERITED}, "language": language}
    inherited |= {name: value for name, value in _original(model).items() if name in INHERITED}
    tags = ["pruneonce", *(["sparse"] if model.sparsity else []), *([model.weights] if model.weights != "fp32" else [])]
    base = model.lineage.hub_id or before.get("base_model")
    kind = "finetune" if model.weights == "fp32" else "quantized"
    relation: dict[str, Any] = {"base_model_relation": kind} if base else {}
    return ModelCardData(
        base_model=base,
        library_name="sentence-transformers" if model.is_sentence_transformer else "transformers",
        pipeline_tag=model.pipeline_tag,
        tags=tags,
        datasets=_datasets(model) or before.get("datasets"),
        **_results(model, before),
        **{name: value for name, value in inherited.items() if value is not None},
        **relation,
    )


def _original(model: Carded) -> dict[str, Any]:
    """Return the metadata of the first ancestor's card; empty where there is no card."""
    lineage = model.lineage
    if lineage.origin is not None:
        return _data_of(lineage.origin / CARD)
    if lineage.hub_id is None:
        return {}
    file: Any = try_to_load_from_cache(lineage.hub_id, CARD)
    if not isinstance(file, str) and model.download:
        try:
            file = hf_hub_download(lineage.hub_id, CARD)
        except Exception as error:  # the card says less without it
            console.print(f"  no license from {lineage.hub_id}: {type(error).__name__}", soft_wrap=True)
    return _data_of(Path(file)) if isinstance(file, str) else {}


def _data_of(card: Path) -> dict[str, Any]:
    """Return the metadata of a card; empty where there is none, or it is damaged."""
    try:
        return ModelCard.load(card, ignore_metadata_errors=True).data.to_dict() if card.is_file() else {}
    except Exception:  # anything may stand in the file
        return {}


def _datasets(model: Carded) -> list[str]:
    if model.task is None:
        return []
    return [found for source in (model.task.corpus, model.task.settings.get("source")) if (found := hub_data(source))]


def _results(model: Carded, before: dict[str, Any]) -> dict[str, Any]:
    """Return scores as `model-index`; those of the card before where the scores are no longer beside the model."""
    if not model.task or not model.task.scores:
        return {"model-index": before["model-index"]} if "model-index" in before else {}
    name, source = model.task.name, model.task.settings.get("source")
    results = [
        EvalResult(
            task_type=model.pipeline_tag,
            dataset_type=hub_data(source) or name,
            dataset_name=name,
            dataset_split=split,
            metric_type=metric,
            metric_value=value,
        )
        for split, scores in model.task.scores.items()
        for metric, value in scores.items()
        if metric != COUNT
    ]
    return {
        "eval_results": results,
        "model_name": model.name.rpartition("/")[2],
        "metrics": sorted({result.metric_type for result in results}),
    }


# -- files ------------------------------------------------------------------------------------------------------


def card_of(folder: Path, name: str | None = None, *, download: bool = False) -> str:
    """Return the text of a model folder's card, from the folder's files.

    Args:
        folder: the model folder.
        name: USER/NAME on the hub; None: the name of the folder.
        download: whether the card of the original model may be fetched from the hub, for its license.
    """
    model = Carded(folder, name or folder.resolve().name.removesuffix(".partial"), download)
    title = model.name.rpartition("/")[2]
    text = "\n\n".join([f"# {title}", *filter(None, (block(model).strip() for block in BLOCKS))])
    content = f"---\n{_metadata(model).to_yaml()}\n---\n\n{text}\n\n"
    return content + MARK.format(_digest(content)) + "\n"


def write_card(folder: Path) -> None:
    """Write the card of a model folder."""
    durable.write_text(folder / CARD, card_of(folder))


def refresh_card(folder: Path, name: str | None = None, *, download: bool = False) -> None:
    """Write the card of a folder anew, as `card_of`, unless somebody has edited it."""
    card = folder / CARD
    if card.is_file() and not is_unedited(card.read_text(encoding="utf-8")):
        console.print(f"  {card} was not written by this version, or edited: left as it is", soft_wrap=True)
        return
    durable.write_text(card, card_of(folder, name, download=download))


def is_unedited(text: str) -> bool:
    """Return whether a card is as `card_of` gave it."""
    found = MARKED.search(text)
    return found is not None and found.end() == len(text) and found[1] == _digest(text[: found.start()])


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
