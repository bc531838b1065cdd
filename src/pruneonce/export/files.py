"""Files of an exported model, and their hashes.

Engines are native code that trusts its file: a flipped bit gives other results silently, or ends the process. So a file
is compared with the hash in the folder's provenance before an engine sees it.
"""

from __future__ import annotations

from pathlib import Path

from pruneonce.errors import UserError
from pruneonce.export import FORMATS
from pruneonce.models import PROVENANCE, read_provenance
from pruneonce.system import durable

AGAIN = "remove the folder and export the model again"


def hashes(folder: Path, format: str) -> dict[str, str]:
    """Return the hashes that provenance records as `files`."""
    declared = FORMATS[format]
    names = [*declared.files, *(name for name in declared.optional_files if (folder / name).is_file())]
    return {name: durable.file_hash(folder / name) for name in names}


def must_be_whole(folder: Path, format: str) -> None:
    """Compare the files of an exported model with their recorded hashes.

    Raises:
        UserError: a file is damaged or missing, or no hashes are recorded.
    """
    recorded = (read_provenance(folder) or {}).get("files")
    if not isinstance(recorded, dict):
        raise UserError(f"{folder} has no hashes of its files in {PROVENANCE}; {AGAIN}")
    try:
        digests = hashes(folder, format)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}; {AGAIN}") from None
    for name, digest in digests.items():
        if recorded.get(name) != digest:
            raise UserError(f"{folder / name} is damaged: it is not what was written; {AGAIN}")
