"""Names of classes in the schema of a Parquet or Arrow file, where the library datasets writes them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

METADATA = b"huggingface"  # of a schema: {"info": {"features": {COLUMN: {"_type": "ClassLabel", "names": [...]}}}}
LISTS = ("Sequence", "List", "LargeList")


def of_schema(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of the classes of each column of ClassLabels, or of lists of ClassLabels.

    Metadata that are not as datasets writes them count as none.
    """
    try:
        features = json.loads((schema.metadata or {}).get(METADATA, b"{}"))["info"]["features"].items()
        names = {column: _names(feature) for column, feature in features}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return {column: found for column, found in names.items() if found}


def _names(feature: Any) -> list[str]:
    """Return the names in a feature; empty where there are none."""
    if isinstance(feature, list) and len(feature) == 1:  # a list, as older versions of datasets write it
        return _names(feature[0])
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") in LISTS:
        return _names(feature.get("feature"))
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list):
        return []
    usable = names and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return names if usable else []
