"""Hash of a pattern of zeros."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def digest_of(masks: Mapping[str, npt.NDArray[np.bool_]]) -> str:
    """Hash (sha256) of names, shapes and packed bits, in the order of names; equal only for equal patterns.

    Args:
        masks: by parameter name; True keeps a weight.
    """
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(f"{name}{tuple(masks[name].shape)}".encode())
        digest.update(np.packbits(masks[name]).tobytes())
    return digest.hexdigest()
