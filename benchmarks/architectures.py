"""Every type of transformers' masked-language mapping through every step, on tiny random models.

    python -m benchmarks.architectures WORK [TYPE ...] [--write]

A type whose JSON stands in WORK is not run again. Without types, all of the mapping; `--write` makes
`results/architectures` of all JSON in WORK, and the table of docs/architectures.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from benchmarks import tables
from benchmarks.common import made
from pruneonce import quantization, sparsity, stages, storage
from pruneonce.engines import open_engine
from pruneonce.errors import UserError
from pruneonce.models import load_as_saved
from pruneonce.models.architectures import ARCHITECTURES, check_supported
from pruneonce.models.given_roles import giving
from pruneonce.recipe import Classification, Corpus, Prune, Quantize, Transfer

DOCUMENT = Path(__file__).parents[1] / "docs" / "architectures.md"
MARKER = "<!-- The rest is written by benchmarks/architectures.py. -->"
STEPS = ("prune", "relations", "transfer", "verify", "resume", "int8", "pack", "onnx", "openvino")
TRIES_OF_NOISE = 20
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{i}" for i in range(43)]
TEXTS = [" ".join(np.random.default_rng(n).choice(WORDS, n)) for n in range(3, 15)]
SIZE = {
    **{"vocab_size": 48, "pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3},
    **{"sep_token_id": 3, "mask_token_id": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 64, "max_position_embeddings": 64},
}
OWN: dict[str, dict[str, Any]] = {
    "convbert": {"embedding_size": 32},
    "electra": {"embedding_size": 16},
    "esm": {"position_embedding_type": "rotary", "token_dropout": False},
    "eurobert": {"num_key_value_heads": 2},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 24},
    "squeezebert": {"embedding_size": 32},
    "luke": {"entity_vocab_size": 16, "entity_emb_size": 16},
    "longformer": {"attention_window": 8, "max_position_embeddings": 80},
    "distilbert": {"hidden_dim": 64},
}


SMALL = {name: SIZE[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
ROLES = {"modernvbert": {"layers": "text_model.layers"}, "ultravbert": {"layers": "text_model.layers"}}
for _type, _text in (("modernvbert", "modernbert"), ("ultravbert", "ultrabert")):
    OWN[_type] = {
        "text_config": {**SIZE, "model_type": _text},
        "vision_config": {**SMALL, "image_size": 32, "patch_size": 16},
        "image_token_id": 4,
    }


def tiny_config(model_type: str) -> Any:
    """Configuration of two layers of width 32."""
    known = AutoConfig.for_model(model_type)
    names = {*known.to_dict(), *known.attribute_map}
    config = {name: value for name, value in SIZE.items() if name in names}
    return AutoConfig.for_model(model_type, **{**config, **OWN.get(model_type, {})})


def tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer of a few words."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, mask_token="[MASK]", model_max_length=32, **names)


def make_dense(model_type: str, folder: Path) -> None:
    """Write a tiny random model with its vocabulary head, and its tokenizer."""
    torch.manual_seed(0)
    config = tiny_config(model_type)
    check_supported(config)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    if size > 20e6:
        raise UserError("no tiny model of it can be made by the usual names of sizes")
    model = AutoModelForMaskedLM.from_config(config)
    for name, parameter in model.named_parameters():  # large weights, so that a wrong layer changes the logits
        if parameter.dim() == 2 and "embed" not in name:
            parameter.data.mul_(4)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def write_data(folder: Path) -> tuple[Corpus, Classification]:
    """Write a text and a task of two classes."""
    choose = np.random.default_rng(0)
    lines = [" ".join(choose.choice(WORDS, 12)) for _ in range(80)]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    for split in ("train", "dev"):
        rows = [json.dumps({"text": line, "label": str(i % 2)}) for i, line in enumerate(lines[:24])]
        (folder / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "dev")}
    task = Classification(train=files["train"], dev=files["dev"], text="text", label="label", max_length=16)
    return Corpus(source=str(folder / "corpus.txt"), block_length=16, validation=0.1), task


class Trial:
    """The steps for one type, each on the results of those before."""

    def __init__(self, model_type: str, folder: Path) -> None:
        self.folder, self.type = folder, model_type
        self.corpus, self.task = write_data(folder)
        make_dense(model_type, folder / "dense")

    def prune(self, objective: str = "both", name: str = "sparse", **changes: Any) -> str:
        shared: dict[str, Any] = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "sparsity": 0.5, "every": 1}
        settings = Prune(**{**shared, "start": 0, "end": 3, "objective": objective, **changes})
        stages.prune(self.folder / "dense", self.corpus, settings, self.folder / name)
        return "works"

    def relations(self) -> str:
        return self.prune("hidden", "related", relation_weight=1.0)

    def transfer(self) -> str:
        settings = Transfer(steps=3, batch_size=4, learning_rate=1e-3)
        stages.transfer(self.folder / "sparse", self.task, settings, self.folder / "transferred", teacher=None)
        return "works"

    def verify(self) -> str:
        if not sparsity.verify(self.folder / "transferred", self.folder / "sparse").ok:
            raise AssertionError("zeros are lost")
        found = sparsity.inspect_model(self.folder / "sparse").pattern
        if found != sparsity.inspect_module(load_as_saved(self.folder / "sparse")).pattern:
            raise AssertionError("files and model differ in their pattern")
        return "works"

    def resume(self) -> str:
        """Stop after a checkpoint, go on, and compare with the run that was not stopped."""
        from transformers import TrainerCallback

        from pruneonce.training import trainer

        class KilledError(Exception):
            pass

        class Kill(TrainerCallback):  # type: ignore[misc]
            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                raise KilledError

        usual = trainer.SparseTrainer.__init__

        def with_kill(self: Any, *args: Any, **options: Any) -> None:
            usual(self, *args, **options)
            self.add_callback(Kill())

        trainer.SparseTrainer.__init__ = with_kill  # type: ignore[method-assign]
        try:
            self.prune(name="resumed", checkpoint_every=2)
            raise AssertionError("no checkpoint was written")
        except KilledError:
            pass
        finally:
            trainer.SparseTrainer.__init__ = usual  # type: ignore[method-assign]
        self.prune(name="resumed", checkpoint_every=2)
        pairs = zip(*(load_as_saved(self.folder / n).parameters() for n in ("sparse", "resumed")), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise AssertionError("the resumed model differs")
        return "works"

    def int8(self) -> str:
        settings = Quantize(steps=3, batch_size=4, learning_rate=1e-3)
        stages.quantize(
            self.folder / "transferred", self.task, settings, self.folder / "int8", teacher=self.folder / "transferred"
        )
        return "works"

    def pack(self) -> str:
        storage.pack([self.folder / "int8"], self.folder / "int8.pruneonce")
        storage.unpack(self.folder / "int8.pruneonce", self.folder / "unpacked")
        states = [load_as_saved(self.folder / name).state_dict() for name in ("int8", "unpacked")]
        if not all(torch.equal(states[0][name], states[1][name]) for name in states[0]):
            raise AssertionError("the unpacked model differs")
        return "works"

    def onnx(self) -> str:
        return self.exported("onnx", "onnxruntime")

    def openvino(self) -> str:
        return self.exported("openvino", "openvino")

    def exported(self, format: Any, engine: str) -> str:
        """Return the largest difference of the exported int8 model's logits from PyTorch's, see `least_error`."""
        stages.export(self.folder / "int8", self.folder / format, format=format)
        session = open_engine(self.folder / format, engine, exact=True)
        model = quantization.load(self.folder / "int8")
        batch = {name: value for name, value in batch_of(TEXTS).items() if name in session.inputs}
        expected = logits_of(model, batch)
        found = session({name: value.numpy() for name, value in batch.items()})["logits"]
        if not expected.std(0).max() > 1e-4 * np.abs(expected).max():
            raise AssertionError("all texts have the same logits, so nothing is compared")
        differences, wrong = differences_of(found, expected), least_error(model, batch)
        kept = np.full(len(differences), True)
        if not differences.max() <= wrong / 2:
            kept = ~at_a_tie(model, batch, wrong / 2)
        largest, texts = differences[kept].max(initial=0), int(kept.sum())
        if not (largest <= wrong / 2 and texts >= 0.75 * len(kept)):
            raise AssertionError(
                f"logits differ by {differences.max():.0e}, and by {wrong:.0e} with a Linear that is wrong"
            )
        return f"{largest:.0e} of {wrong:.0e}" + (f", {texts} texts" if texts < len(kept) else "")


def batch_of(texts: list[str]) -> dict[str, torch.Tensor]:
    """Return texts of several lengths as one padded batch."""
    return dict(tokenizer()(texts, padding=True, return_tensors="pt"))


@torch.no_grad()
def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    """Return a model's logits [texts, classes] as an array."""
    return model(**batch).logits.numpy()


def differences_of(found: Any, expected: Any) -> Any:
    """Return each text's largest difference of logits [texts, classes] relative to their spread.

    The spread is the standard deviation over the texts, of the class with the largest: a constant, such as the bias of
    the head, is no part of it.
    """
    return np.abs(found - expected).max(1) / expected.std(0).max()


def difference(found: Any, expected: Any) -> float:
    """Return the largest of `differences_of`."""
    return float(differences_of(found, expected).max())


def at_a_tie(model: Any, batch: dict[str, torch.Tensor], limit: float) -> Any:
    """Return for each text whether PyTorch itself changes its logits by over `limit` on noise in the last bit.

    An input of a Linear that lies halfway between two integers of the grid is rounded up or down by the order of a sum,
    which each engine chooses, and a step of the grid changes the logits of a tiny model as much as a mistake does. The
    noise, 1e-7 of the embeddings and norms, shows such texts without the engine.
    """
    expected, tied = logits_of(model, batch), np.full(len(batch["input_ids"]), False)
    generator = torch.Generator().manual_seed(0)
    names = [name for name, value in model.named_parameters() if "embed" in name or value.dim() == 1]
    for _ in range(TRIES_OF_NOISE):
        noisy = deepcopy(model)
        for name in names:
            value = noisy.get_parameter(name).data
            value.mul_(1 + 1e-7 * torch.randn(value.shape, generator=generator))
        tied |= differences_of(logits_of(noisy, batch), expected) > limit
    return tied


def least_error(model: Any, batch: dict[str, torch.Tensor]) -> float:
    """Return the smallest difference that a mistake makes: no mask, or one Linear with weights 10 % too large.

    An export that differs by over half of it is taken for wrong.
    """
    expected = logits_of(model, batch)
    unmasked = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    errors = [difference(logits_of(model, unmasked), expected)]
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            kept, module.weight.data = module.weight.data, module.weight.data * 1.1
            errors.append(difference(logits_of(model, batch), expected))
            module.weight.data = kept
    return min(error for error in errors if error)


def run(model_type: str, steps: Sequence[str] = STEPS) -> dict[str, str]:
    """Run steps; each gives `works`, a difference, or the reason against it."""
    with tempfile.TemporaryDirectory() as folder, giving(ROLES.get(model_type), model_type):
        outcome: dict[str, str] = {}
        try:
            trial = Trial(model_type, Path(folder))
        except UserError as error:
            return {"prune": _reason(error)}
        except Exception as error:
            return {"prune": f"no tiny model: {_reason(error)}"}
        for step in steps:
            action: Callable[[], str] = getattr(trial, step)
            try:
                outcome[step] = action()
            except Exception as error:
                outcome[step] = _reason(error)
                if not isinstance(error, UserError):
                    traceback.print_exc()
                if step == "prune":
                    shutil.rmtree(Path(folder) / "sparse.partial", ignore_errors=True)
                    try:
                        outcome[step] = f"`objective: hidden` alone: {outcome[step]}" * (
                            trial.prune("hidden") == "works"
                        )
                    except Exception as second:
                        outcome[step] = _reason(second)
                        break
                elif step in ("transfer", "int8"):
                    break
        return outcome


def _reason(error: Exception) -> str:
    text = str(error).split("; these are:")[0].strip().splitlines() or [type(error).__name__]
    text = text[0] if isinstance(error, (UserError, AssertionError)) else f"{type(error).__name__}: {text[0]}"
    return re.sub(r"/\S*/(?=\w)", "", text)[:400]


def result(outcomes: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return the content of `results/architectures.json`, see `benchmarks.tables`."""
    notes: list[str] = []
    rows = []
    for name, outcome in sorted(outcomes.items()):
        known = "table" if name in ARCHITECTURES else "`roles`" if name in ROLES else "tree"
        cells = [_cell(outcome.get(step), name, notes) for step in STEPS]
        rows.append([name, known if len(outcome) > 1 else "-", *cells])
    return {
        "title": "Architectures",
        "made": {**made(note="seed 0"), "command": "python -m benchmarks.architectures WORK --write"},
        "blocks": [
            INTRODUCTION,
            {"columns": ["type", "layers", *STEPS], "rows": rows},
            {"heading": "Reasons"},
            "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)),
        ],
    }


INTRODUCTION = (
    "Every type of transformers' masked-language mapping, as a random model of two layers, through every step. "
    "`layers`: the table of architectures names them, the module tree shows them, or `roles` gives them. "
    "`relations`: pruning with `relation_weight`. `resume`: the weights after a kill and a second start are those of a "
    "run without a kill.\n\n`onnx`, `openvino`: the largest difference of the int8 model's logits from PyTorch's, of "
    "the smallest difference that a mistake makes (no mask, or one Linear with weights 10 % too large), both in "
    "standard deviations of the logits over texts. A difference over half of the mistake's counts as a failure.\n\n"
    "A text is left out if PyTorch itself changes its logits as much on noise of 1e-7: an input of a Linear then lies "
    "halfway between two integers of the int8 grid. The number of texts that remain, of 12, follows.\n\n"
    "A number in brackets is that of a reason."
)


def _cell(value: str | None, name: str, notes: list[str]) -> str:
    if value is None:
        return "-"
    if value == "works" or re.fullmatch(r"\S+ of \S+(, \d+ texts)?", value):
        return value
    note = value.replace(f"architecture {name!r}", "the architecture").replace(f"this {name} ", "the model ")
    if note not in notes:
        notes.append(note)
    return f"no ({notes.index(note) + 1})"


def write_document(found: dict[str, Any]) -> None:
    """Put the table and its reasons into docs/architectures.md, after the marker."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(MARKER)[0]
    DOCUMENT.write_text(text + written(found), encoding="utf-8")


def written(found: dict[str, Any]) -> str:
    """Return the part of docs/architectures.md that is made of a result."""
    return MARKER + "\n\n" + "\n\n".join(map(tables.markdown, [{"made": found["made"]}, *found["blocks"]])) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("types", nargs="*")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for model_type in options.types or sorted(MODEL_FOR_MASKED_LM_MAPPING_NAMES):
        file = options.work / f"{model_type}.json"
        if not file.exists():
            file.write_text(json.dumps(run(model_type)), encoding="utf-8")
            print(model_type, file.read_text(encoding="utf-8"), flush=True)
    if options.write:
        files = [options.work / f"{name}.json" for name in sorted(MODEL_FOR_MASKED_LM_MAPPING_NAMES)]
        found = result({file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files})
        tables.write("architectures", found)
        write_document(found)


if __name__ == "__main__":
    main()
