"""oBERT: its arithmetic against plain re-implementations and what theory says, and its place in real, tiny runs."""

import weakref
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from shared.folders import zeros_in_file
from shared.models import make_model
from shared.settings import PATTERNS

from pruneonce import recipe, stages
from pruneonce.config.pattern import UNSTRUCTURED, Pattern
from pruneonce.data.blocks import in_order, masked_collator
from pruneonce.errors import UserError
from pruneonce.losses.objectives import mlm_objective
from pruneonce.methods.obert import Obert, fisher, obert
from pruneonce.models import load_vocabulary_model
from pruneonce.models.architectures import prunable_weights
from pruneonce.plugins import make
from pruneonce.plugins.run import Run
from pruneonce.sparsity import PruningSchedule, holds, locked_masks, magnitude_masks, masks_of, sparsity_of
from pruneonce.training.sparsifier import Pruner

SHAPE = (6, 8)
PAIRS = Pattern.parse("1x2")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference_inverse(gradients, size, block_size, damping):
    """Woodbury's recursion, a block and a gradient at a time: `{first weight: F^-1}`, ragged at the end."""
    found = {}
    for first in range(0, size, block_size):
        inverse = torch.eye(min(block_size, size - first), dtype=torch.float64) / damping
        for gradient in gradients:
            g = gradient.flatten()[first : first + block_size].double()
            v = inverse @ g
            inverse -= torch.outer(v, v) / (len(gradients) + g @ v)
        found[first] = inverse
    return found


def reference_scores(weight, inverses, n):
    """`w_Q^T ([F^-1]_QQ)^-1 w_Q / 2` of every n weights in a row, which lie in one block."""
    found = []
    for first, inverse in inverses.items():
        for start in range(0, len(inverse), n):
            w = weight.flatten()[first + start : first + start + n].double()
            found.append(w @ torch.linalg.inv(inverse[start : start + n, start : start + n]) @ w / 2)
    return torch.stack(found)


def reference_update(weight, inverses, mask, n):
    """The sum over pruned groups of `-F^-1 E_Q ([F^-1]_QQ)^-1 w_Q`, one after the other."""
    moved = torch.zeros(weight.numel(), dtype=torch.float64)
    for first, inverse in inverses.items():
        for start in range(0, len(inverse), n):
            at = slice(first + start, first + start + n)
            if not mask.flatten()[at].any():
                inside = torch.linalg.inv(inverse[start : start + n, start : start + n])
                moved[first : first + len(inverse)] -= (
                    inverse[:, start : start + n] @ inside @ weight.flatten()[at].double()
                )
    return moved.view_as(weight)


def fisher_of(weight, count=30, block_size=16, damping=0.1):
    gradients = [drawn(*weight.shape, seed=100 + number) for number in range(count)]
    (inverse,) = fisher.inverse_fisher(([g] for g in gradients), [weight], count, block_size, damping)
    return inverse, reference_inverse(gradients, weight.numel(), block_size, damping)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 30])
@pytest.mark.parametrize("block_size", [1, 5, 16, 48, 64])
def test_the_inverse_is_that_of_woodbury_and_of_the_sum(count, block_size):
    weight = drawn(*SHAPE)
    inverse, expected = fisher_of(weight, count, block_size, damping=0.05)
    whole = torch.block_diag(*inverse)[: weight.numel(), : weight.numel()].double()
    torch.testing.assert_close(whole, torch.block_diag(*expected.values()), rtol=1e-4, atol=1e-3)
    summed = torch.zeros(weight.numel(), weight.numel(), dtype=torch.float64)
    for number in range(count):
        g = drawn(*SHAPE, seed=100 + number).flatten().double()
        summed += torch.outer(g, g) / count
    block = torch.arange(weight.numel()) // block_size
    summed = summed * (block == block[:, None]) + 0.05 * torch.eye(weight.numel())
    torch.testing.assert_close(whole, torch.linalg.inv(summed), rtol=1e-4, atol=1e-3)


def against_reference():
    weight, pattern = drawn(*SHAPE), Pattern.parse("1x4")
    inverse, expected = fisher_of(weight)
    found = fisher.scores(weight, inverse, pattern)
    yield found.flatten().double(), reference_scores(weight, expected, 4) / 4
    mask = masks_of({"w": found}, {"w": weight.shape}, pattern, 0.5)["w"]
    yield fisher.update(weight, inverse, mask, pattern).double(), reference_update(weight, expected, mask, 4)


def test_several_weights_at_once_have_the_inverses_that_each_has_alone():
    gradients = [[drawn(3, 5, seed=number), drawn(7, seed=number)] for number in range(9)]
    like = [torch.zeros(3, 5), torch.zeros(7)]
    both = fisher.inverse_fisher(iter(gradients), like, 9, 4, 0.1)
    for index in range(2):
        (alone,) = fisher.inverse_fisher(([g[index]] for g in gradients), like[index : index + 1], 9, 4, 0.1)
        assert torch.equal(both[index], alone)


@pytest.mark.parametrize("bad", [1e30, float("nan")])
def test_what_cannot_be_inverted_is_said(bad):
    gradients = [[torch.tensor([[bad, bad]])]]
    with pytest.raises(UserError, match=r"damping: 1e-07.*raise `damping`"):
        fisher.inverse_fisher(gradients, [torch.zeros(1, 2)], 1, 2, 1e-7)


@pytest.mark.parametrize(
    ("name", "block_size", "n"),
    [("unstructured", 7, 1), ("2:4", 7, 1), ("1x2", 6, 2), ("1x4", 16, 4), ("1x8", 8, 8)],
)
def test_scores_and_update_are_those_of_the_definition(name, block_size, n):
    weight, pattern = drawn(*SHAPE), Pattern.parse(name)
    inverse, expected = fisher_of(weight, block_size=block_size)
    assert fisher.group_width(weight.shape, pattern, block_size) == n
    found = fisher.scores(weight, inverse, pattern)
    torch.testing.assert_close(found.flatten().double(), reference_scores(weight, expected, n) / n, rtol=1e-4, atol=0)
    mask = masks_of({"w": found}, {"w": weight.shape}, pattern, 0.6)["w"]
    moved = fisher.update(weight, inverse, mask, pattern)
    torch.testing.assert_close(moved.double(), reference_update(weight, expected, mask, n), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "name", "block_size"),
    [(SHAPE, "2x2", 16), (SHAPE, "row", 16), ((5, 7), "1x4", 16), (SHAPE, "1x4", 6)],
)
def test_other_groups_have_the_mean_of_the_scores_of_their_weights(shape, name, block_size):
    weight, pattern = drawn(*shape), Pattern.parse(name)
    inverse, _ = fisher_of(weight, block_size=block_size)
    assert fisher.group_width(shape, pattern, block_size) == 1
    single = fisher.scores(weight, inverse, UNSTRUCTURED)
    found = fisher.scores(weight, inverse, pattern)
    corner = single[: pattern.rows or None, : pattern.columns or None]
    torch.testing.assert_close(found[0, 0], corner.mean())
    rows, columns = -(-shape[0] // (pattern.rows or shape[0])), -(-shape[1] // (pattern.columns or shape[1]))
    assert found.shape == (rows, columns)
    rest = single[(rows - 1) * (pattern.rows or 0) :, (columns - 1) * (pattern.columns or 0) :]
    torch.testing.assert_close(found[-1, -1], rest.mean())


def test_group_scores_compare_with_those_of_single_weights():
    """Where weights do not interact, a group's score is the mean of its weights' own."""
    weight = drawn(*SHAPE)
    (inverse,) = fisher.inverse_fisher([], [weight], 0, 16, 0.5)
    single = fisher.scores(weight, inverse, UNSTRUCTURED)
    torch.testing.assert_close(fisher.scores(weight, inverse, PAIRS), single.unflatten(1, (-1, 2)).mean(-1))


@pytest.mark.parametrize("pattern", [UNSTRUCTURED, PAIRS])
def test_the_quadratic_loss_grows_by_the_score(pattern):
    n = pattern.columns
    weight = drawn(1, 8)
    inverse, expected = fisher_of(weight, block_size=8)
    information = torch.linalg.inv(expected[0])
    found = fisher.scores(weight, inverse, pattern)
    for group in range(8 // n):
        mask = torch.ones(1, 8, dtype=torch.bool)
        mask[0, group * n : (group + 1) * n] = False
        moved = fisher.update(weight, inverse, mask, pattern).flatten().double()
        assert (weight.flatten() + moved)[~mask[0]].abs().max() < 1e-6
        torch.testing.assert_close(moved @ information @ moved / 2, found[0, group].double() * n, rtol=1e-4, atol=0)


def test_the_summed_update_is_worth_having_and_not_the_best():
    """Of 3 of 8 weights: the joint solution is best, the sum near to it, zeros alone are worst."""
    weight = drawn(1, 8)
    inverse, expected = fisher_of(weight, count=6, block_size=8, damping=0.5)
    information = torch.linalg.inv(expected[0])
    mask = masks_of({"w": fisher.scores(weight, inverse, UNSTRUCTURED)}, {"w": weight.shape}, UNSTRUCTURED, 3 / 8)["w"]
    gone = ~mask[0]
    w = weight.flatten().double()

    def loss(new):
        return (new - w) @ information @ (new - w) / 2

    def zeroed(new):
        return new.masked_fill(gone, 0)

    inside = torch.linalg.inv(expected[0][gone][:, gone])
    joint = fisher.update(weight, inverse, mask, UNSTRUCTURED, joint=True).flatten().double()
    torch.testing.assert_close(joint, -expected[0][:, gone] @ inside @ w[gone], rtol=1e-4, atol=1e-5)
    assert (w + joint)[gone].abs().max() < 1e-5
    summed = fisher.update(weight, inverse, mask, UNSTRUCTURED).flatten().double()
    assert loss(zeroed(w + joint)) < loss(zeroed(w + summed)) < loss(zeroed(w))


def test_a_joint_update_is_that_of_each_block_by_itself():
    weight = drawn(*SHAPE)
    inverse, expected = fisher_of(weight, block_size=10)
    mask = drawn(*SHAPE, seed=3) > 0.5
    wanted = torch.zeros(weight.numel(), dtype=torch.float64)
    for first, whole in expected.items():
        at = slice(first, first + len(whole))
        gone = ~mask.flatten()[at]
        wanted[at] = -whole[:, gone] @ torch.linalg.solve(whole[gone][:, gone], weight.flatten()[at][gone].double())
    moved = fisher.update(weight, inverse, mask, UNSTRUCTURED, joint=True)
    torch.testing.assert_close(moved.double(), wanted.view_as(weight), rtol=1e-4, atol=1e-5)
    assert (fisher.update(weight * mask, inverse, mask, UNSTRUCTURED, joint=True) == 0).all()


def test_what_was_pruned_before_moves_nothing_and_is_not_moved():
    weight = drawn(*SHAPE)
    kept = drawn(*SHAPE, seed=1) > 0
    weight *= kept
    gradients = [[drawn(*SHAPE, seed=number) * kept] for number in range(20)]
    (inverse,) = fisher.inverse_fisher(gradients, [weight], 20, 16, 0.1)
    fewer = kept & (drawn(*SHAPE, seed=2) > 0)
    for pattern, joint in ((UNSTRUCTURED, False), (UNSTRUCTURED, True), (PAIRS, False)):
        assert (fisher.update(weight, inverse, kept, pattern, joint) == 0).all()
        moved = fisher.update(weight, inverse, fewer, pattern, joint)
        assert (moved[~kept] == 0).all()
        assert moved.any()


def test_without_gradients_it_is_magnitude_pruning():
    weights = {"a": drawn(6, 8), "b": drawn(5, 10, seed=1) * 3}
    for allocation in ("uniform", "global"):
        inverses = fisher.inverse_fisher([], list(weights.values()), 0, 7, 1e-7)
        found = {n: fisher.scores(w, i, UNSTRUCTURED) for (n, w), i in zip(weights.items(), inverses, strict=True)}
        masks = masks_of(found, {n: w.shape for n, w in weights.items()}, UNSTRUCTURED, 0.6, allocation)
        expected = magnitude_masks(weights, 0.6, allocation)
        assert all(torch.equal(masks[name], expected[name]) for name in weights)
        for weight, inverse, mask in zip(weights.values(), inverses, masks.values(), strict=True):
            moved = fisher.update(weight, inverse, mask, UNSTRUCTURED)
            torch.testing.assert_close(weight + moved, weight * mask)


def test_weights_that_no_gradient_reaches_are_pruned_as_much_as_the_others():
    scores = {"a": drawn(20, 30).abs(), "b": drawn(10, 10, seed=1).abs() * 1e-9, "c": drawn(25, 10, seed=2).abs()}
    found = fisher.match_ranks(scores, ["a", "c"])
    masks = masks_of(found, {name: score.shape for name, score in scores.items()}, UNSTRUCTURED, 0.7, "global")
    assert sparsity_of({"b": masks["b"]}) == pytest.approx(0.7, abs=0.02)
    assert torch.equal(masks["b"], magnitude_masks({"b": scores["b"]}, sparsity_of({"b": masks["b"]}))["b"])
    for judged in ([], list(scores)):
        assert all(one is scores[name] for name, one in fisher.match_ranks(scores, judged).items())


def test_groups_keep_the_order_and_the_limit():
    sizes = {"a": 100, "b": 60, "c": 90, "d": 10}
    assert fisher.memory_groups(sizes, 10, 1e9) == [list(sizes)]
    limit = fisher.bytes_of(160, 10)
    assert fisher.memory_groups(sizes, 10, limit) == [["a", "b"], ["c", "d"]]
    with pytest.raises(UserError, match=r"does not hold the inverse of a, which takes .*; raise it, or lower"):
        fisher.memory_groups(sizes, 10, fisher.bytes_of(99, 9))


# -- in a run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense(tmp_path_factory, tokenizer):
    """A BERT with an MLM head and a pooler, which that loss does not reach."""
    return make_model(tmp_path_factory.mktemp("obert") / "dense", tokenizer, "bert", head=True)


@pytest.fixture
def begun(dense, tokenizer, corpus_file):
    """Makes the method in a run on masked words, and the run's weights."""

    def begin(**options):
        torch.manual_seed(0)  # the pooler is new
        model, _ = load_vocabulary_model(dense)
        text = tokenizer(corpus_file.read_text().splitlines(), truncation=True, max_length=16)["input_ids"]
        blocks = [{"input_ids": ids} for ids in text if len(ids) == 16]
        method = make(Obert(**{"gradients": 10, "block_size": 12, **options}))
        weights = prunable_weights(model)
        data = in_order(blocks, 400, 3)
        settings = recipe.OneShot(batch_size=4, method="obert")
        method.begin(Run(model, weights, 10, 3, mlm_objective, data, masked_collator(tokenizer, 0.3, 3), settings))
        return method, weights

    return begin


def pruned(method, weights, pattern="unstructured", allocation="uniform", rounds=2):
    """Weights after updates to 40 and 80 %, by the sparsifier."""
    settings = recipe.OneShot(sparsity=0.8, pattern=pattern, allocation=allocation)
    sparsifier = Pruner(weights, settings, None, method)
    for step in range(rounds):
        sparsifier.prune(step, 0.4 * (step + 1))
    return sparsifier


@pytest.mark.parametrize("pattern", ["unstructured", "1x4"])
def test_streamed_equals_unstreamed_within_the_memory(pattern, begun, monkeypatch):
    whole, weights = begun()
    assert len(whole.groups) == 1
    pruned(whole, weights, pattern)
    limit = 2.2 * fisher.bytes_of(64 * 32, 12)
    streamed, same = begun(memory=limit / 2**30)
    assert len(streamed.groups) > 3
    alive, most, usual = weakref.WeakSet(), [], obert.inverse_fisher

    def watched(gradients, like, count, block_size, damping):
        most.append(sum(4 * one.numel() for one in alive) + sum(fisher.bytes_of(w.numel(), block_size) for w in like))
        made = usual(gradients, like, count, block_size, damping)
        alive.update(made)
        return made

    monkeypatch.setattr(obert, "inverse_fisher", watched)
    pruned(streamed, same, pattern)
    for name, weight in weights.items():
        assert torch.equal(weight, same[name]), name
    assert max(most) <= limit
    assert len(most) == 2 * (2 * len(streamed.groups) - 1), "those of the last group are not made twice"
    assert not alive


def test_gradients_are_taken_once_where_memory_allows(begun, monkeypatch):
    method, weights = begun()
    counts = []
    usual = method._gradients
    monkeypatch.setattr(method, "_gradients", lambda step, names: counts.append(step) or usual(step, names))
    pruned(method, weights)
    assert counts == [0, 1]


def test_each_update_has_other_batches_and_the_same_when_repeated(begun):
    method, weights = begun(gradients=3)
    names = list(weights)[:2]
    first, again, second = (
        [torch.cat([gradient.flatten() for gradient in found]) for found in method._gradients(step, names)]
        for step in (1, 1, 2)
    )
    for one, same in zip(first, again, strict=True):
        assert torch.equal(one, same)
        assert not any(torch.equal(one, other) for other in second)


def test_pruned_weights_have_no_gradient(begun):
    method, weights = begun()
    name = next(iter(weights))
    with torch.no_grad():
        weights[name][:5] = 0
    for (found,) in method._gradients(0, [name]):
        assert (found[:5] == 0).all()
        assert found.any()


def test_by_one_threshold_a_pooler_out_of_reach_is_not_emptied(begun):
    method, weights = begun()
    masks = pruned(method, weights, allocation="global").masks
    assert sparsity_of({"pooler": masks["pooler.dense.weight"]}) == pytest.approx(0.8, abs=0.05)
    assert len({round(sparsity_of({"one": mask}), 3) for mask in masks.values()}) > 3


def test_it_loses_less_than_magnitude(begun):
    """On the very data, of which a model of random weights has learnt nothing: the loss moves less."""
    losses = {}
    for name, options in {"dense": {}, "obert": {"gradients": 100, "block_size": 32}, "magnitude": {}}.items():
        method, weights = begun(**options)
        run = method.run
        if name != "dense":
            pruned(method if name == "obert" else None, weights, rounds=1)
        with torch.no_grad():
            batches = [run.collate([run.data[4 * at + i] for i in range(4)]) for at in range(100)]
            losses[name] = torch.stack([run.likelihood(run.model.eval(), batch)["loss"] for batch in batches]).mean()
    assert abs(losses["obert"] - losses["dense"]) < abs(losses["magnitude"] - losses["dense"])


def test_a_reached_target_is_not_judged_again(begun, monkeypatch):
    """Nor is one of 0: gradients are dear."""
    method, weights = begun()
    settings = recipe.Sparsification(sparsity=0.8, start=0, end=4, until=8, every=2)
    sparsifier = Pruner(weights, settings, PruningSchedule.of(settings, 10), method)
    judged, usual = [], method.scores
    monkeypatch.setattr(method, "scores", lambda step, *rest: [judged.append(step), usual(step, *rest)][1])
    for step in range(10):
        sparsifier.before_step(step)
    assert judged == [2, 4]
    assert sparsifier.sparsity() == pytest.approx(0.8, abs=0.01)


SMALL = {"name": "obert", "gradients": 6, "block_size": 16}


@pytest.fixture(scope="module")
def teacher(dense, task, tmp_path_factory):
    settings = recipe.Training(epochs=1, batch_size=16, learning_rate=1e-3)
    return stages.finetune(dense, task, settings, tmp_path_factory.mktemp("teacher") / "dense")


def checked(folder, sparsity, pattern="unstructured"):
    weights = load_file(folder / "model.safetensors")
    masks = locked_masks({name: weight for name, weight in weights.items() if weight.dim() == 2 and ".layer." in name})
    assert sparsity_of(masks) == pytest.approx(sparsity, abs=0.01)
    assert all(holds(mask, Pattern.parse(pattern)) for mask in masks.values())


@pytest.mark.parametrize("objective", ["mlm", "hidden"])
def test_in_sparse_pre_training(objective, dense, corpus_file, tmp_path):
    corpus = recipe.Corpus(source=str(corpus_file), block_length=16)
    how = {"steps": 8, "batch_size": 4, "learning_rate": 1e-3, "every": 2, "objective": objective, "method": SMALL}
    settings = recipe.Prune(**how, sparsity=0.6, pattern="1x4", nested=True)
    checked(stages.prune(dense, corpus, settings, tmp_path / "sparse"), 0.6, "1x4")
    with pytest.raises(UserError, match="the corpus cannot be streamed"):
        stages.prune(dense, corpus.model_copy(update={"streaming": True}), settings, tmp_path / "streamed")
    assert not (tmp_path / "streamed.partial").exists()


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_in_gradual_pruning(allocation, dense, task, teacher, tmp_path):
    how = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "every": 2, "method": SMALL, "allocation": allocation}
    settings = recipe.Gradual(**how, sparsity=0.7)
    made = stages.transfer_gradual(dense, task, settings, tmp_path / "gradual", teacher=teacher)
    shares = zeros_in_file(made)
    assert len(shares) == 13
    sizes = {name: weight.numel() for name, weight in load_file(made / "model.safetensors").items()}
    zeros = sum(share * sizes[name] for name, share in shares.items())
    assert zeros / sum(sizes[name] for name in shares) == pytest.approx(0.7, abs=0.01)
    if allocation == "uniform":
        assert list(shares.values()) == pytest.approx([0.7] * 13, abs=1e-3)
    else:  # one threshold for all
        assert max(shares.values()) - min(shares.values()) > 0.02


@pytest.mark.parametrize("pattern", [name for name in PATTERNS if name != "1:4"])  # which has more zeros
def test_in_one_shot(pattern, task, teacher, tmp_path):
    settings = recipe.OneShot(sparsity=0.5, rounds=2, pattern=pattern, method=SMALL)
    checked(stages.one_shot(teacher, task, settings, tmp_path / "pruned"), 0.5, pattern)


# -- shipped recipes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "updates", "sparsities"),
    [
        ("obert-upstream", range(0, 2751, 250), [0.7, 0.7497, 0.7905]),
        ("obert-downstream", range(200, 2601, 400), [0.7, 0.784, 0.841, 0.875, 0.893, 0.899, 0.9]),
        ("gmp-star", range(200, 2801, 10), [0.7, 0.7023]),
    ],
)
def test_shipped_schedules(name, updates, sparsities):
    loaded = recipe.load(name)
    settings = loaded.prune if name == "obert-upstream" else loaded.baselines.gradual
    total = 3000
    schedule = PruningSchedule.of(settings, total)
    assert schedule.end == updates[-1]
    assert [step for step in range(schedule.end + 1) if schedule.is_due(step)] == list(updates)
    found = [schedule.sparsity(step) for step in updates[: len(sparsities)]]
    assert found == pytest.approx(sparsities, abs=6e-4)
    assert schedule.sparsity(schedule.end) == 0.9
    rates = [schedule.learning_rate(step, total, round(settings.warmup * total)) for step in range(total)]
    assert max(rates) == 1
    if settings.method:
        assert isinstance(settings.method, Obert)
        assert [rates[step] for step in updates] == pytest.approx([1] * len(updates), abs=1e-2)
        assert max(rates[step - 1] for step in updates[1:]) < 0.01
    else:
        assert rates[updates[0]] == 1
        assert all(after < before for before, after in pairwise(rates[200:]))
