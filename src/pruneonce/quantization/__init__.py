"""Fake quantization of Linears and embedding tables: in training, after training, and saved in a model folder."""

from pruneonce.quantization.embedding import LearningEmbedding, QuantizedEmbedding
from pruneonce.quantization.functions import (
    affine_parameters,
    fake_quantize_weight,
    moving_average,
    quantize_weight,
    symmetric_scale,
)
from pruneonce.quantization.linear import LearningLinear, QuantizedLinear
from pruneonce.quantization.model import freeze, insert, is_quantized, load, restore, save, unwrap, weights_of
from pruneonce.quantization.selection import check_fits, describe, quantizable, tables

__all__ = [
    "LearningEmbedding",
    "LearningLinear",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "affine_parameters",
    "check_fits",
    "describe",
    "fake_quantize_weight",
    "freeze",
    "insert",
    "is_quantized",
    "load",
    "moving_average",
    "quantizable",
    "quantize_weight",
    "restore",
    "save",
    "symmetric_scale",
    "tables",
    "unwrap",
    "weights_of",
]
