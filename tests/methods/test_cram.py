"""The compression-aware minimizer: a step by hand, its limits, and runs in the stages where it works."""

import json
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pruneonce import stages
from pruneonce.config.pattern import Pattern
from pruneonce.errors import UserError
from pruneonce.methods import cram
from pruneonce.methods.cram import Cram
from pruneonce.methods.cram.cram import cram_gradients
from pruneonce.models.architectures import prunable_weights
from pruneonce.plan import probe
from pruneonce.plan.corpus_work import Work
from pruneonce.plan.jobs import Probe, TaskSample, usual
from pruneonce.plugins import make
from pruneonce.recipe import Gradual, Prune, Training, Transfer
from pruneonce.sparsity import apply_masks, holds, locked_masks, magnitude_masks
from pruneonce.system import distributed
from pruneonce.training.trainer import SparseTrainer


class Linear:
    """`mean |x W^T + b - y|^2`, with its gradient by autograd and by the formula."""

    def __init__(self, seed=0, rows=6):
        draw = torch.Generator().manual_seed(seed)
        self.inputs, self.targets = torch.randn(rows, 8, generator=draw), torch.randn(rows, 4, generator=draw)
        self.weight = nn.Parameter(torch.randn(4, 8, generator=torch.Generator().manual_seed(9)))
        self.bias = nn.Parameter(torch.randn(4, generator=torch.Generator().manual_seed(8)))
        self.seen = []

    @property
    def parameters(self):
        return [self.weight, self.bias]

    def forward_backward(self, share=1.0, rows=slice(None)):
        self.seen.append(self.weight.detach().clone())
        loss = (self.inputs[rows] @ self.weight.T + self.bias - self.targets[rows]).square().mean()
        (share * loss).backward()
        return loss.detach()

    def gradient(self, weight, bias, rows=slice(None)):
        error = self.inputs[rows] @ weight.T + bias - self.targets[rows]
        return 2 * error.T @ self.inputs[rows] / error.numel(), 2 * error.sum(0) / error.numel()


def reference_cram_step(model, rho, sparsity, plus, rows=slice(None)):
    """What is to be in `grad` after one step from nothing."""
    weight, bias = model.weight.detach(), model.bias.detach()
    first_w, first_b = model.gradient(weight, bias, rows)
    top_w, top_b = weight + rho * first_w, bias + rho * first_b
    order = sorted((abs(float(value)), at) for at, value in enumerate(top_w.flatten()))
    mask = torch.ones(weight.numel())
    for _, at in order[: round(sparsity * weight.numel())]:
        mask[at] = 0
    mask = mask.view_as(weight)
    second_w, second_b = model.gradient(top_w * mask, top_b, rows)
    if not plus:
        return second_w, second_b
    return first_w + mask * second_w, first_b + second_b


def magnitude(sparsity, pattern="unstructured"):
    return lambda weights: magnitude_masks(weights, sparsity, pattern=Pattern.parse(pattern))


def step(model, rho, compress, plus, forward_backward=None):
    weights = {"a": model.weight}
    return cram_gradients(
        forward_backward or model.forward_backward, model.parameters, weights, compress, rho, plus=plus
    )


def against_reference():
    """Gradients, ours and by the formula."""
    for rho, sparsity, plus in product((0.0, 0.05, 2.0), (0.25, 0.5, 0.9), (False, True)):
        model = Linear()
        expected = reference_cram_step(model, rho, sparsity, plus)
        step(model, rho, magnitude(sparsity), plus)
        yield from zip((parameter.grad for parameter in model.parameters), expected, strict=True)


@pytest.mark.parametrize("plus", [False, True])
def test_weights_are_restored_bit_for_bit(plus):
    model = Linear()
    before = [parameter.detach().clone() for parameter in model.parameters]
    loss = step(model, 2.0, magnitude(0.5), plus)
    for parameter, value in zip(model.parameters, before, strict=True):
        assert torch.equal(parameter.view(torch.int32), value.view(torch.int32))
    assert not torch.equal(model.seen[1], before[0])
    assert loss == Linear().forward_backward()  # that of the weights as they are
    assert not model.weight._backward_hooks


def nothing(weights):
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def test_without_ascent_and_compression_it_is_the_base_optimizer():
    """SGD; CrAM+ at twice its rate."""
    for plus, rate in ((False, 0.1), (True, 0.05)):
        model, base = Linear(), Linear()
        ours, theirs = torch.optim.SGD(model.parameters, lr=rate), torch.optim.SGD(base.parameters, lr=0.1)
        for _ in range(5):
            ours.zero_grad()
            theirs.zero_grad()
            step(model, 0.0, nothing, plus)
            base.forward_backward()
            ours.step()
            theirs.step()
        torch.testing.assert_close(model.weight, base.weight)
        torch.testing.assert_close(model.bias, base.bias)


def test_without_compression_it_is_sam_not_normalised():
    model = Linear()
    weight, bias = model.weight.detach(), model.bias.detach()
    first = model.gradient(weight, bias)
    expected = model.gradient(weight + 0.3 * first[0], bias + 0.3 * first[1])
    step(model, 0.3, nothing, False)
    torch.testing.assert_close(model.weight.grad, expected[0])
    torch.testing.assert_close(model.bias.grad, expected[1])


@pytest.mark.parametrize("sparsity", [0.03, 0.29, 0.5, 0.97])
def test_exactly_so_many_are_pruned_where_all_are_equal(sparsity):
    """A strict threshold at a tie would take them all, or none."""
    model = Linear()
    model.weight.data.fill_(0.5)
    step(model, 0.0, magnitude(sparsity), True)
    assert [int((seen == 0).sum()) for seen in model.seen] == [0, round(sparsity * 32)]


@pytest.mark.parametrize("plus", [False, True])
def test_accumulated_batches_are_the_sum_by_hand(plus):
    """`grad` holds what came before; the ascent is by a batch's own gradient, whole although it counts by its share."""
    model = Linear(rows=9)
    parts = [slice(0, 3), slice(3, 6), slice(6, 9)]
    expected = [reference_cram_step(model, 0.7, 0.5, plus, rows) for rows in parts]
    method = method_of(model, accumulate=3, rho=0.7, sparsities=[0.5], plus=plus)
    for rows in parts:
        method.gradients(4, lambda rows=rows: model.forward_backward(1 / 3, rows))
    for index, parameter in enumerate(model.parameters):
        torch.testing.assert_close(parameter.grad, sum(grads[index] for grads in expected) / 3)


def test_a_parameter_that_is_frozen_or_has_no_part_in_the_loss():
    model = Linear()
    spare, frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4, 8), requires_grad=False)
    spare.grad = torch.full((3,), 2.0)
    weights = {"a": model.weight, "frozen": frozen}
    cram_gradients(model.forward_backward, [*model.parameters, spare, frozen], weights, magnitude(0.5), 0.05)
    expected = reference_cram_step(model, 0.05, 0.5, True)
    torch.testing.assert_close(model.weight.grad, expected[0])
    assert torch.equal(spare.grad, torch.full((3,), 2.0))
    assert frozen.grad is None
    assert bool((frozen == 1).all())


def test_weights_are_restored_when_the_second_pass_fails():
    model = Linear()
    before = model.weight.detach().clone()

    def fails():
        if model.seen:
            raise KeyboardInterrupt
        return model.forward_backward()

    with pytest.raises(KeyboardInterrupt):
        step(model, 0.5, magnitude(0.5), True, fails)
    assert torch.equal(model.weight, before)
    assert not model.weight._backward_hooks


@pytest.mark.parametrize("plus", [False, True])
def test_under_autocast_parameters_stay_fp32_and_the_second_pass_sees_the_compressed_ones(plus):
    model = Linear()
    expected = reference_cram_step(model, 0.5, 0.5, plus)
    before = model.weight.detach().clone()

    def forward_backward():
        with torch.autocast("cpu", torch.bfloat16):
            loss = (nn.functional.linear(model.inputs, model.weight, model.bias) - model.targets).square().mean()
        loss.backward()
        return loss.detach()

    step(model, 0.5, magnitude(0.5), plus, forward_backward)
    assert model.weight.grad.dtype == model.weight.dtype == torch.float32
    torch.testing.assert_close(model.weight.grad, expected[0], rtol=0.05, atol=0.02)
    assert torch.equal(model.weight, before)


def test_locked_zeros_are_not_moved():
    model = Linear()
    model.weight.data[:, ::3] = 0
    locked = model.weight == 0

    def masked():
        loss = model.forward_backward()
        model.weight.grad.masked_fill_(locked, 0)  # as the trainer does after each pass
        return loss

    step(model, 0.5, magnitude(0.5), True, masked)
    assert not model.seen[1][locked].any()
    assert int((model.seen[1] == 0).sum()) == 16
    assert not model.weight.grad[locked].any()


def method_of(model=None, accumulate=1, seed=3, **options):
    model = model or Linear()
    method = make(Cram(**options))
    settings = SimpleNamespace(accumulate=accumulate)
    parameters = lambda: model.parameters  # noqa: E731
    run = SimpleNamespace(
        model=SimpleNamespace(parameters=parameters), weights={"a": model.weight}, seed=seed, settings=settings
    )
    method.begin(run)
    return method


def drawn(method, steps=600):
    return [(pattern.name, sparsity) for pattern, sparsity in map(method._draw, range(steps))]


def test_compressions_are_drawn_by_seed_and_step_at_even_odds():
    method = method_of(sparsities=[0.25, 0.5, 0.75], patterns=["unstructured", "2:4", "1x4"])
    found = drawn(method)
    assert (
        found
        == drawn(method)
        == drawn(method_of(sparsities=[0.25, 0.5, 0.75], patterns=["unstructured", "2:4", "1x4"]))
    )
    assert found != drawn(method_of(seed=4, sparsities=[0.25, 0.5, 0.75], patterns=["unstructured", "2:4", "1x4"]))
    shares = {one: found.count(one) / len(found) for one in set(found)}
    expected = {("2:4", 0.5): 1 / 3}
    expected |= {(name, sparsity): 1 / 9 for name in ("unstructured", "1x4") for sparsity in (0.25, 0.5, 0.75)}
    assert shares == pytest.approx(expected, abs=0.06)
    assert any(one != other for one, other in pairwise(found))


@pytest.mark.parametrize("patterns", [["2:4"], ["2:4", "4:8"], ["1x4"], ["column"]])
def test_weights_of_the_second_pass_are_in_the_pattern(patterns):
    model = Linear()
    method = method_of(model, patterns=patterns, sparsities=[0.5])
    for at in range(8):
        model.seen.clear()
        method.gradients(at, model.forward_backward)
        assert holds(model.seen[1] != 0, method._draw(at)[0])
        assert int((model.seen[1] == 0).sum()) == 16
    assert {pattern for pattern, _ in drawn(method, 8)} == set(patterns)


def test_one_sparsity_is_plain_cram():
    assert set(drawn(method_of(sparsities=[0.8]))) == {("unstructured", 0.8)}


def test_a_model_that_is_as_sparse_already_is_refused():
    model = Linear()
    apply_masks({"a": model.weight}, magnitude_masks({"a": model.weight}, 0.9))
    with pytest.raises(UserError, match="compress nothing"):
        method_of(model, sparsities=[0.5, 0.7])
    method_of(model, sparsities=[0.5, 0.95])
    two = Linear()
    apply_masks({"a": two.weight}, magnitude_masks({"a": two.weight}, 0.5, pattern=Pattern.parse("2:4")))
    with pytest.raises(UserError, match="compress nothing"):
        method_of(two, patterns=["2:4"])


def test_a_pattern_that_does_not_divide_the_inputs_is_refused():
    with pytest.raises(UserError, match="does not divide"):
        method_of(patterns=["1:3"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"rho": -0.1},
        {"sparsities": []},
        {"sparsities": [0.0]},
        {"sparsities": [1.0]},
        {"patterns": []},
        {"patterns": ["4:2"]},
        {"pluss": True},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError):
        Cram(**wrong)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_weights_that_can_be_pruned_at_once(seed):
    """Of the many that fit 6 rows with 8 inputs. Plain descent finds some of which half cannot be missed."""
    lost = {}
    for name in ("plain", "cram+"):
        model = Linear(seed)
        optimizer = torch.optim.SGD(model.parameters, lr=0.05)
        for _ in range(1000):
            optimizer.zero_grad()
            model.forward_backward() if name == "plain" else step(model, 0.05, magnitude(0.5), True)
            optimizer.step()
        assert model.forward_backward() < 0.01
        apply_masks({"a": model.weight}, magnitude_masks({"a": model.weight}, 0.5))
        lost[name] = model.forward_backward()
    assert lost["cram+"] < 0.05 < 0.15 < lost["plain"]


# Real runs


TRAIN = {"steps": 6, "batch_size": 8, "learning_rate": 1e-3, "dropout": 0.0}
CRAM = {"name": "cram", "rho": 0.1, "sparsities": [0.5, 0.95]}


@pytest.fixture(scope="module")
def teacher(encoder, task, tmp_path_factory):
    return stages.finetune(encoder, task, Training(**TRAIN), tmp_path_factory.mktemp("teacher") / "dense")


@pytest.fixture
def passes(monkeypatch):
    """For each step of a run, the share of zeros at each pass."""
    found = []
    usual, compute = SparseTrainer.training_step, SparseTrainer.compute_loss

    def training_step(self, *args, **kwargs):
        found.append([])
        return usual(self, *args, **kwargs)

    def compute_loss(self, model, *args, **kwargs):
        weights = prunable_weights(self.model)
        sizes = [(int((weight == 0).sum()), weight.numel()) for weight in weights.values()]
        found[-1].append((sizes, {name: weight != 0 for name, weight in weights.items()}))
        return compute(self, model, *args, **kwargs)

    monkeypatch.setattr(SparseTrainer, "training_step", training_step)
    monkeypatch.setattr(SparseTrainer, "compute_loss", compute_loss)
    return found


def history(folder):
    return json.loads((folder / "metrics.json").read_text())["history"]


def test_the_examples_of_the_readme_run(teacher):
    blocks = (Path(cram.__file__).parent / "README.md").read_text().split("```python\n")[1:]
    for block in blocks:
        found = {"FOLDER": teacher}
        exec(block.split("```")[0], found)
        for mask in locked_masks(found["weights"]).values():
            assert 1 - mask.float().mean() == pytest.approx(0.5 if block is blocks[0] else 0.7, abs=1e-3)


def test_finetune(encoder, task, teacher, passes, tmp_path):
    made = stages.finetune(encoder, task, Training(**TRAIN, method=CRAM), tmp_path / "cram")
    method = method_of(seed=42, **CRAM)
    assert len(passes) == 6
    for at, ((before, _), (compressed, _)) in enumerate(passes):
        assert {zeros for zeros, _ in before} == {0}
        _, sparsity = method._draw(at)
        assert all(zeros == round(sparsity * size) for zeros, size in compressed)
    assert not any((weight == 0).any() for weight in weights_in(made).values())
    assert history(made)[0]["loss"] == pytest.approx(history(teacher)[0]["loss"])  # of the first pass
    one, other = load_file(made / "model.safetensors"), load_file(teacher / "model.safetensors")
    assert one.keys() == other.keys()


def weights_in(folder):
    from transformers import AutoModelForSequenceClassification

    return prunable_weights(AutoModelForSequenceClassification.from_pretrained(folder))


def test_transfer_keeps_its_zeros(encoder, task, teacher, passes, tmp_path):
    pruning = Prune(steps=9, learning_rate=1e-3, sparsity=0.7)
    sparse = stages.prune_one_shot(encoder, pruning, tmp_path / "sparse")
    plain = stages.transfer(sparse, task, Transfer(**TRAIN), tmp_path / "plain", teacher=teacher)
    passes.clear()
    settings = Transfer(**TRAIN, accumulate=2, method=CRAM)
    few = settings.model_copy(update={"method": Cram(sparsities=[0.5, 0.7])})
    with pytest.raises(UserError, match="compress nothing"):
        stages.transfer(sparse, task, few, tmp_path / "few", teacher=teacher)
    made = stages.transfer(sparse, task, settings, tmp_path / "made", teacher=teacher)
    assert len(passes) == 12
    locked = locked_masks(weights_in(made))
    assert all(torch.equal(mask, locked[name]) for name, mask in locked_masks(weights_in(plain)).items())
    for (before, kept), (compressed, still) in passes:
        assert all(zeros == round(0.7 * size) for zeros, size in before)
        assert all(zeros in (round(0.7 * size), round(0.95 * size)) for zeros, size in compressed)
        assert all(torch.equal(kept[name], locked[name]) for name in locked)
        assert not any((still[name] & ~locked[name]).any() for name in locked)  # none comes back, not even for a pass
    single = stages.transfer(
        sparse, task, settings.model_copy(update={"accumulate": 1}), tmp_path / "1", teacher=teacher
    )
    for part in ("loss", "loss_kd", "loss_hidden"):  # the log is of the first pass
        assert history(single)[0][part] == pytest.approx(history(plain)[0][part])


def test_gradual(encoder, task, teacher, tmp_path):
    settings = Gradual(**{**TRAIN, "steps": 10}, sparsity=0.8, every=1, rewind=False, method=CRAM)
    made = stages.transfer_gradual(encoder, task, settings, tmp_path / "made", teacher=teacher)
    for name, mask in locked_masks(weights_in(made)).items():
        assert 1 - mask.float().mean() == pytest.approx(0.8, abs=0.01), name


def test_a_plan_measures_and_counts_both_passes(encoder, task, passes):
    example = {"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1], "labels": 0}
    sample = TaskSample(task, ("bad", "good"), str(encoder), example)
    settings = {name: Training(**TRAIN, method=method) for name, method in (("plain", None), ("cram", CRAM))}
    for name, section in settings.items():
        passes.clear()
        probe._measure(Probe("finetune", str(encoder), 16, 16, usual(section), sample), 0.01)
        assert {len(each) for each in passes} == {1 if name == "plain" else 2}
    flops = {
        name: Work(name, "finetune", str(encoder), section, 6, 768, 768.0, 8, 16, 16).flops()
        for name, section in settings.items()
    }
    assert flops["cram"] == 2 * flops["plain"]


def two_processes(rank, folder):
    """A share of each of two accumulated batches in each process; gradients come together with the last."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", world_size=2, rank=rank)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = Linear().weight, Linear().bias

        def forward(self, inputs):
            return nn.functional.linear(inputs, self.weight, self.bias)

    net, data = Net(), Linear(rows=8)
    wrapped = nn.parallel.DistributedDataParallel(net)

    def forward_backward(rows):
        loss = (wrapped(data.inputs[rows]) - data.targets[rows]).square().mean()
        (loss / 2).backward()
        return loss.detach()

    def add(rows):
        weights = {"a": net.weight}
        cram_gradients(lambda: forward_backward(rows), net.parameters(), weights, magnitude(0.5), 2 * 0.3)

    with wrapped.no_sync():
        add(slice(2 * rank, 2 * rank + 2))  # alone
    add(slice(4 + 2 * rank, 6 + 2 * rank))  # together
    save_file({"weight": net.weight.grad, "bias": net.bias.grad}, folder / f"{rank}.safetensors")
    distributed.leave()


@pytest.mark.slow
def test_two_processes_that_accumulate(tmp_path):
    # Daemons end with the test, also if they hang.
    torch.multiprocessing.spawn(two_processes, (tmp_path,), nprocs=2, daemon=True)
    model = Linear(rows=8)
    alone = [reference_cram_step(model, 0.3, 0.5, True, slice(2 * rank, 2 * rank + 2)) for rank in range(2)]
    together = reference_cram_step(model, 0.3, 0.5, True, slice(4, 8))
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        for index, name in enumerate(("weight", "bias")):
            expected = (alone[0][index] + alone[1][index]) / 4 + together[index] / 2
            torch.testing.assert_close(found[name], expected)
