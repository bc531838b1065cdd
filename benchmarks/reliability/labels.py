"""Labels as a target: drawn names of a model, of data and of a task; each label is the right class, or refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
from hypothesis import strategies as st
from transformers import BertConfig

from pruneonce.errors import UserError
from pruneonce.recipe import Classification
from pruneonce.tasks import kind_of
from pruneonce.tasks.labels import names_of

WORDS = ["no", "yes", "maybe", "Yes", " no", "0", "1", "2", "3", "5", "01", "LABEL_1", "LABEL_0", "B-X", "é", "NO"]
NAMES = st.one_of(
    st.lists(st.sampled_from(WORDS), min_size=2, max_size=5, unique=True),
    st.integers(2, 4).map(lambda count: [f"LABEL_{index}" for index in range(count)]),
    st.integers(2, 4).map(lambda count: [str(index) for index in range(count)]),
    st.lists(st.text(max_size=4), min_size=2, max_size=4, unique=True),
)
VALUES = (
    st.sampled_from(WORDS) | st.integers(-2, 6) | st.text(max_size=4) | st.sampled_from([None, True, 1.0, "-1", " 1 "])
)


def read(data: Any, folder: Path) -> None:
    """Read labels as `evaluate` does for a model, and compare each class with `meant`."""
    model = data.draw(NAMES)
    declared = data.draw(st.none() | st.permutations(model) | NAMES)
    own = data.draw(st.none() | st.permutations(model) | NAMES)  # names in metadata
    suffix = data.draw(st.sampled_from(["jsonl", "csv", "parquet"])) if own is None else "parquet"
    known = st.sampled_from(declared or model)
    value = known | known | VALUES if own is None else st.integers(0, len(own) - 1)
    values = data.draw(st.lists(value, min_size=1, max_size=4))
    file = folder / f"data.{suffix}"
    if not _written(file, values, own):
        return
    config = BertConfig(id2label=dict(enumerate(model)), label2id={name: index for index, name in enumerate(model)})
    wanted = [meant(_stored(value, suffix), model, declared, own) for value in values]
    kind = kind_of(Classification(train=str(file), dev=str(file), labels=declared))
    kind.of_model = names_of(config, "the model")
    try:
        task = kind.load(folder)
        order = kind.reading(config, task, "the model").order
    except UserError:
        plain = own is None and declared in (None, model) and all(value in model for value in values)
        assert not plain, "labels that are the model's own names are refused"
        raise
    found = [number if order is None else order[number] for number in task.splits["dev"]["label"][:]]
    assert found == wanted, f"{found}, not {wanted}: {model=} {declared=} {own=} {values=}"


def meant(value: Any, model: list[str], declared: list[str] | None, own: list[str] | None) -> int | None:
    """Return the class of the model that a label stands for; None where it has to be refused.

    Another reading of the rules in docs/tasks.md than the code's: label by label, from its name to the model.
    """
    names = declared or model
    if own is not None:
        shared = [_same(name, names, own) for name in own]
        if all(place in (None, index) for index, place in enumerate(shared)) and None in shared:
            if declared is None and not _numbered(model):
                return shared[value]  # a name that both have is that class; another one is refused
            return _in_model(value, names, model, declared) if value < len(names) else None
        if not any(place is not None for place in shared):
            return _in_model(value, names, model, declared) if value < len(names) else None
        place = shared[value]
        return None if place is None else _in_model(place, names, model, declared)
    if str(value) in names:
        return _in_model(names.index(str(value)), names, model, declared)
    number = _number(value)
    if number is None:
        return None
    spelled = {_number(name): index for index, name in reversed(list(enumerate(names))) if _number(name) is not None}
    if spelled:
        return _in_model(spelled[number], names, model, declared) if number in spelled else None
    return _in_model(number, names, model, declared) if 0 <= number < len(names) else None


def _in_model(index: int, names: list[str], model: list[str], declared: list[str] | None) -> int | None:
    """Return the place in the model of the name at `index`: by name, else the same where the model has no names."""
    if declared is None:
        return index
    place = _same(names[index], model, names)
    return index if place is None and _numbered(model) else place


def _same(name: str, others: list[str], beside: list[str]) -> int | None:
    """Return the place of a name, for which case and spaces count where names of either side differ in nothing else."""
    if name in others:
        return others.index(name)
    plain, plain_beside = ([other.strip().casefold() for other in some] for some in (others, beside))
    if len({*plain}) < len(plain) or len({*plain_beside}) < len(plain_beside):
        return None
    return plain.index(name.strip().casefold()) if name.strip().casefold() in plain else None


def _numbered(names: list[str]) -> bool:
    count = range(len(names))
    return names in ([str(index) for index in count], [f"LABEL_{index}" for index in count])


def _number(value: Any) -> int | None:
    text = str(value).strip(" \t\n\r\f\v")
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def _stored(value: Any, suffix: str) -> Any:
    return str(value) if suffix == "csv" else value


def _written(file: Path, values: list[Any], own: list[str] | None) -> bool:
    """Write a file of these labels; False where its format cannot hold them."""
    texts = [f"text {row}" for row in range(len(values))]
    try:
        if file.suffix == ".jsonl":
            rows = [{"text": text, "label": value} for text, value in zip(texts, values, strict=True)]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif file.suffix == ".csv":
            with file.open("w", newline="") as opened:
                csv.writer(opened).writerows([("text", "label"), *zip(texts, map(str, values), strict=True)])
        else:
            label = datasets.ClassLabel(names=list(own)) if own else None
            features = datasets.Features(text=datasets.Value("string"), label=label) if label else None
            rows = datasets.Dataset.from_dict({"text": texts, "label": values}, features=features)
            rows.to_parquet(str(file))
    except (UnicodeError, ValueError, TypeError, datasets.exceptions.DatasetsError, OSError):
        return False
    except Exception as error:  # Arrow's, of labels of several types
        if "Arrow" not in type(error).__name__:
            raise
        return False
    return True
