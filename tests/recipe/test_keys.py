"""The keys of a recipe's sections as `pruneonce recipes keys` and the reference tell them."""

import json
import re

import pytest
import yaml

from pruneonce import recipe
from pruneonce.cli import main
from pruneonce.errors import UserError
from pruneonce.plugins import Options, plugins
from pruneonce.recipe import keys

SECTIONS = [
    *(
        one
        for one in vars(recipe).values()
        if isinstance(one, type) and issubclass(one, recipe.Section) and one is not recipe.Section
    ),
    *(plugin.options for plugin in plugins().values()),
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_has_a_sentence(section):
    for name, field in section.model_fields.items():
        assert re.fullmatch(r"[A-Z`].*\.", field.description or "", re.S), (section, name)
        assert field.description.count("`") % 2 == 0, (section, name)
    assert section.__doc__, "the page shows its first paragraph"


def test_no_key_is_left_out():
    told = {
        (part, name)
        for place in keys.places().values()
        for part in keys.parts(place.section)
        for name in keys.own_fields(part)
    }
    declared = {(section, name) for section in SECTIONS for name in keys.own_fields(section)}
    assert declared - {(section, name) for section, name in declared if section is Options} <= told


def test_where_sections_stand():
    at = {name: place.at for name, place in keys.places().items()}
    assert at["recipe"] == ("top of the file",)
    assert at["quantize.int8_ptq"] == ("quantize.int8_ptq",)
    assert at["sweep"] == ("teacher.sweep", "transfer.sweep", "baselines.gradual.sweep")
    assert {at[kind] for kind in recipe.KINDS} == {("tasks.NAME",)}
    assert at["obert"] == ("prune.method", "baselines.gradual.method", "pruneonce one-shot --set method")
    assert at["product-quantize"] == ("pruneonce product-quantize --set",)


@pytest.mark.parametrize("name", keys.places())
def test_defaults_are_those_of_the_section(name):
    place = keys.places()[name]
    for key in place.all_keys():
        field = place.section.model_fields[key.name]
        if field.is_required():
            assert key.default == "required"
        elif field.default_factory is not None:
            assert key.default == "-"
        else:
            told = None if key.default == "-" else yaml.safe_load(key.default)
            usual = field.default
            usual = {} if isinstance(usual, recipe.Section) else list(usual) if isinstance(usual, tuple) else usual
            assert told == usual or float(told) == usual, key


def test_a_method_is_no_key_where_none_works():
    assert "method" in [key.name for key in keys.find_place("prune").all_keys()]
    for name in ("prepare", "product-quantize"):
        assert "method" not in [key.name for key in keys.find_place(name).all_keys()]


@pytest.mark.parametrize(
    ("section", "key", "values"),
    [
        ("recipe", "seeds", "list of integers ≥ 0"),
        ("recipe", "tasks", "mapping or list of names"),
        ("recipe", "export", "list of `onnx` or `openvino`"),
        ("corpus", "validation", "number in (0, 0.5)"),
        ("prune", "sparsity", "number in [0, 1)"),
        ("prune", "objective", "`mlm`, `hidden` or `both`"),
        ("prune", "method", "name or mapping"),
        ("prune", "nested", "`true` or `false`"),
        ("quantize.int8", "averaging", "number in (0, 1]"),
        ("quantize.int4", "bits", "`8` or `4`"),
        ("obert", "block_size", "integer in [1, 1024]"),
        ("teacher", "epochs", "number > 0"),
        ("sweep", "epochs", "list of numbers > 0"),
        ("classification", "kind", "`classification`"),
        ("classification", "transfer", "mapping"),
    ],
)
def test_values_in_words(section, key, values):
    assert {one.name: one.values for one in keys.find_place(section).all_keys()}[key] == values


@pytest.mark.parametrize(("name", "near"), [("prun", "prune"), ("int8", "quantize.int8"), ("qantize", "quantize")])
def test_an_unknown_section_names_the_nearest(name, near):
    with pytest.raises(UserError, match=f"no section of a recipe is named '{name}'; did you mean '{near}'"):
        keys.find_place(name)


@pytest.mark.parametrize("name", [None, *keys.places()])
def test_the_terminal_shows_all_within_80_columns(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes", "keys", *([name] if name else [])]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "…" not in shown
    if name is None:
        assert set(keys.places()) <= {line.split(" ")[0] for line in shown.splitlines()}
    else:
        table = shown[shown.index("meaning") :]
        right = " ".join(line[28:].strip() for line in table.splitlines())
        for key in keys.places()[name].all_keys():
            assert re.search(rf"^{key.name}  ", table, re.M)
            assert key.meaning.replace("`", "") in right


def test_json(capsys):
    assert main(["recipes", "keys", "--json"]) == 0
    assert [one["section"] for one in json.loads(capsys.readouterr().out)] == list(keys.places())
    assert main(["recipes", "keys", "corpus", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [key["name"] for key in found["keys"]] == list(recipe.Corpus.model_fields)
    assert found["keys"][4] == {
        "name": "block_length",
        "values": "integer ≥ 8",
        "default": "128",
        "meaning": recipe.Corpus.model_fields["block_length"].description,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["prunne"], "did you mean 'prune'?"), (["prune", "--markdown"], "--markdown prints all sections")],
)
def test_mistakes(arguments, message, capsys):
    assert main(["recipes", "keys", *arguments]) == 2
    assert message in capsys.readouterr().err
