"""Packed files: a sparse model, or a family of task models of one sparse parent, near its entropy."""

from pruneonce.models import grid
from pruneonce.models.grid import Grid
from pruneonce.storage.container import SUFFIX
from pruneonce.storage.packing import pack
from pruneonce.storage.sizes import Sizes
from pruneonce.storage.unpacking import as_folder, load, unpack

__all__ = ["SUFFIX", "Grid", "Sizes", "as_folder", "grid", "load", "pack", "unpack"]
