"""Publication of a model folder on the hub: the files that go, without local paths, and their upload.

Paths of this machine are taken out of JSON files in the copy that is pushed, and a text with such a path is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from pruneonce.errors import UserError
from pruneonce.models.card import CARD, refresh_card
from pruneonce.models.lineage import cached_id, is_on_hub
from pruneonce.models.provenance import PROVENANCE, content_key, read_provenance
from pruneonce.models.source import must_exist
from pruneonce.system.durable import read_json
from pruneonce.wording import first_line

# Names of files and folders that stay here: traces of training, caches, unfinished and hidden files.
LEFT_OUT = (
    "checkpoints",
    "checkpoint-*",
    "tensorboard",
    "events.out.tfevents*",
    "runs",
    "logs",
    "*.log",
    "*.partial",
    "begun.json",
    "lock",
    "cache",
    "head",
    "optimizer*",
    "scheduler*",
    "rng_state*",
    "training_args.bin",
    "trainer_state.json",
    "*.pt",
    "*.pth",
    "*.pkl",
    "__pycache__",
    ".*",
)
DOCUMENTS = (".md", ".xml", ".yaml", ".yml", ".html", ".py", ".sh")
TABLES = (".txt", ".csv", ".tsv", ".jsonl", ".toml", ".cfg", ".ini")
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab.txt",
    "merges.txt",
)
PATH = re.compile(r"(/|~/|\.\.?/|[A-Za-z]:[\\/]|\\\\).*", re.S)
# A path in running text: below a folder in which people's files stand.
IN_TEXT = re.compile(r"""(?<![\w./:])(/(?:home|root|Users|tmp|mnt|media|scratch|work|workspace)/[^\s"'`<>)]+)""")


@dataclass(frozen=True)
class Pushed:
    """File that goes to the hub.

    Attributes:
        name: in the repository.
        file: on this machine.
        content: what goes in the place of the file's own content; None: the file as it is.
        removed: keys whose values were paths of this machine.
    """

    name: str
    file: Path
    content: bytes | None = None
    removed: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.content is None else len(self.content)


def files_to_push(folder: Path) -> list[Pushed]:
    """Return the files of a model folder that go to the hub, by name.

    Raises:
        UserError: it is no finished model folder, an export in it is of another model, or a text names a local path.
    """
    must_exist(folder)
    if folder.resolve().name.endswith(".partial"):
        raise UserError(f"{folder} is unfinished; run its stage again, then push the folder without .partial")
    _must_be_one_model(folder)
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    kept = [name for name in names if not any(fnmatch(part, left) for part in name.split("/") for left in LEFT_OUT)]
    return [_pushed(folder, name) for name in kept]


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a model folder to a repository on the hub, which is made if there is none. Its card is written anew first.

    Args:
        folder: the model folder.
        repo: USER/NAME.
        private: make a new repository private; one that exists stays as it is.

    Returns:
        The address of the commit.

    Raises:
        UserError: the folder cannot be pushed (see `files_to_push`), there is no token, or the hub refuses.
    """
    must_be_repository(repo)
    files_to_push(folder)  # mistakes first
    if get_token() is None:
        raise UserError("no token for the hub: run `hf auth login`, or set HF_TOKEN, then push again")
    with _of_the_hub(repo), TemporaryDirectory() as scratch:
        refresh_card(folder, repo, download=True)
        for file in files_to_push(folder):
            place = Path(scratch) / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.content is None:
                place.symlink_to(file.file.resolve())
            else:
                place.write_bytes(file.content)
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=scratch, commit_message="Upload a model of pruneonce")
        return str(commit.commit_url)


def must_be_repository(repo: str) -> None:
    """Refuse a name that is not USER/NAME.

    Raises:
        UserError: the hub has no such names.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        raise UserError("give the repository as USER/NAME, in letters, digits, `-`, `_` and `.`")


@contextmanager
def _of_the_hub(repo: str) -> Generator[None, None, None]:
    """Turn the exceptions of huggingface_hub into a `UserError` of one line."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError("the hub is switched off: HF_HUB_OFFLINE is set; unset it, then push again") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            raise UserError(f"the hub does not know the token; run `hf auth login`, then push {repo} again") from error
        if status in (403, 404):
            raise UserError(f"the token may not write to {repo}; take one with the right to write there") from error
        raise UserError(f"the hub refused {repo}: {first_line(error)}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore"):
            raise UserError(f"cannot reach {constants.ENDPOINT}: {first_line(error)}; push again later") from error
        raise


def _must_be_one_model(folder: Path) -> None:
    """Refuse exports of other weights than those beside them."""
    record = read_provenance(folder) or {}
    own = {content_key(folder), *(record.get("parents", []) if record.get("stage") == "export" else [])}
    for inner in sorted(folder.glob(f"*/{PROVENANCE}")):
        exported = read_provenance(inner.parent) or {}
        if exported.get("stage") == "export" and not own & set(exported.get("parents", [])):
            raise UserError(f"{inner.parent} was exported from another model than {folder}; remove it and export again")


def _pushed(folder: Path, name: str) -> Pushed:
    """Return a file as it is pushed."""
    file = folder / name
    base = file.name
    if base.endswith(".json") and base not in VOCABULARIES and not base.endswith(".index.json"):
        values = read_json(file)
        removed: list[str] = []
        cleaned = _without_paths(values, removed, "", base == PROVENANCE and not is_on_hub(values))
        if removed:
            return Pushed(name, file, (json.dumps(cleaned, indent=1) + "\n").encode(), tuple(removed))
    elif file.suffix in (*DOCUMENTS, *TABLES) and base not in VOCABULARIES:
        _must_name_no_path(file)
    return Pushed(name, file)


def _without_paths(value: Any, removed: list[str], key: str, source_is_local: bool = False) -> Any:
    """Return a value of JSON with each path of this machine replaced by its last part; name their keys in `removed`."""
    if isinstance(value, dict):
        return {
            name: _without_paths(inner, removed, f"{key}.{name}" if key else name, source_is_local)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_paths(inner, removed, key) for inner in value]
    if not isinstance(value, str) or not value:
        return value
    if (
        PATH.fullmatch(value)
        or (key == "source" and source_is_local)
        or (key.rpartition(".")[2] in ("name_or_path", "_name_or_path") and Path(value).exists())
    ):
        plain = cached_id(Path(value)) or re.split(r"[\\/]", value.rstrip("\\/"))[-1]
        if plain != value:
            removed.append(key)
        return plain
    return value


def _must_name_no_path(file: Path) -> None:
    """Refuse a text with a path of this machine."""
    text = file.read_text(encoding="utf-8", errors="replace")
    here = [str(place) for place in (Path.home(), file.resolve().parents[1]) if len(place.parts) > 2]
    found = IN_TEXT.search(text)
    path = found[1] if found else next((place for place in here if place in text), None)
    if path is not None:
        advice = "; remove the file, and it is written anew" if file.name == CARD else ""
        raise UserError(f"{file} names a path of this machine, {path}: take it out, then push again{advice}")
