"""The hash that identifies a pattern of zeros."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def digest_of(masks: Mapping[str, npt.NDArray[np.bool_]]) -> str:
    """sha256 of names, shapes and packed bits, in the order of names: equal if and only if the patterns are.

    Args:
        masks: by parameter name; True keeps a weight.
    """
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(f"{name}{tuple(masks[name].shape)}".encode())
        digest.update(np.packbits(masks[name]).tobytes())
    return digest.hexdigest()
