"""Run the sparse, quantized text encoders in .pruneonce files, without PyTorch.

import pruneonce_runtime
model = pruneonce_runtime.load("reviews.pruneonce")
model("a great river")
"""

from pruneonce_runtime.errors import PruneonceError
from pruneonce_runtime.loading import Family, load
from pruneonce_runtime.model import Model
from pruneonce_runtime.native import instruction_sets

__all__ = ["Family", "Model", "PruneonceError", "instruction_sets", "load"]
