"""Export into the folder that clients load: each format in a folder of its own, under the names that they look for.

sentence-transformers looks for `onnx/model.onnx` and `openvino/openvino_model.xml`, as does optimum with its
`subfolder`; transformers.js for `onnx/model.onnx`, and for `onnx/model_quantized.onnx` by default in a browser.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from pruneonce import quantization
from pruneonce.errors import UserError
from pruneonce.export import FORMATS, Options
from pruneonce.models import LIBRARIES, PROVENANCE, content_key, key_of, publish_folder, read_provenance
from pruneonce.models.card import refresh_card
from pruneonce.models.provenance import CONFIGURATION, configuration_of
from pruneonce.recipe import Format
from pruneonce.stages.export import export, write_plain_files
from pruneonce.stages.output import is_finished, rest_of, unfinished
from pruneonce.system import distributed, durable
from pruneonce.wording import listed


def export_into(
    model: str | Path, folder: Path, *, formats: Sequence[Format] | None = None, options: Options | None = None
) -> list[Path]:
    """Export `model` into `folder/FORMAT` for each format; a finished format is left as it is.

    Args:
        model: a model folder or hub id.
        folder: the model's own folder, or another one, which then gets configuration, tokenizer and the files of
            sentence-transformers, too.
        formats: names in `pruneonce.export.FORMATS`; None: all.
        options: each format gets those that it takes; None: the defaults.

    Returns:
        The files that clients open. Those with the same bytes are one file under several names (hard links), or
        copies on a disk without hard links.

    Raises:
        UserError: there is no such model, an extra is not installed, a folder holds something else, or no format takes
            an option.
    """
    chosen: Sequence[str] = formats if formats is not None else tuple(FORMATS)
    options = options or Options()
    for format in chosen:
        if format not in FORMATS:
            raise UserError(f"no format {format!r}; there are {', '.join(FORMATS)}")
        FORMATS[format].require(options.only(FORMATS[format].options))
    taken = frozenset().union(*(FORMATS[format].options for format in chosen))
    if idle := sorted(options.chosen().keys() - taken):
        raise UserError(f"{listed(chosen)} takes no option {idle[0]}")
    if not (Path(model).is_dir() and folder.exists() and folder.samefile(model)):
        _plain_folder(model, folder)
    files = []
    for format in chosen:
        suitable = options.only(FORMATS[format].options)
        made = export(model, folder / format, format=format, options=suitable)  # type: ignore[arg-type]
        more = FORMATS[format].more_names.get(quantization.weights_of(model), ())
        file = made / FORMATS[format].file
        distributed.by_first(partial(_name, file, more))
        files += [file, *(made / name for name in more)]
    distributed.by_first(lambda: refresh_card(folder))
    return files


def _plain_folder(model: str | Path, folder: Path) -> None:
    """Make the folder of a model without its weights."""
    key = key_of("export-into", content_key(model))
    if is_finished(folder, key, model):
        return
    with unfinished(folder, key, model) as begun:
        distributed.by_first(lambda: _write(model, begun, key))
        distributed.by_first(lambda: publish_folder(folder))


def _write(model: str | Path, folder: Path, key: str) -> None:
    write_plain_files(model, folder)
    provenance = {
        "stage": "export",
        "key": key,
        "source": str(model),
        "parents": [content_key(model)],
        CONFIGURATION: configuration_of(folder),
        **rest_of(folder),
        "settings": {},
        "weights": quantization.weights_of(model),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    known = read_provenance(model) or {} if Path(model).is_dir() else {}
    if "sparsity" in known:
        provenance["sparsity"] = known["sparsity"]
    durable.write_json(provenance, folder / PROVENANCE)


def _name(file: Path, names: Sequence[str]) -> None:
    """Give a file further names in its folder.

    Raises:
        UserError: a name is that of another file.
    """
    for name in names:
        further = file.with_name(name)
        if further.exists():
            if not further.samefile(file) and durable.file_hash(further) != durable.file_hash(file):
                raise UserError(f"{further} is another file than {file.name}; remove it, then run it again")
            continue
        aside = durable.partial(further)
        with durable.writing(further):
            aside.unlink(missing_ok=True)
            try:
                os.link(file, aside)
            except OSError:  # a disk without hard links
                shutil.copyfile(file, aside)
            durable.publish(aside, further)
