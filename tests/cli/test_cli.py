"""The command line: what it prints, its exit codes, and what a mistake leaves behind. Models are tiny, stages real."""

import json
import re
import shlex

import pytest
import yaml
from safetensors.torch import load_file, save_file
from shared.processes import python

from pruneonce import recipe, stages
from pruneonce.cli import main
from pruneonce.recipe import loading

VERBS = [
    "run",
    "plan",
    "quickstart",
    "prepare",
    "prune",
    "finetune",
    "transfer",
    "one-shot",
    "evaluate",
    "check",
    "inspect",
    "verify",
    "quantize",
    "product-quantize",
    "export",
    "pack",
    "unpack",
    "benchmark",
]
RECIPES = [["recipes", verb] for verb in ("list", "show", "copy", "keys", "schema")]
FAST = ["--set", "epochs=1", "--set", "batch_size=16"]


@pytest.fixture
def shipped(recipe_values, tmp_path, monkeypatch):
    """One shipped recipe, `tiny`, that lays itself over a base."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    base = {key: recipe_values.pop(key) for key in ("teacher", "transfer")}
    (folder / "_base.yaml").write_text(yaml.safe_dump(base))
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**recipe_values, "extends": "_base", "description": "a tiny one"}))
    monkeypatch.setattr(loading, "RECIPES", folder)
    return file


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def as_options(task_files):
    return [part for split in ("train", "dev") for part in (f"--{split}", str(task_files / f"{split}.jsonl"))]


def zeroed(source, target, share=0.5):
    """A copy of a model folder with the smallest entries of its encoder matrices set to zero, without our code."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    weights = load_file(target / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim == 2 and "embeddings" not in name:
            weight[weight.abs() < weight.abs().quantile(share)] = 0
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


# -- help -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [[verb] for verb in VERBS] + RECIPES, ids=" ".join)
def test_help_has_an_example(verb, capsys):
    assert main([*verb, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Example: pruneonce {' '.join(verb)}" in shown


@pytest.mark.parametrize("columns", ["80", "100"])
@pytest.mark.parametrize("verb", ["finetune", "transfer", "one-shot", "evaluate", "quantize", "product-quantize"])
def test_help_of_a_task_names_kinds_and_known_tasks(verb, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= int(columns) for line in shown.splitlines())
    assert "…" not in shown
    task = shown[shown.index("─ Task ─") :]
    words = task.replace("│", " ").replace(",", " ").replace(".", " ").split()
    assert {*recipe.KINDS, *recipe.PRESETS, "--task", "--kind", "--dev", "--labels"} <= set(words)
    assert ("--train" in words) == (verb != "evaluate")
    assert ("what the model is for" in " ".join(words)) == (verb == "evaluate")


def test_help_does_not_import_torch():
    code = "import sys; from pruneonce.cli import main; main(['--help']); print('torch' in sys.modules)"
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "False"
    assert all(verb in done.stdout for verb in VERBS)


def test_python_dash_m(here):
    done = python("-m", "pruneonce", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pruneonce 0.")


# -- mistakes ---------------------------------------------------------------------------------------------------


def fails(arguments, capsys, folder, code=2):
    """The one line on stderr; nothing else was printed, nothing written."""
    before = sorted(folder.rglob("*"))
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run", "Missing argument 'RECIPE'; see `pruneonce run --help`"),
        ("runn tiny", "Did you mean 'run'"),
        ("run tiny", "Missing option '--output'"),
        ("run tinny --output out", "no recipe named 'tinny'; did you mean 'tiny'?"),
        ("run nowhere.yaml --output out", "no recipe file at nowhere.yaml"),
        ("run tiny --output out --set prune.sparsty=0.5", "unknown key `prune.sparsty`; did you mean `sparsity`?"),
        ("run tiny --output out --set prune.sparsity=1", "`prune.sparsity`: Input should be less than 1"),
        ("run tiny --output out --set prune.sparsity=-0.1", "greater than or equal to 0"),
        ("run tiny --output out --set prune.sparsity", "--set takes key.key=value"),
        ("run tiny --output out --set =1", "--set takes key.key=value"),
        ("run tiny --output out --set corpus.source=./nowhere.txt", "no such file or folder: ./nowhere.txt"),
        ("run tiny --output out --set model=./nowhere", "no model folder at ./nowhere"),
        ("recipes show tinny", "did you mean 'tiny'?"),
        ("prune ./m --corpus c.txt --output out --sparsity 1", "`sparsity`: Input should be less than 1"),
        ("prune ./m --corpus c.txt --output out --objective mml", "`objective`: Input should be 'mlm'"),
        ("prune ./m --corpus c.txt --output out --set lerning_rate=1", "did you mean `learning_rate`?"),
        (
            "prune ./m --corpus c.txt --output out --set corpus.blok_length=1",
            "`corpus.blok_length`; did you mean `block_length`?",
        ),
        ("prune ./m --corpus c.txt --output out --set steps=null", "give exactly one of `steps` and `epochs`"),
        ("prune ./m --corpus c.txt --output out --set corpus=5", "`corpus`: Input should be"),
        ("prune ./m --corpus c.txt --output out", "no model folder at ./m"),
        ("prepare ./m --corpus c.txt --output out", "no model folder at ./m"),
        ("transfer ./m --train a --dev b --output out", "Missing option '--teacher'"),
        ("finetune ./m --train a.jsonl --dev b.jsonl --output out", "a.jsonl: No such file"),
        ("evaluate ./m", "give --dev, --test or both"),
        ("evaluate ./m", "or a known task by --task"),
        ("evaluate ./m --task sst2", "no model folder at ./m"),
        ("finetune ./m --output out", "no data: give --train and --dev, or a known task by --task"),
        ("finetune ./m --train a.jsonl --output out", "`task.dev` is missing"),
        ("finetune ./m --task sst3 --output out", "no task is known as 'sst3', only cola, sst2,"),
        ("finetune ./m --task sst3 --output out", "did you mean 'sst2'?"),
        ("finetune ./m --task sst2 --train a.jsonl --output out", "`task.dev` is missing"),
        ("finetune ./m --task stsb --labels a,b --output out", "unknown key `task.labels`"),
        (
            "finetune ./m --kind ner --train a --dev b --output out",
            "`task.kind` is 'ner'; it is one of classification,",
        ),
        ("finetune ./m --train a --dev b --set task.tags=ner --output out", "unknown key `task.tags`"),
        ("transfer ./m --teacher t --output out", "no data: give --train and --dev"),
        ("one-shot ./m --output out", "no data: give --train and --dev"),
        ("one-shot ./m --train a --dev b --output out", "cannot read a: No such file"),
        ("one-shot ./m --train a --dev b --output out --sparsity 1", "`sparsity`: Input should be less than 1"),
        ("one-shot ./m --train a --dev b --output out --set method=cram", "`method` cram has no place here"),
        ("one-shot ./m --train a --dev b --output out --set method=obrt", "the name of a method is one of obert"),
        ("one-shot ./m --train a --dev b --output out --set epochs=1", "unknown key `epochs`"),
        ("quantize ./m --post-training --output out", "no data: give --train and --dev"),
        ("quantize ./m --post-training --kind x --train a --dev b --output out", "`task.kind` is 'x'"),
        ("product-quantize ./m --teacher t --output out", "no data: give --train and --dev"),
        (
            "product-quantize ./m --teacher t --train a --dev b --set centroids=300 --output out",
            "`centroids`: Input should be less than or equal to 256",
        ),
        ("inspect ./m", "no model folder at ./m"),
        ("verify ./m --against ./n", "no model folder at ./m"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, message, shipped, here, capsys):
    assert message in fails(shlex.split(arguments), capsys, here)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "txet"], "no column 'txet', only 'text', 'label'"),
        (["--kind", "regression"], "line 1: 'label' has to be a number, not \"negative\""),
        (["--kind", "token-classification", "--set", "task.tokens=text"], "no column 'tags', only 'text', 'label'"),
        (["--labels", "good,bad"], "label 'negative' is none of 'good', 'bad'"),
        (["--set", "task.metric=acuracy"], "no metric 'acuracy'"),
        (["--train", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_a_mistake_in_a_task(options, message, encoder, task_files, here, capsys):
    arguments = ["finetune", str(encoder), *as_options(task_files), "--output", "out", *FAST, *options]
    assert message in fails(arguments, capsys, here)


def test_an_empty_corpus(encoder, here, capsys):
    (here / "empty.txt").write_text("")
    arguments = ["prune", str(encoder), "--corpus", "empty.txt", "--output", "out", "--objective", "hidden"]
    assert "too small: 0 tokens" in fails(arguments, capsys, here)


def test_output_that_cannot_be_written(shipped, encoder, corpus_file, here, capsys):
    (here / "file").write_text("")
    assert "cannot write to file/out" in fails(["run", "tiny", "--output", "file/out"], capsys, here)
    prune = ["prune", str(encoder), "--corpus", str(corpus_file), "--objective", "hidden", "--output", "file/out"]
    assert "Not a directory" in fails(prune, capsys, here)


def test_output_of_something_else_is_left_alone(shipped, here, capsys):
    (here / "out").mkdir()
    (here / "out" / "thesis.txt").write_text("precious")
    assert "not empty" in fails(["run", "tiny", "--output", "out"], capsys, here)


def broken(*args, **kwargs):
    raise ValueError("over\nthe edge")


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def test_our_own_mistake_is_called_that(monkeypatch, here, capsys):
    monkeypatch.setattr("pruneonce.sparsity.inspect_model", broken)
    line = fails(["inspect", "m"], capsys, here, code=70)
    assert "ValueError: over the edge (this is a bug in pruneonce; run it again with --debug" in line


def test_an_interruption(monkeypatch, capsys):
    monkeypatch.setattr("pruneonce.sparsity.inspect_model", interrupted)
    assert main(["inspect", "m"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("arguments", ["--debug recipes show no.yaml", "recipes show no.yaml --debug"])
def test_debug_shows_the_traceback(arguments, capsys):
    assert main(shlex.split(arguments)) == 2
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.splitlines()[-1] == "error: no recipe file at no.yaml"


def test_debug_by_environment(monkeypatch, capsys):
    monkeypatch.setenv("PRUNEONCE_DEBUG", "1")
    assert main(["recipes", "show", "no.yaml"]) == 2
    assert "Traceback" in capsys.readouterr().err


# -- recipes ----------------------------------------------------------------------------------------------------


def test_recipes_list(shipped, capsys):
    assert main(["recipes", "list"]) == 0
    assert "a tiny one" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny"))


def test_what_recipes_show_prints_is_the_same_recipe(shipped, here, capsys):
    assert main(["recipes", "show", "tiny"]) == 0
    (here / "mine.yaml").write_text(capsys.readouterr().out)
    assert recipe.load("mine.yaml") == recipe.load("tiny")


def test_recipes_copy_stands_alone_and_never_overwrites(shipped, here, capsys):
    assert main(["recipes", "copy", "tiny"]) == 0
    assert "pruneonce run tiny.yaml" in capsys.readouterr().out
    assert recipe.load("tiny.yaml") == recipe.load("tiny")
    assert "extends" not in (here / "tiny.yaml").read_text()
    (here / "tiny.yaml").write_text("mine")
    assert "tiny.yaml exists" in fails(["recipes", "copy", "tiny"], capsys, here)
    assert (here / "tiny.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", recipe.shipped())
def test_a_shipped_recipe_can_be_copied(name, here):
    assert main(["recipes", "copy", name, "mine.yaml"]) == 0
    assert recipe.load("mine.yaml") == recipe.load(name)


# -- verbs ------------------------------------------------------------------------------------------------------


def test_run_ends_with_results_and_report(shipped, here, capsys):
    assert main(["run", "tiny", "--output", "out", "--set", "baselines=null", "--set", "prune.sparsity=0.5"]) == 0
    shown = capsys.readouterr().out.splitlines()
    summary = json.loads((here / "out" / "summary.json").read_text())
    dense, sparse = summary["results"]
    first = next(number for number, line in enumerate(shown) if line.startswith("mood"))
    megabytes = [f"{row['size']['bytes'] / 1e6:.1f}" for row in (dense, sparse)]
    assert shown[first].split()[:4] == ["mood", "dense", f"{dense['value']:.4f}", megabytes[0]]
    found = ["sparse", f"{sparse['value']:.4f}", f"{sparse['recovery']:.1%}", megabytes[1]]
    assert shown[first + 1].split()[:4] == found
    assert shown[-1] == "report: out/report.html"
    assert (here / "out" / "report.html").is_file()
    assert summary["sparsity"]["target"] == 0.5


def test_stage_verbs_one_after_the_other(encoder, corpus_file, task_files, here, capsys):
    prune = "--objective hidden --steps 4 --sparsity 0.5 --set every=1 --set batch_size=8 --set corpus.block_length=16"
    assert main(["prune", str(encoder), "--corpus", str(corpus_file), "--output", "sparse", *prune.split()]) == 0
    assert "made sparse: 50.0% of the encoder" in capsys.readouterr().out

    task = as_options(task_files)
    assert main(["finetune", str(encoder), *task, "--output", "dense", *FAST]) == 0
    following = capsys.readouterr().out.splitlines()[-1]
    assert following == f"next: pruneonce transfer sparse --teacher dense {shlex.join(task)} --output task"

    assert main([*shlex.split(following)[2:], *FAST]) == 0
    following = capsys.readouterr().out.splitlines()[-1]
    assert following == "next: pruneonce verify task --against sparse"
    assert main(shlex.split(following)[2:]) == 0
    assert capsys.readouterr().out.startswith("all ")

    assert main(["evaluate", "task", "--test", str(task_files / "test.jsonl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["test"]
    assert 0 <= found["test"]["accuracy"] <= 1
    assert main(["evaluate", "task", "--test", str(task_files / "test.jsonl")]) == 0
    assert f"{found['test']['accuracy']:.4g}" in capsys.readouterr().out

    quantize = ["quantize", "task", *task, "--output"]
    assert main([*quantize, "int8", "--teacher", "dense", *FAST]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "quantized: 14 Linears" in shown[0]
    assert shown[-1] == "next: pruneonce export int8 --output int8-onnx"
    assert main(shlex.split(shown[-1])[2:]) == 0
    assert "made int8-onnx:" in capsys.readouterr().out
    assert (here / "int8-onnx" / "model.onnx").is_file()
    int4 = ["--post-training", "--set", "bits=4", "--set", "granularity=group", "--set", "group_size=16"]
    assert main([*quantize, "int4", *int4]) == 0
    assert "int4, a scale per group of 16, inputs fp32" in " ".join(capsys.readouterr().out.split())

    codebooks = ["--teacher", "dense", *FAST, "--set", "centroids=16"]
    assert main(["product-quantize", "task", *task, "--output", "pq", *codebooks]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"size as codebooks: 0\.0\d MB \(codes .*, centroids .*, masks .*, rest .*\)", shown[-3])
    assert shown[-1] == f"next: pruneonce evaluate pq --dev {task_files / 'dev.jsonl'}"
    assert main(shlex.split(shown[-1])[2:]) == 0


def test_one_shot_of_a_finished_model_then_transfer(encoder, task_files, here, capsys):
    task = as_options(task_files)
    assert main(["finetune", str(encoder), *task, "--output", "dense", *FAST]) == 0
    obert = ["--set", "method.name=obert", "--set", "method.gradients=4", "--set", "rounds=2"]
    capsys.readouterr()
    assert main(["one-shot", "dense", *task, "--sparsity", "0.5", "--output", "pruned", *obert]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2] == "made pruned: 50.0% of the encoder's Linear weights are zero"
    assert shown[-1] == f"next: pruneonce transfer pruned --teacher dense {shlex.join(task)} --output task"
    assert main([*shlex.split(shown[-1])[2:], *FAST]) == 0
    assert main(["verify", "task", "--against", "pruned"]) == 0
    again = ["one-shot", "pruned", *task, "--output", "again", "--sparsity"]
    assert "has 50.0% of zeros already" in fails([*again, "0.4"], capsys, here)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --teacher, to train on the grid, or --post-training"),
        (["--teacher", "dense", "--post-training"], "give either --teacher"),
        (["--teacher", "dense", "--set", "bits=4"], "`bits: 4` and `granularity: group` go together"),
        (["--post-training", "--set", "averaging=0.1"], "unknown key `averaging`"),
    ],
)
def test_mistakes_in_quantizing(options, message, task_files, here, capsys):
    assert main(["quantize", "task", *as_options(task_files), "--output", "int8", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(here.iterdir())


def test_options_reach_the_stage(monkeypatch, encoder, here):
    given = {}

    def transfer(model, task, settings, output, **rest):
        given.update(task=task, settings=settings, **rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "transfer", transfer)
    main(
        shlex.split(
            "transfer m --teacher t --hub glue --subset mnli --train train --dev dev --text a --text-pair b --label c "
            "--labels 'x, y' --set task.max_length=64 --set steps=5 --seed 7 --output out"
        )
    )
    assert given["task"] == recipe.Classification(
        source="glue",
        subset="mnli",
        train="train",
        dev="dev",
        text="a",
        text_pair="b",
        label="c",
        labels=["x", "y"],
        max_length=64,
    )
    settings = given["settings"]
    assert (settings.steps, settings.epochs, settings.learning_rate) == (5, None, 1.5e-4)
    assert (given["teacher"], given["seed"]) == ("t", 7)


def test_a_known_task_over_files(monkeypatch, here):
    """Its columns and its kind, and nothing of where the hub has it."""
    given = {}

    def finetune(model, task, settings, output, **rest):
        given.update(task=task)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "finetune", finetune)
    main(shlex.split("finetune m --task mnli --train a.jsonl --dev b.jsonl --output out"))
    assert given["task"] == recipe.Classification(
        train="a.jsonl", dev="b.jsonl", text="premise", text_pair="hypothesis"
    )
    main(shlex.split("finetune m --task mnli --output out"))
    assert given["task"] == recipe.make_task({"preset": "mnli"})
    main(
        shlex.split(
            "finetune m --task mnli --hub my/mnli --train train --dev dev --output out --set task.held_out=null"
        )
    )
    assert (given["task"].source, given["task"].splits()) == ("my/mnli", {"train": "train", "dev": "dev"})


@pytest.fixture
def evaluated(monkeypatch):
    """What `evaluate` hands over, of models with these configurations."""
    given = {}

    def evaluate(model, task, *, splits, names_of_model):
        given.update(task=task, splits=splits)
        assert names_of_model
        return {"dev": {"accuracy": 1.0}}

    def of(architecture, *labels):
        names = {"num_labels": len(labels), "id2label": dict(enumerate(labels))}
        config = type("Config", (), {"architectures": [architecture], **names})
        monkeypatch.setattr("pruneonce.models.load_config", lambda model: config)
        return given

    monkeypatch.setattr(stages, "evaluate", evaluate)
    return of


def test_evaluate_on_a_known_task(evaluated, capsys):
    given = evaluated("BertForSequenceClassification", "yes", "maybe", "no")
    assert main(["evaluate", "m", "--task", "mnli"]) == 0
    assert given["splits"] is None, "all but train"
    assert given["task"].splits() == {
        "train": "validation_matched",  # nothing is read for training
        "dev": "validation_matched",
        "mismatched": "validation_mismatched",
    }
    assert given["task"].labels is None
    assert main(["evaluate", "m", "--task", "mnli", "--test", "x.jsonl"]) == 0
    assert given["splits"] == ["test"]
    assert given["task"].splits() == dict.fromkeys(("train", "dev", "test"), "x.jsonl")


def test_evaluate_knows_what_a_model_is_for(evaluated, capsys):
    given = evaluated("BertForTokenClassification", "NOUN", "VERB")
    assert main(["evaluate", "m", "--dev", "x.jsonl", "--set", "task.tags=pos", "--set", "task.max_length=64"]) == 0
    found = given["task"]
    assert (found.kind, found.tags, found.labels, found.max_length) == ("token-classification", "pos", None, 64)
    assert found.metric == "accuracy", "there is no f1 of these"
    given = evaluated("BertForSequenceClassification", "LABEL_0")
    assert main(["evaluate", "m", "--dev", "x.jsonl"]) == 0
    assert given["task"] == recipe.Regression(train="x.jsonl", dev="x.jsonl")
    assert main(["evaluate", "m", "--dev", "x.jsonl", "--kind", "reranking"]) == 0
    assert given["task"].kind == "reranking"
    assert main(["evaluate", "m", "--dev", "x.jsonl", "--set", "epochs=3"]) == 2
    assert "unknown key `epochs`; `evaluate` takes `task.KEY`" in capsys.readouterr().err


def test_evaluate_a_regression_without_saying_that_it_is_one(encoder, here, capsys):
    rows = [{"text": f"the river was {word}", "label": number} for number, word in enumerate(("fine", "bad", "good"))]
    (here / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--train", "x.jsonl", "--dev", "x.jsonl", "--set", "task.max_length=16"]
    assert main(["finetune", str(encoder), "--kind", "regression", *data, "--output", "dense", *FAST]) == 0
    following = capsys.readouterr().out.splitlines()[-1]
    assert "--kind regression" in following
    assert "--set task.max_length=16 --output task" in following
    assert main(["evaluate", "dense", "--dev", "x.jsonl", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["dev"]) == ["pearson", "spearman", "examples"]
    assert main(["evaluate", "dense", "--dev", "x.jsonl", "--label", "stars"]) == 2
    assert "no column 'stars', only 'text', 'label'" in capsys.readouterr().err


def test_inspect(encoder, tmp_path, capsys):
    sparse = zeroed(encoder, tmp_path / "sparse")
    assert main(["inspect", str(sparse), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["encoder"] == pytest.approx(0.5, abs=0.01)
    assert found["bytes"] == (sparse / "model.safetensors").stat().st_size
    assert main(["inspect", str(sparse)]) == 0
    shown = capsys.readouterr().out
    assert all(layer["name"] in shown for layer in found["layers"])
    assert found["pattern"] in shown


def test_verify(encoder, tmp_path, capsys):
    sparse, half = zeroed(encoder, tmp_path / "sparse", 0.9), zeroed(encoder, tmp_path / "half")
    assert main(["verify", str(sparse), "--against", str(half)]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    weights = load_file(sparse / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    row, column = (weights[name] == 0).nonzero()[0]
    weights[name][row, column] = 1
    (tmp_path / "child").mkdir()
    child = zeroed(sparse, tmp_path / "again", 0)
    save_file(weights, child / "model.safetensors", metadata={"format": "pt"})
    assert main(["verify", str(child), "--against", str(sparse)]) == 1
    offending = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("encoder.")]
    assert [(line[0], line[-1]) for line in offending] == [(name, "1")]
