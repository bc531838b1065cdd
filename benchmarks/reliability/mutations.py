"""Damage by accident (bytes) and on purpose (values), as hypothesis draws it."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 400), st.floats(), st.text(max_size=8),
    st.sampled_from([2**31, 2**63, 10**40, "../x", "/etc/passwd", "2026-13-45", "1e999", "gaps", "bytes", "F32"]),
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner))
LINES = st.sampled_from([
    "[" * 400, "{" * 400, "a: &a [*a]", "- !!python/name:os.system", "? [a]", "<<: *t", "steps: " + "9" * 5000,
    "&x [*x, *x]", "\t", "---", "...", "%YAML 9", "!!binary x", "!!timestamp x", "extends: mine", "extends: ../../x",
])  # fmt: skip


def mutated(data: Any, content: bytes) -> bytes:
    """Cut off, with bits flipped (in the head, above all), with a lie about a length, or with a piece of another."""
    how = data.draw(st.sampled_from(["cut", "flip", "flip", "length", "splice"]))
    if how == "cut":
        return content[: data.draw(st.integers(0, len(content) - 1))]
    changed = bytearray(content)
    if how == "flip":
        for _ in range(data.draw(st.integers(1, 4))):
            where = data.draw(st.integers(0, min(400, len(content) - 1)) | st.integers(0, len(content) - 1))
            changed[where] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "length":
        length = data.draw(st.integers(0, 2**64 - 1) | st.sampled_from([len(content), 2**31, 2**40, 2**63]))
        changed[:8] = length.to_bytes(8, "little")
    else:
        start = data.draw(st.integers(0, len(content) - 1))
        changed[start : start + 8] = data.draw(st.binary(max_size=40))
    return bytes(changed)


def places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """Every place in a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def lie(data: Any, value: Any) -> Any:
    """The JSON value with another one somewhere in it."""
    changed = copy.deepcopy(value)
    path = data.draw(st.sampled_from(list(places(value))[1:]))
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(VALUES)
    return changed


PREFIXES = (
    "_orig_mod.",
    "module.",
    "model.",
    "0.auto_model.",
    "bert.",
    "backbone.",
    "roberta.",
    "encoder.",
    "module.module.",
)
SETTINGS = {
    "num_hidden_layers": (0, 1, 2, 3, 12, 900, 2**20, -1, 2.0, "2", None),
    "hidden_size": (0, 16, 32, 48, 512, 2**20, "32"),
    "intermediate_size": (0, 63, 64, 65, 2**20),
    "num_attention_heads": (0, 1, 2, 3, 32),
    "vocab_size": (0, 1, 53, 54, 2**20),
    "type_vocab_size": (0, 1, 2, 3),
    "max_position_embeddings": (0, 1, 127, 128, 2**20),
    "model_type": ("bert", "roberta", "distilbert", "electra", "modernbert", "mpnet", "gpt2", "own", None),
    "num_labels": (0, 1, 2**17, 2**40),
    "attn_implementation": ("eager", "sdpa", "flash_attention_2", "org/repo", {"": "org/repo"}, 7),
    "_attn_implementation": ("org/repo", "paged|org/repo@1:x", "eager"),
    "experts_implementation": ("org/repo", {"text_config": "org/repo"}),
    "auto_map": ({"AutoModel": "evil.Model"}, {"AutoConfig": "org/repo--evil.Config"}, 7),
    "quantization_config": ({"quant_method": "awq"}, {}, None),
    "transformers_weights": ("../x.safetensors", "x.bin"),
    "tie_word_embeddings": (True, False, None),
    "architectures": (
        ["BertModel"],
        ["BertForMaskedLM"],
        ["BertForSequenceClassification"],
        ["pipeline"],
        [],
        None,
        [7],
    ),
    "dtype": ("float16", "bfloat16", "int8", "load", None),
    "is_decoder": (True, False),
    "add_cross_attention": (True, False),
    "hidden_act": ("gelu", "relu", "own", None),
}


def other_settings(data: Any, config: Any) -> Any:
    """A configuration with another value of a setting that decides on names, shapes or code, or with any value."""
    if data.draw(st.integers(0, 3)) == 0:
        return lie(data, config)
    name = data.draw(st.sampled_from(sorted(SETTINGS)))
    value = data.draw(st.sampled_from(SETTINGS[name]))
    return {**config, "text_config": {name: value}} if data.draw(st.integers(0, 4)) == 0 else {**config, name: value}


def other_tensors(data: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors by name, with one left out, of another name, shape or type, twice, masked, or all under a prefix."""
    if not tensors:
        return tensors
    how = data.draw(
        st.sampled_from(["prefix", "prefix", "out", "name", "shape", "type", "twice", "mask", "nan", "one"])
    )
    name = data.draw(st.sampled_from(sorted(tensors)))
    prefix = data.draw(st.sampled_from(PREFIXES))
    weight = tensors[name]
    others = {key: value for key, value in tensors.items() if key != name}
    if how == "prefix":
        return {prefix + key: value for key, value in tensors.items()}
    if how == "out":
        return others
    if how == "one":
        return {name: weight}
    if how == "name":
        changed = data.draw(
            st.sampled_from([name.replace("layer.1", "layer.2"), name.replace("weight", "gamma"), name[1:]])
        )
        return {**others, data.draw(st.sampled_from([changed, prefix + name, name + "_orig"])) or "x": weight}
    if how == "shape":
        flat = weight.reshape(-1)
        return {**others, name: data.draw(st.sampled_from([flat, weight.T.copy(), weight[:-1].copy(), weight[None]]))}
    if how == "type":
        return {
            **others,
            name: np.nan_to_num(weight, posinf=1, neginf=-1).astype(
                data.draw(st.sampled_from(["float16", "float64", "int8", "int64", "bool"]))
            ),
        }
    if how == "twice":
        return {**tensors, prefix + name: weight + 1}
    if how == "nan":
        return {**others, name: weight * data.draw(st.sampled_from([math.nan, math.inf]))}
    mask = (np.arange(weight.size).reshape(weight.shape) % 2).astype(weight.dtype)
    return {**others, f"{name}_orig": weight, f"{name}_mask": mask}
