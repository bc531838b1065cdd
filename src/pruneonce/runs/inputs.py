"""Identity of a run's inputs, which stay the same from the first stage to the last, however often it is interrupted."""

from __future__ import annotations

from pathlib import Path

from pruneonce.data.keys import file_key, source_key
from pruneonce.errors import UserError
from pruneonce.models import content_key, key_of, read_provenance
from pruneonce.models.provenance import is_as_written, rest_key
from pruneonce.models.source import weights_hash
from pruneonce.recipe import Recipe
from pruneonce.system import durable

FILE = "inputs.json"


def check_unchanged(recipe: Recipe, output: Path) -> None:
    """Compare model, corpus and task files with those that the run in `output` began with; note them when it begins.

    Raises:
        UserError: an input changed, or is gone.
    """
    now = _identities(recipe)
    before = durable.read_json(output / FILE) or {}
    changed = [name for name, identity in now.items() if before.get(name, identity) != identity]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: not what it was when the run in {output} began, and a run does not mix data; put "
            "it back as it was, or start again with another --output"
        )
    if now.keys() - before.keys():  # all inputs as the run begins, later those of an added task
        durable.write_json({**before, **now}, output / FILE)


def _identities(recipe: Recipe) -> dict[str, str]:
    """Return the hash of the contents of each local input, by its name in errors."""
    identities = _of_model("model", recipe.model)
    for sparse in filter(None, (recipe.sparse, recipe.sparse_model)):
        identities |= _of_model("model", sparse)
    if recipe.corpus and (corpus := source_key(recipe.corpus.source)) is not None:
        identities[f"corpus {recipe.corpus.source}"] = key_of(corpus)
    for task in recipe.tasks.values():
        if task.teacher_model:
            identities |= _of_model("teacher", task.teacher_model)
        if task.source is None:
            for name in task.data().values():
                identities[f"file {name}"] = file_key(name)
    return identities


def _of_model(role: str, source: str) -> dict[str, str]:
    """Return a model's key, and hashes of what the key does not cover: weights of earlier versions, `rest_key`."""
    identities = {f"{role} {source}": content_key(source)}
    folder = Path(source)
    if folder.is_dir() and read_provenance(folder) and not is_as_written(folder):
        identities[f"weights of {source}"] = weights_hash(folder)
    if rest := rest_key(source):
        identities[f"vocabulary and modules of {source}"] = rest
    return identities
