"""A teacher with another tokenizer reads the texts by its own, or is refused where tokens are compared."""

import json
import re
import shutil

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from shared.models import SPECIAL, WORDS
from shared.settings import KINDS

from pruneonce import stages
from pruneonce.data import vocabularies
from pruneonce.errors import UserError
from pruneonce.models import load_tokenizer
from pruneonce.recipe import Classification, Corpus, Prune, Recipe, SweptTeacher, SweptTransfer, Training, Transfer
from pruneonce.runs import pipeline
from pruneonce.tasks import kind_of
from pruneonce.tasks.teachers import Reader, input_of_teacher, with_input_of_teacher, with_teacher

TRANSFER = {"steps": 3, "batch_size": 8, "learning_rate": 1e-3, "dropout": 0.0}
PRUNE = {"objective": "hidden", "steps": 1, "learning_rate": 1e-3, "sparsity": 0.6}
PER_TEXT = ["classification", "regression", "reranking", "embedding"]


def edited(folder, edit):
    """Change tokenizer.json in place."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return folder


def in_another_order(source, target):
    """Return a copy of a model with its vocabulary, and the rows of its table with it, in another order."""
    order = {word: len(WORDS) - 1 - i + len(SPECIAL) for i, word in enumerate(WORDS)}
    shutil.copytree(source, target)
    before = load_tokenizer(source).get_vocab()

    def reorder(content):
        content["model"]["vocab"].update(order)

    weights = load_file(target / "model.safetensors")
    [name] = [name for name in weights if name.endswith("word_embeddings.weight")]
    table = weights[name].clone()
    for word, index in order.items():
        table[index] = weights[name][before[word]]
    save_file({**weights, name: table}, target / "model.safetensors", metadata={"format": "pt"})
    return edited(target, reorder)


@pytest.fixture(scope="module")
def models(encoder, tmp_path_factory):
    """By kind: a task, its sparse model, a teacher, and the same teacher with its words in another order."""
    folder = tmp_path_factory.mktemp("teachers")
    sparse = stages.prune_one_shot(encoder, Prune(**PRUNE), folder / "sparse")
    made = {}

    def make(kind):
        if kind not in made:
            task = KINDS[kind](folder)
            teacher = encoder
            if kind != "embedding":
                teacher = stages.finetune(encoder, task, Training(**TRANSFER), folder / f"{kind}-teacher")
            (other := folder / f"{kind}-other").parent.mkdir(exist_ok=True)
            in_another_order(teacher, other)
            (other / "pruneonce.json").unlink(missing_ok=True)
            made[kind] = task, sparse, teacher, other
        return made[kind]

    return make


@pytest.mark.parametrize("kind", PER_TEXT)
def test_words_in_another_order_teach_the_same(kind, models, tmp_path):
    """The other teacher gives the same outputs for every text, so the students are equal."""
    task, sparse, teacher, other = models(kind)
    settings = Transfer(**TRANSFER, hidden_weight=0)
    first = stages.transfer(sparse, task, settings, tmp_path / "first", teacher=teacher)
    second = stages.transfer(sparse, task, settings, tmp_path / "second", teacher=other)
    assert_same_weights(first, second)


def assert_same_weights(one, other):
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("weight", ["hidden_weight", "relation_weight"])
def test_compared_tokens_have_to_be_the_same(weight, models, tmp_path):
    task, sparse, _, other = models("classification")
    settings = Transfer(**TRANSFER, **{"hidden_weight": 0, weight: 1.0})
    message = (
        r"the teacher .* has another vocabulary than the model \(53 and 53 tokens; first difference: token 5 is "
        f"'garden' and 'the'\\), but `{weight}` compares token by token; set `{weight}` to 0"
    )
    with pytest.raises(UserError, match=message):
        stages.transfer(sparse, task, settings, tmp_path / "student", teacher=other)


@pytest.mark.parametrize("kind", ["token-classification", "question-answering"])
def test_kinds_with_an_output_for_each_token(kind, models, tmp_path):
    task, sparse, _, other = models(kind)
    with pytest.raises(
        UserError, match=f"a teacher of {kind} compares token by token; give a teacher with the model's"
    ):
        stages.transfer(sparse, task, Transfer(**TRANSFER, hidden_weight=0), tmp_path / "student", teacher=other)


def test_a_run_refuses_it_before_it_begins(models, encoder, corpus_file, tmp_path):
    task, _, _, other = models("token-classification")
    recipe = Recipe(
        name="other",
        model=str(encoder),
        corpus=Corpus(source=str(corpus_file), block_length=16),
        prune=Prune(**PRUNE),
        tasks={"tags": task.model_copy(update={"teacher_model": str(other)})},
        teacher=SweptTeacher(**TRANSFER),
        transfer=SweptTransfer(**TRANSFER, hidden_weight=0),
    )
    with pytest.raises(UserError, match="has another vocabulary than the model"):
        pipeline.check(recipe, tmp_path)


def test_pruning_compares_every_token(encoder, corpus_file, tmp_path):
    other = in_another_order(encoder, tmp_path / "other")
    sparse = stages.prune_one_shot(encoder, Prune(**PRUNE), tmp_path / "sparse")
    corpus = Corpus(source=str(corpus_file), block_length=16)
    settings = Prune(**{**PRUNE, "sparsity": 0.8, "initial_sparsity": 0.6})
    with pytest.raises(UserError, match=r"has another vocabulary than the model .* compared with .* at every token"):
        stages.prune(sparse, corpus, settings, tmp_path / "sparser", teacher=other)


def normalizer_in_a_list(content):
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"]]}


def one_token_more(content):
    content["model"]["vocab"]["never"] = len(content["model"]["vocab"])


@pytest.mark.parametrize("edit", [normalizer_in_a_list, one_token_more])
def test_files_that_say_the_same_in_another_way(edit, encoder, models, tmp_path):
    """Tokenizers whose tokens are equal are no reason to refuse a teacher, nor to read texts twice."""
    task, _, teacher, _ = models("token-classification")
    kind, rows = kind_of(task), Dataset.from_list([{"tokens": ["the", "river"], "tags": [0, 1]}])
    student, other = (Reader(kind, load_tokenizer(teacher), "") for _ in range(2))
    assert other.like(student)
    changed = edited(shutil.copytree(encoder, tmp_path / "changed"), edit)
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "vocab_size": 54}))
    other = Reader.of(kind, changed)
    assert not other.like(student)
    assert vocabularies.difference(student.tokenizer, other.tokenizer) == ""
    ours, theirs = (one.kind.encode(rows, one.tokenizer, training=True) for one in (student, other))
    settings = Transfer(**TRANSFER, hidden_weight=1.0)
    assert with_input_of_teacher(ours, theirs, student, other, settings) is ours


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sep_token": "[MASK]"}, r"another `sep_token` than the model \('\[MASK\]' and '\[SEP\]'\)"),
        ({}, "other tokens than the model for the text .The quick"),
    ],
)
def test_the_difference_is_named(change, message, encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "changed")
    if change:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    else:
        edited(folder, lambda content: content.update(normalizer=None))
    assert re.search(message, vocabularies.difference(load_tokenizer(encoder), load_tokenizer(folder)))


def test_types_of_its_own(tokenizer, encoder):
    """A teacher that takes token types is given them, whether the student has them or not."""
    kind = kind_of(Classification(train="", dev=""))
    student = Reader(kind, load_tokenizer(encoder), "the model")
    ours = Dataset.from_list([{"input_ids": [2, 5, 3, 6, 3], "attention_mask": [1] * 5, "labels": 1}])
    theirs = ours.add_column("token_type_ids", [[0, 0, 0, 1, 1]])
    examples = with_input_of_teacher(ours, theirs, student, student, Transfer(**TRANSFER, hidden_weight=1.0))
    batch = with_teacher(kind.collate(tokenizer), tokenizer, examples)(list(examples))
    given = input_of_teacher(batch)
    assert sorted(batch) == ["attention_mask", "input_ids", "labels"]
    assert given["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0]]
    assert torch.equal(given["input_ids"], batch["input_ids"])
