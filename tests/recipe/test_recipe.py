"""Recipes: the shipped ones hold the paper's values, and a mistake in one's own is one line that says what is wrong."""

import pytest
import yaml

from pruneonce import recipe
from pruneonce.errors import UserError
from pruneonce.sparsity import PruningSchedule

PAPER = {"bert-base-85": 0.85, "bert-base-90": 0.9, "bert-large-90": 0.9, "distilbert-85": 0.85, "distilbert-90": 0.9}
MINIMAL = {
    "name": "mine",
    "model": "some/encoder",
    "corpus": {"source": "text.txt"},
    "prune": {"steps": 100, "learning_rate": 1e-4},
    "teacher": {"epochs": 2, "learning_rate": 2e-5},
    "transfer": {"epochs": 3, "learning_rate": 1e-4},
    "tasks": {"sst2": {"train": "train.jsonl", "dev": "dev.jsonl"}},
}


@pytest.fixture
def write(tmp_path):
    """Writes a recipe file (text, or what MINIMAL is changed to) and returns its path."""

    def write(content=None, name="mine.yaml"):
        values = content if isinstance(content, str) else yaml.safe_dump(MINIMAL if content is None else content)
        (tmp_path / name).write_text(values)
        return str(tmp_path / name)

    return write


def test_a_mistake_is_one_line_whatever_it_quotes(write):
    assert "\n" not in mistake(write({**MINIMAL, "tasks": {"\n": ""}}))
    assert str(UserError("no\r\n\n  such\u2028thing\n")) == "no such thing"


def mistake(path, *overrides):
    with pytest.raises(UserError) as caught:
        recipe.load(path, list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def at(values, path):
    for key in path.split("."):
        values = values[key] if isinstance(values, dict) else getattr(values, key)
    return values


# -- shipped recipes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe.shipped())
def test_a_shipped_recipe_loads_under_its_name_and_says_what_it_is(name):
    loaded = recipe.load(name)
    assert loaded.name == name
    assert loaded.description


def test_bases_are_not_offered_as_recipes():
    assert {*PAPER, "embedding-90", "minilm-90"} <= set(recipe.shipped())
    assert not [name for name in recipe.shipped() if name.startswith("_")]


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("corpus.block_length", 512),
        ("corpus.validation", 0.05),
        ("prepare.steps", 100_000),
        ("prepare.warmup", 0.01),
        ("prepare.weight_decay", 0.01),
        ("prepare.mlm_probability", 0.15),
        ("prune.objective", "mlm"),
        ("prune.steps", 100_000),
        ("prune.warmup", 0.01),
        ("prune.weight_decay", 0.01),
        ("prune.mlm_probability", 0.15),
        ("prune.initial_sparsity", 0.0),
        ("prune.allocation", "uniform"),
        ("prune.nested", False),
        ("prune.rewind", True),
        ("prune.temperature", 2.0),
        ("prune.task_weight", 0.5),
        ("prune.kd_weight", 0.5),
        ("transfer.epochs", 9),
        ("transfer.batch_size", 32),
        ("transfer.temperature", 2.0),
        ("transfer.task_weight", 0.0),
        ("transfer.kd_weight", 1.0),
        ("transfer.hidden_weight", 0.0),
        ("quantize.int8.hidden_weight", 0.0),
        ("quantize.int8.epochs", 3),
        ("quantize.int8.granularity", "tensor"),
        ("quantize.int8.averaging", 0.01),
        ("quantize.int8.embeddings", False),
    ],
)
def test_paper_recipes_share_the_papers_values(name, key, value):
    assert at(recipe.load(name), key) == value


@pytest.mark.parametrize("name", PAPER)
def test_each_paper_recipe(name):
    loaded = recipe.load(name)
    assert loaded.prune.sparsity == PAPER[name]
    assert loaded.prepare.batch_size * loaded.prepare.accumulate == 256
    assert loaded.prune.batch_size * loaded.prune.accumulate == 256
    assert loaded.transfer.learning_rate == (1.5e-4 if "distilbert" in name else 1e-4)
    assert name.rsplit("-", 1)[0] in loaded.model
    lengths = {name: task.max_length for name, task in loaded.tasks.items()}
    assert lengths == {"sst2": 128, "mnli": 128, "qqp": 128, "qnli": 128, "squad": 384}
    assert "five tasks" in loaded.description
    schedule = PruningSchedule.of(loaded.prune, loaded.prune.steps)
    assert (schedule.start, schedule.end, schedule.until, schedule.every) == (0, 50_000, 80_000, 1_000)


def test_the_published_encoder_has_the_papers_transfer_and_no_corpus():
    published, pruned = recipe.load("pruneofa-published"), recipe.load("bert-base-90")
    assert (published.corpus, published.prune, published.prepare) == (None, None, None)
    for section in ("model", "teacher", "transfer", "quantize", "tasks"):
        assert getattr(published, section) == getattr(pruned, section), section


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("sst2", ("sentence", None)),
        ("mnli", ("premise", "hypothesis")),
        ("qqp", ("question1", "question2")),
        ("qnli", ("question", "sentence")),
    ],
)
def test_glue_columns_and_splits(task, columns):
    found = recipe.load("bert-base-90").tasks[task]
    assert (found.source, found.subset, found.text, found.text_pair) == ("nyu-mll/glue", task, *columns)
    suffix = "_matched" if task == "mnli" else ""
    assert (found.train, found.dev) == ("train", f"validation{suffix}")
    assert found.test is None  # never GLUE's unlabelled test split
    assert found.held_out == ({"mismatched": "validation_mismatched"} if task == "mnli" else {})


@pytest.mark.parametrize("name", PAPER)
def test_squad_has_settings_of_its_own(name):
    loaded = recipe.load(name)
    task, small = loaded.tasks["squad"], "distilbert" in name
    assert (task.kind, task.source, task.doc_stride) == ("question-answering", "rajpurkar/squad", 128)
    transfer, int8 = loaded.transfer_for("squad"), loaded.quantize_for("squad").int8
    assert (transfer.epochs, transfer.batch_size, transfer.learning_rate) == (8, 12, 1.8e-4 if small else 1.5e-4)
    assert (transfer.warmup, transfer.weight_decay) == ((0.05, 0.01) if small else (0.0, 0.0))
    assert (int8.epochs, int8.learning_rate) == (2, 1e-5)
    assert (transfer.hidden_weight, int8.hidden_weight) == (0.0, 0.0)


def test_the_embedding_recipe_needs_no_vocabulary_head_and_no_task():
    loaded = recipe.load("embedding-90")
    assert (loaded.prune.objective, loaded.prepare, loaded.tasks) == ("hidden", None, {})
    mine = "tasks.mine={kind: embedding, train: sentences.txt, dev: pairs.jsonl}"
    assert recipe.load("embedding-90", [mine]).transfer_for("mine").task_weight == 0


# -- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prun.steps=1", "unknown key `prun`; did you mean `prune`?"),
        ("prune.sparcity=0.5", "unknown key `prune.sparcity`; did you mean `sparsity`?"),
        ("corpus.blocklength=64", "unknown key `corpus.blocklength`; did you mean `block_length`?"),
        ("baselines.one-shot=true", "unknown key `baselines.one-shot`; did you mean `one_shot`?"),
        ("tasks.sst2.lable=y", "unknown key `tasks.sst2.lable`; did you mean `label`?"),
        ("tasks.sst2.transfer.lerning_rate=1", "`tasks.sst2.transfer.lerning_rate`; did you mean `learning_rate`?"),
        ("tasks.sst2.teacher.temperature=2", "unknown key `tasks.sst2.teacher.temperature`"),
        ("zzz=1", "unknown key `zzz`"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(write, override, message):
    assert mistake(write(), override).endswith(message)


@pytest.mark.parametrize("value", ["-0.1", "1.0", "1.5", ".nan", ".inf", "most"])
def test_sparsity_outside_0_1_is_refused(write, value):
    assert mistake(write(), f"prune.sparsity={value}").startswith("`prune.sparsity`: Input should be")


@pytest.mark.parametrize("value", [0, 0.5, "5e-1"])
def test_sparsity_inside_0_1_is_taken(write, value):
    assert recipe.load(write(), [f"prune.sparsity={value}"]).prune.sparsity == float(value)


def test_steps_and_epochs(write):
    both = {**MINIMAL, "prune": {"steps": 100, "epochs": 1, "learning_rate": 1e-4}}
    assert mistake(write(both)) == "`prune`: give exactly one of `steps` and `epochs`"
    assert mistake(write(), "prune.steps=null") == "`prune`: give exactly one of `steps` and `epochs`"
    over = recipe.load(write(), ["prune.epochs=2"]).prune
    assert (over.steps, over.epochs) == (None, 2)


@pytest.mark.parametrize("stage", ["prepare", "prune"])
def test_epochs_of_a_stream_are_refused(write, stage):
    overrides = ["corpus.streaming=true", f"{stage}.learning_rate=1e-4"]
    message = f"`{stage}.epochs` needs a corpus of known length; with `corpus.streaming` give `{stage}.steps`"
    assert mistake(write(), *overrides, f"{stage}.epochs=2") == f"`recipe`: {message}"
    assert recipe.load(write(), [*overrides, f"{stage}.steps=2"]).corpus.streaming
    assert recipe.load(write(), [*overrides[1:], f"{stage}.epochs=2"]), "not of text whose length is known"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prune.learning_rate=0", "`prune.learning_rate`: Input should be greater than 0 (given: 0)"),
        ("prune.learning_rate=null", "`prune.learning_rate` is missing"),
        ("prune.objective=nsp", "`prune.objective`: Input should be 'mlm', 'hidden' or 'both' (given: 'nsp')"),
        ("prune.initial_sparsity=0.95", "`prune`: `initial_sparsity` is above `sparsity`"),
        ("name=../up", "`name`: String should match"),
        ("tasks.a/b={train: a, dev: b}", "`recipe`: task name 'a/b': use letters, digits, - and _"),
        ("transfer=null", "`recipe`: a recipe with tasks needs `transfer`"),
        ("teacher=null", "`recipe`: task 'sst2' needs `teacher` settings or a `teacher_model`"),
        ("tasks.sst2.transfer.batch_size=0", "`tasks.sst2.transfer.batch_size`: Input should be greater than or equal"),
        ("tasks.sst2.transfer={steps: 9, epochs: 9}", "`tasks.sst2.transfer`: give exactly one of `steps` and `epo"),
        ("tasks.sst2.teacher.steps=0", "`tasks.sst2.teacher.steps`: Input should be greater than or equal to 1"),
    ],
)
def test_a_value_that_cannot_be_is_named(write, override, message):
    assert mistake(write(), override).startswith(message)


def test_teacher_settings_that_would_change_nothing_are_refused(write):
    given = "tasks.sst2.teacher_model=some/teacher"
    assert recipe.load(write(), [given, "teacher=null"]).teacher is None
    assert "its `teacher` changes nothing" in mistake(write(), given, "tasks.sst2.teacher.epochs=1")


def test_all_mistakes_are_named_at_once(write):
    found = mistake(write(), "prune.sparsity=2", "tasks.sst2.lable=y", "model=null")
    assert [part.split("`")[1] for part in found.split("; ") if "did you mean" not in part] == [
        "model",
        "prune.sparsity",
        "tasks.sst2.lable",
    ]


# -- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: [", "is not valid YAML"),
        ("name: !!python/object/apply:os.system ['true']", "is not valid YAML: could not determine a constructor"),
        ("- name: x", "is not a recipe: it should be a mapping"),
        ("", "is not a recipe: it should be a mapping"),
        ("1: 2", "`1`: Keys should be strings"),
        ("extends: nothing-like-it", "extends 'nothing-like-it': no recipe named 'nothing-like-it'"),
        ("extends: ./gone.yaml", "extends './gone.yaml': no recipe file at gone.yaml"),
    ],
)
def test_a_file_that_is_no_recipe(write, content, message):
    assert message in mistake(write(content))


def test_a_python_tag_is_not_run(write, tmp_path):
    mark = tmp_path / "mark"
    mistake(write(f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]"))
    assert not mark.exists()


def test_a_file_that_is_not_there(tmp_path):
    assert mistake(str(tmp_path / "gone.yaml")) == f"no recipe file at {tmp_path / 'gone.yaml'}"
    assert mistake(str(tmp_path)) == f"no recipe file at {tmp_path}"


def test_a_file_in_another_encoding(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    assert "is not valid YAML" in mistake(str(tmp_path / "latin.yaml"))


def test_an_unknown_name_hints_at_the_nearest():
    assert mistake("bert-bass-90") == "no recipe named 'bert-bass-90'; did you mean 'bert-base-90'?"
    assert mistake("qwertz") == "no recipe named 'qwertz'; see `pruneonce recipes list`"


# -- overrides --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("prune.learning_rate=1e-4", "prune.learning_rate", 1e-4),
        ("prune.steps=40_000", "prune.steps", 40_000),
        ("corpus.source=a=b.txt", "corpus.source", "a=b.txt"),
        ("report_to=[tensorboard, wandb]", "report_to", ["tensorboard", "wandb"]),
        ("report_to=[]", "report_to", []),
        ("tasks.sst2.labels=[bad, good]", "tasks.sst2.labels", ["bad", "good"]),
        ("tasks.new={train: a.csv, dev: b.csv}", "tasks.new.train", "a.csv"),
        ("tasks.new={train: a.csv, dev: b.csv}", "tasks.sst2.train", "train.jsonl"),
        ("baselines.gradual={epochs: 3, learning_rate: 1e-4}", "baselines.gradual.kd_weight", 1.0),
        ("prune.warmup=null", "prune.warmup", 0.0),
        ("tasks.sst2=null", "tasks", {}),
    ],
)
def test_overrides(write, override, key, value):
    assert at(recipe.load(write(), [override]), key) == value


def test_overrides_make_a_task_key_by_key(write):
    made = recipe.load(write(), ["tasks.new.train=a.csv", "tasks.new.dev=b.csv", "tasks.new.transfer.steps=5"])
    assert (made.tasks["new"].dev, made.transfer_for("new").steps, made.transfer_for("new").epochs) == (
        "b.csv",
        5,
        None,
    )
    assert made.transfer_for("sst2").epochs == 3


@pytest.mark.parametrize("override", ["seed", "=7", "a..b=7", ".a=7", "seed=[", "seed={a"])
def test_an_override_that_is_none(write, override):
    assert mistake(write(), override).startswith("--set ")


def test_overrides_do_not_reach_the_next_load(write):
    path = write()
    recipe.load(path, ["prune.sparsity=0.5"])
    assert recipe.load(path).prune.sparsity == 0.9


# -- extends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "base.yaml", "../{folder}/base", "{path}/base.yaml"])
def test_extends_a_file_beside_it(write, tmp_path, name):
    write(name="base.yaml")
    name = name.format(folder=tmp_path.name, path=tmp_path)
    mine = recipe.load(write(f"extends: {name}\nname: other\nprune: {{sparsity: 0.5}}"))
    assert (mine.name, mine.prune.sparsity, mine.prune.steps) == ("other", 0.5, 100)


def test_extends_a_shipped_recipe_whose_own_bases_lie_beside_it(write):
    mine = recipe.load(write("extends: distilbert-85\nname: other\nprune: {epochs: 1}\ntasks: {mnli: null}"))
    assert (mine.prune.sparsity, mine.prune.steps, mine.prune.epochs) == (0.85, None, 1)
    assert set(mine.tasks) == {"sst2", "qqp", "qnli", "squad"}


def test_extends_a_shipped_base(write):
    mine = recipe.load(write("extends: _prune-ofa\nname: other\nmodel: some/encoder"))
    assert mine.prune.end == 50_000


def test_extends_through_three_files(write):
    write(name="first.yaml")
    write("extends: first\nprune: {sparsity: 0.5, every: 2}", "second.yaml")
    mine = recipe.load(write("extends: second\nprune: {every: 3}"))
    assert (mine.prune.sparsity, mine.prune.every, mine.prune.steps) == (0.5, 3, 100)


def test_extends_in_a_circle(write):
    write("extends: mine", "other.yaml")
    assert mistake(write("extends: other")).endswith("recipes extend one another in a circle")
    assert mistake(write("extends: mine")).endswith("recipes extend one another in a circle")


def test_a_pattern_without_quotes_is_one_line(write):
    """YAML reads 2:4 as 124, two hours and four minutes."""
    with pytest.raises(UserError, match=r'`prune.pattern`: a pattern such as "2:4" wants quotes: without them YAML'):
        recipe.load(write(yaml.safe_dump(MINIMAL).replace("  steps: 100", "  steps: 100\n  pattern: 2:4")))
    quoted = yaml.safe_dump(MINIMAL).replace("  steps: 100", "  steps: 100\n  sparsity: 0.91\n  pattern: 6:64")
    assert recipe.load(write(quoted)).prune.pattern == "6:64"


def test_the_least_sparsity_of_a_pattern_is_said_and_taken():
    settings = {"pattern": "6:64", "steps": 1, "learning_rate": 1e-3}
    with pytest.raises(UserError, match=r"has at least 90.63 % of zeros; raise `sparsity` to 0.9063$"):
        recipe.validate(recipe.Prune, {**settings, "sparsity": 0.9})
    assert recipe.validate(recipe.Prune, {**settings, "sparsity": 0.9063}).sparsity == 0.9063
