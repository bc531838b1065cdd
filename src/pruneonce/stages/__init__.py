"""Stages: each makes a model folder out of a model folder, and each is usable alone.

Messages of the libraries below are silenced while a stage works, see `pruneonce.system.libraries`.
"""

from pruneonce.stages.benchmark import benchmark
from pruneonce.stages.calibrate import calibrate
from pruneonce.stages.check import check
from pruneonce.stages.convert import convert
from pruneonce.stages.evaluate import evaluate, measure
from pruneonce.stages.export import export
from pruneonce.stages.export_into import export_into
from pruneonce.stages.finetune import finetune
from pruneonce.stages.one_shot import one_shot
from pruneonce.stages.prepare import prepare
from pruneonce.stages.product_quantize import product_quantize
from pruneonce.stages.prune import prune
from pruneonce.stages.prune_one_shot import prune_one_shot
from pruneonce.stages.quantize import quantize
from pruneonce.stages.take import take
from pruneonce.stages.transfer import transfer, transfer_gradual
from pruneonce.system.libraries import quiet

__all__ = [
    "benchmark",
    "calibrate",
    "check",
    "convert",
    "evaluate",
    "export",
    "export_into",
    "finetune",
    "measure",
    "one_shot",
    "prepare",
    "product_quantize",
    "prune",
    "prune_one_shot",
    "quantize",
    "take",
    "transfer",
    "transfer_gradual",
]

benchmark = quiet(benchmark)
calibrate = quiet(calibrate)
check = quiet(check)
convert = quiet(convert)
evaluate = quiet(evaluate)
export = quiet(export)
export_into = quiet(export_into)
finetune = quiet(finetune)
measure = quiet(measure)
one_shot = quiet(one_shot)
prepare = quiet(prepare)
product_quantize = quiet(product_quantize)
prune = quiet(prune)
prune_one_shot = quiet(prune_one_shot)
quantize = quiet(quantize)
take = quiet(take)
transfer = quiet(transfer)
transfer_gradual = quiet(transfer_gradual)
