"""Clients of a model folder, and the code that a model card shows for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from pruneonce.config.openvino import LEAST_ZEROS, SPARSE
from pruneonce.wording import percent_as_set


@dataclass(frozen=True)
class Head:
    """Classes of the libraries for a task head.

    Attributes:
        tag: task of the hub and of transformers' pipelines.
        auto: ending of the class in transformers (AutoModel...) and in optimum (ORTModel..., OVModel...).
        text: example of an input.
    """

    tag: str
    auto: str
    text: str = '"A great river."'


# By the ending of the model's class.
HEADS = {
    "ForSequenceClassification": Head("text-classification", "ForSequenceClassification"),
    "ForTokenClassification": Head("token-classification", "ForTokenClassification"),
    "ForQuestionAnswering": Head("question-answering", "ForQuestionAnswering", '"What?", "A great river."'),
    "ForMaskedLM": Head("fill-mask", "ForMaskedLM", '"A great [MASK]."'),
    "ForPreTraining": Head("fill-mask", "ForMaskedLM", '"A great [MASK]."'),
}
OPENVINO_ALONE = "openvino_model.xml"  # of a folder that `export --output` made
BARE = Head("feature-extraction", "ForFeatureExtraction")
ONNX, OPENVINO, WEIGHTS = "onnx/model.onnx", "openvino/openvino_model.xml", ".safetensors"


def head_of(class_name: str) -> Head:
    """Return the head of a model by the name of its class in transformers."""
    return next((head for end, head in HEADS.items() if class_name.endswith(end)), BARE)


@dataclass(frozen=True)
class Usage:
    """What the code for a client depends on.

    Attributes:
        name: folder or hub id.
        class_name: of the model, in transformers.
        is_sentence_transformer: whether sentence-transformers makes vectors with it.
        is_reranker: whether it scores pairs of a query and a text.
        pooling: its way from hidden states to a vector, `mean` or `cls`; None: another way, or none.
        normalize: whether it makes vectors of length 1.
        weights: their number format: fp32, int8, int4.
        sparsity: share of zeros in the encoder's Linear weights; None: not known.
        files: weights and exports in the folder.
    """

    name: str
    class_name: str
    is_sentence_transformer: bool
    is_reranker: bool
    pooling: str | None
    normalize: bool
    weights: str
    sparsity: float | None
    files: frozenset[str]

    @property
    def head(self) -> Head:
        return head_of(self.class_name)

    @property
    def has_weights(self) -> bool:
        return any(file.endswith(WEIGHTS) for file in self.files)

    @property
    def backends(self) -> list[str]:
        """Backends of sentence-transformers that the folder has files for."""
        found = [("torch", self.has_weights), ("onnx", ONNX in self.files), ("openvino", OPENVINO in self.files)]
        return [name for name, there in found if there]


def _code(title: str, language: str, *lines: str) -> str:
    return "\n".join([f"{title}:", "", f"```{language}", *lines, "```"])


def _transformers(usage: Usage) -> str:
    if not usage.has_weights:
        return ""
    auto = "AutoModel" if usage.head is BARE else f"AutoModel{usage.head.auto}"
    code = _code(
        "transformers",
        "python",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{usage.name}")',
        f'model = {auto}.from_pretrained("{usage.name}")',
        f'output = model(**tokenizer({usage.head.text}, return_tensors="pt"))',
    )
    if usage.weights == "fp32":
        return code
    return (
        f"{code}\n\nThese weights lie on a grid of {usage.weights} numbers, stored as floats. Plain transformers "
        "computes with them and with activations in fp32. Its outputs differ a little from those of the engines, which "
        "compute with integers."
    )


def _sentence_transformers(usage: Usage) -> str:
    if not (usage.is_sentence_transformer or usage.is_reranker) or not usage.backends:
        return ""
    name, call = (
        ("CrossEncoder", 'model.predict([("a river", "A great river.")])')
        if usage.is_reranker
        else ("SentenceTransformer", 'model.encode(["A great river.", "Poor music."])')
    )
    first, *others = usage.backends
    also = f"  # or: {', '.join(others)}" if others else ""
    return _code(
        "sentence-transformers",
        "python",
        f"from sentence_transformers import {name}",
        "",
        f'model = {name}("{usage.name}", backend="{first}"){also}',
        f"values = {call}",
    )


def _optimum(usage: Usage, file: str, title: str, module: str, prefix: str, option: str) -> str:
    if file not in usage.files:
        return ""
    return _code(
        title,
        "python",
        f"from {module} import {prefix}{usage.head.auto}",
        "from transformers import AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{usage.name}")',
        f'model = {prefix}{usage.head.auto}.from_pretrained("{usage.name}", {option})',
        f'output = model(**tokenizer({usage.head.text}, return_tensors="pt"))',
    )


def _optimum_onnx(usage: Usage) -> str:
    option = 'subfolder="onnx", file_name="model.onnx"'
    return _optimum(usage, ONNX, "ONNX Runtime, with optimum-onnx", "optimum.onnxruntime", "ORTModel", option)


def _optimum_intel(usage: Usage) -> str:
    option = 'subfolder="openvino"'
    return _optimum(usage, OPENVINO, "OpenVINO, with optimum-intel", "optimum.intel", "OVModel", option)


def _openvino_with_zeros(usage: Usage) -> str:
    is_sparse = usage.weights == "int8" and usage.sparsity is not None and usage.sparsity >= LEAST_ZEROS
    if not is_sparse or not {OPENVINO, OPENVINO_ALONE} & usage.files:
        return ""
    return (
        f"On processors with AMX (`amx_int8`), OpenVINO skips the zeros of layers with {percent_as_set(LEAST_ZEROS)} "
        f"of zeros or more, if the property `{json.dumps(SPARSE)}` is set: as the configuration of `compile_model`, or "
        "as `ov_config` in optimum-intel. Outputs stay equal. `pruneonce benchmark` says whether it is faster."
    )


def _transformers_js(usage: Usage) -> str:
    if ONNX not in usage.files or (usage.is_sentence_transformer and usage.pooling is None):
        return ""
    dtype = {"int8": "q8", "int4": "q4"}.get(usage.weights, "fp32")
    normalize = str(usage.normalize).lower()
    options = f', {{ pooling: "{usage.pooling}", normalize: {normalize} }}' if usage.is_sentence_transformer else ""
    return _code(
        "transformers.js",
        "js",
        'import { pipeline } from "@huggingface/transformers";',
        "",
        f'const model = await pipeline("{usage.head.tag}", "{usage.name}", {{ dtype: "{dtype}" }});',
        f"const output = await model({usage.head.text}{options});",
    )


# One function a client, in the order of the card; "" where the client cannot load the folder.
CLIENTS: list[Callable[[Usage], str]] = [
    _transformers,
    _sentence_transformers,
    _optimum_onnx,
    _optimum_intel,
    _openvino_with_zeros,
    _transformers_js,
]


def usage_blocks(usage: Usage) -> list[str]:
    """Return the code for each client that can load the folder."""
    return [block for client in CLIENTS if (block := client(usage))]
