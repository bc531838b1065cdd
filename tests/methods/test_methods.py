"""What every registered method has to bear, and how methods are registered.

That an interrupted and resumed run equals an uninterrupted one is tested in training/test_resume.py, for each of them.
"""

import importlib
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from shared.folders import assert_zeros_as_recorded, provenance
from shared.processes import python
from shared.settings import METHODS
from transformers import AutoModel

from pruneonce import recipe
from pruneonce.cli import main
from pruneonce.config.pattern import UNSTRUCTURED
from pruneonce.errors import UserError
from pruneonce.models.architectures import prunable_weights
from pruneonce.plugins import STAGES, Method, Options, Plugin, make, plugins
from pruneonce.recipe import Prune, Transfer
from pruneonce.sparsity import inspect_model, locked_masks, verify

SETTINGS = {"steps": 5, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    """The result of each method in each stage, made when it is first asked for."""
    folder, found = tmp_path_factory.mktemp("made"), {}

    def make(name):
        if name not in found:
            found[name] = METHODS[name](inputs)(folder / name.replace(", ", "-"))
        return found[name]

    return make


# -- the shared tests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", plugins())
def test_equals_its_reference(name):
    """Each method's own test module gives pairs of tensors: what the method made, and what a plain reference did."""
    module = importlib.import_module(f"test_{name.replace('-', '_')}")
    pairs = list(module.against_reference())
    assert pairs
    for ours, reference in pairs:
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("finetune")])
def test_plain_from_pretrained_has_the_same_zeros(name, made):
    assert provenance(made(name))["sparsity"]["encoder"] > 0.3
    assert_zeros_as_recorded(made(name))


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith(("prune", "gradual"))])
def test_the_sparsity_is_the_one_asked_for(name, made):
    assert inspect_model(made(name)).encoder == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith(("transfer", "quantize"))])
def test_locked_zeros_stay_zero(name, made, inputs):
    checked = verify(made(name), inputs["sparse"])
    assert checked.ok
    assert checked.zeros > 0


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith(("prune", "gradual"))])
def test_its_zeros_outlive_locked_steps(name, made, inputs, tmp_path):
    """N steps of AdamW with weight decay after it, the zeros locked."""
    settings = Transfer(epochs=1, batch_size=16, learning_rate=1e-2, weight_decay=0.1)
    from pruneonce import stages

    after = stages.transfer(made(name), inputs["task"], settings, tmp_path / "after", teacher=inputs["teacher"])
    assert verify(after, made(name)).ok


# -- the registry -----------------------------------------------------------------------------------------------


def test_the_plain_method_adds_nothing():
    method, weights = make(None), {"w": torch.tensor([[1.0, -3.0]])}
    assert type(method) is Method
    assert method.extra_loss(0) is None
    assert method.gradients(0, lambda: 7) == 7
    assert torch.equal(method.scores(0, weights, UNSTRUCTURED)["w"], weights["w"].abs())


@pytest.mark.parametrize("name", plugins())
def test_it_says_what_it_is(name, capsys):
    plugin = plugins()[name]
    assert plugin.summary.endswith(".")
    assert plugin.paper.startswith("https://")
    assert issubclass(plugin.load(), Method)
    assert isinstance(make(plugin.options.model_validate({"name": name})), plugin.load())
    for option, field in plugin.options.model_fields.items():
        assert option == "name" or field.description, option
    assert main(["methods", "show", name]) == 0
    shown = capsys.readouterr().out
    assert plugin.paper in shown
    for heading in ("How to use", "Implementation details", "Suggested hyperparameters", "Technical", "Attribution"):
        assert heading.lower() in shown.lower(), heading


def test_the_list_names_them_all(capsys):
    assert main(["methods", "list"]) == 0
    assert set(plugins()) <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "obrt"}, "`prune.method`: the name of a method is one of obert, "),
        ({"method": {"gradients": 3}}, "`prune.method`: the name of a method is one of obert, "),
        (
            {"method": {"name": "obert", "gradient": 3}},
            "unknown key `prune.method.gradient`; did you mean `gradients`?",
        ),
        ({"method": "cram"}, "`prune`: `method` cram has no place here; it works in finetune, gradual, transfer"),
        ({"pattern": "3:2"}, "`prune.pattern`: a pattern is unstructured, row, column, blocks such as 1x4"),
        ({"pattern": "2:4", "sparsity": 0.4}, "`prune`: `pattern: 2:4` has at least 50 % of zeros; raise `sparsity`"),
    ],
)
def test_mistakes_in_a_recipe_are_one_line(values, message):
    with pytest.raises(UserError) as error:
        recipe.validate(Prune, {**SETTINGS, **values}, "prune")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", plugins())
def test_equal_settings_count_as_one(name):
    """`plan` measures them once."""
    plugin = plugins()[name]
    assert len({plugin.options(**plugin.example), plugin.options(**plugin.example)}) == 1


def test_what_is_not_asked_for_is_not_in_the_key():
    """So that what was made before there were methods and patterns stays valid."""
    assert {"method", "pattern"}.isdisjoint(Prune(**SETTINGS).model_dump())
    asked = Prune(**SETTINGS, method="obert", pattern="1x4").model_dump()
    assert asked["pattern"] == "1x4"
    assert asked["method"]["name"] == "obert"


class Unnamed(Options):
    """Nothing."""


def test_a_plugin_that_says_too_little_is_refused():
    with pytest.raises(TypeError, match="Unnamed has to pin `name`"):
        Plugin(Unnamed, "a:B", "https://example.org", frozenset({"prune"}))
    obert = plugins()["obert"].options
    with pytest.raises(ValueError, match=f"the stages of obert have to be some of {', '.join(STAGES)}"):
        Plugin(obert, "a:B", "https://example.org", frozenset({"cooking"}))


# The example of docs/methods.md: a package of somebody else's.
(THIRD_PARTY,) = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8"), re.S
)


@pytest.fixture
def third_party(tmp_path):
    """A package of somebody else's as pip installs it: a module, and metadata with the entry point."""

    def install(code=THIRD_PARTY):
        (tmp_path / "chance_pruning.py").write_text(code)
        metadata = tmp_path / "chance_pruning-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: chance-pruning\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[pruneonce.methods]\nchance = chance_pruning:plugin\n")

        path = os.pathsep.join([str(tmp_path), *sys.path])
        script = "import sys; from pruneonce.cli import main; sys.exit(main())"
        return lambda *arguments: python("-c", script, *arguments, PYTHONPATH=path, PYTHONWARNINGS="")

    return install


def test_another_package_adds_a_method(third_party):
    pruneonce = third_party()
    assert "chance" in pruneonce("methods", "list").stdout
    shown = pruneonce("methods", "show", "chance").stdout
    assert "Prunes at random, by a seed." in shown
    assert "of the scores" in shown


@pytest.mark.slow
def test_a_method_of_another_package_prunes(third_party, encoder, corpus_file, tmp_path):
    pruneonce = third_party()
    verb = ["prune", str(encoder), "--corpus", str(corpus_file), "--objective", "hidden", "--steps", "10"]
    sets = ["corpus.block_length=16", "corpus.validation=0.1", "batch_size=4", "method.name=chance"]
    made = pruneonce(*verb, "--output", str(tmp_path / "out"), *(part for one in sets for part in ("--set", one)))
    assert made.returncode == 0, made.stderr
    weight = locked_masks(prunable_weights(AutoModel.from_pretrained(tmp_path / "out")))
    name, mask = next(iter(weight.items()))
    scores = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0))
    assert name in weight
    assert scores[~mask].max() < scores[mask].min()


def test_another_package_that_is_broken_is_left_out(third_party):
    pruneonce = third_party("raise RuntimeError('gone')")
    listed = pruneonce("methods", "list")
    assert listed.returncode == 0
    assert "obert" in listed.stdout
    assert "chance" not in listed.stdout
    assert "the method chance_pruning:plugin cannot be loaded: gone" in listed.stderr


def test_of_two_methods_of_one_name_ours_stands(third_party):
    pruneonce = third_party(THIRD_PARTY.replace('"chance"', '"obert"'))
    listed = pruneonce("methods", "list")
    assert listed.returncode == 0
    assert "at random" not in listed.stdout
    assert "the method chance_pruning:plugin cannot be loaded: there is a method obert already" in listed.stderr
