"""The report page: what it says, that it stands alone, and that nothing of the data's is taken for markup."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from shared.pages import Page

from pruneonce.errors import UserError
from pruneonce.report import comparison, verdict, write_report
from pruneonce.report.plots import bars, curves, layer_grid

BERT = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]
DISTILBERT = [
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "ffn.lin1",
    "ffn.lin2",
]
MODERNBERT = ["attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"]
SIX_ROLES = ["query", "key", "value", "attention output", "intermediate", "output"]
VALUES = {
    "sentiment": {"dense": 0.871, "sparse": 0.846, "one-shot": 0.781, "gradual": 0.829},
    "entailment": {"dense": 0.8432, "sparse": 0.8214, "one-shot": 0.7105, "gradual": 0.8011},
}


def names(stack: str, layers: int, modules: list[str]) -> list[str]:
    return [f"{stack}.{layer}.{module}.weight" for layer in range(layers) for module in modules]


def result(task: str, arm: str, value: float) -> dict[str, Any]:
    return {
        "task": task,
        "arm": arm,
        "folder": f"tasks/{task}/{arm}",
        "sparsity": 0.0 if arm == "dense" else 0.9,
        "size": None,
        "metric": "accuracy",
        "split": "test",
        "value": value,
        "recovery": value / VALUES[task]["dense"],
        "all": {"dev": {"accuracy": value + 0.01, "f1": 0.1234}, "test": {"accuracy": value}},
    }


def stage(name: str, kind: str, folder: str) -> dict[str, Any]:
    history = [
        {"step": step, "loss": 2 / step, "learning_rate": 1e-4 / step, "sparsity": min(0.9, step / 60)}
        for step in range(10, 101, 10)
    ]
    spent = {"seconds": 120.0, "steps": 100, "tokens": 60000}
    return {
        "name": name,
        "stage": kind,
        "folder": folder,
        **spent,
        "history": history,
        "final": {"loss": 0.02},
    }


@pytest.fixture
def summary() -> dict[str, Any]:
    layers = [*names("encoder.layer", 6, BERT), "pooler.dense.weight"]
    return {
        "name": "quickstart",
        "description": "one model, two tasks",
        "model": "some/MiniLM",
        "created": "2026-01-01T12:00:00+00:00",
        "seconds": 512.3,
        "machine": {"processor": "a processor", "threads": 2, "torch": "2.13.0", "transformers": "5.23.0"},
        "sparsity": {"encoder": 0.9, "model": 0.42, "target": 0.9},
        "pattern": "0123456789abcdef" * 4,
        "layers": [{"name": name, "shape": [384, 384], "sparsity": 0.9} for name in layers],
        "stages": [
            stage("sparse", "prune", "sparse"),
            *(stage(f"{t}, {a}", "transfer", f"tasks/{t}/{a}") for t in VALUES for a in VALUES[t]),
        ],
        "results": [result(task, arm, value) for task, arms in VALUES.items() for arm, value in arms.items()],
    }


def build(folder: Path, summary: dict[str, Any]) -> str:
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


def test_page_shows_every_arm_and_value(tmp_path: Path, summary: dict[str, Any]) -> None:
    html = build(tmp_path, summary)
    page = Page(html)
    cells = [cell.split() for cell in page.cells]
    for arm in ("dense", "sparse", "one-shot", "gradual"):
        assert [arm] in cells
    assert ["87.1"] in cells
    assert ["84.6", "97.1", "%"] in cells
    assert ["71.0", "84.3", "%"] in cells
    assert ["0.1234"] in cells, "the other metrics"
    assert cells[cells.index(["100"]) :][:4] == [["100"], ["60,000"], ["2.0"], ["500"]], "what a stage spent"
    assert cells[-6:] == [["total"], ["900"], ["540,000"], ["18.0"], ["500"], []]
    for text in (
        "some/MiniLM",
        "one model, two tasks",
        "0123456789ab",
        "2026-01-01 12:00 UTC",
        "a processor",
    ):
        assert text in html
    assert "0123456789abc" not in html
    assert 'from_pretrained("tasks/sentiment/sparse")' in html
    assert "pruneonce verify tasks/sentiment/sparse --against sparse" in html
    assert len(html.encode()) < 1_000_000
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".partial"] == []


def test_best_marks_the_best_pruned_model(tmp_path: Path, summary: dict[str, Any]) -> None:
    summary["stages"] = []
    html = build(tmp_path, summary)
    assert re.findall(r'class="best">([\d.]+)', html) == ["84.6", "82.1"]
    next(r for r in summary["results"] if r["folder"] == "tasks/sentiment/gradual")["value"] = 0.86
    assert re.findall(r'class="best">([\d.]+)', build(tmp_path, summary)) == ["86.0", "82.1"]


def test_page_stands_alone(tmp_path: Path, summary: dict[str, Any]) -> None:
    html = build(tmp_path, summary)
    page = Page(html)
    assert "http:" not in html
    assert "https:" not in html
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "image", "object"} == set()
    links = page.attributes("src", "href", "xlink:href") + re.findall(r"url\(([^)]*)\)", html)
    ids = page.attributes("id")
    assert links
    assert {link.strip("'\"")[1:] for link in links} <= set(ids), "each reference is to something in the page"
    assert all(link.strip("'\"").startswith("#") for link in links)
    assert len(ids) == len(set(ids))


def test_pictures_are_labelled_and_take_the_page_colours(tmp_path: Path, summary: dict[str, Any]) -> None:
    html = build(tmp_path, summary)
    pictures = [attrs for tag, attrs in Page(html).tags if tag == "svg"]
    assert len(pictures) == 2 + 1 + 1 + 9, "bars of two tasks, their recovery, the layers, the curves of nine stages"
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in pictures)
    assert re.search(r"Bars from 0: dense 87.1 %, one-shot [\d.]+ %, gradual [\d.]+ %, sparse 84.6 %", html)
    assert "#01020" not in html, "a stand-in for a colour was left"
    assert all(f"fill: var(--{arm})" in html for arm in VALUES["sentiment"])
    assert all(attrs.get("scope") for tag, attrs in Page(html).tags if tag == "th")


def test_hostile_text_is_only_text(tmp_path: Path, summary: dict[str, Any]) -> None:
    evil = "</code><script>alert(1)</script>\"' $\\frac{ $"
    tagged = copy.deepcopy(summary)
    for key in ("name", "description", "model", "pattern"):
        tagged[key] = evil
    tagged["machine"] = {evil: evil}
    tagged["layers"][0]["name"] = f"encoder.layer.0.{evil}.weight"
    tagged["layers"][-1]["name"] = "<script>.weight $\\x$"
    for item in tagged["results"]:
        item.update(task=f"{item['task']}字{evil}", folder=evil, metric=evil, split=evil, all={evil: {evil: 0.5}})
    for item in tagged["stages"]:
        item.update(name=evil, folder=evil)
    html = build(tmp_path, tagged)
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert len(Page(html).tags) > 100


def test_control_characters_are_shown(tmp_path: Path, summary: dict[str, Any]) -> None:
    name = "a\x1b[31m\u202eb\ud83d\x00"
    summary["model"] = summary["layers"][0]["name"] = summary["stages"][0]["name"] = name
    summary["results"] = [{**row, "task": f"{row['task']}{name}"} for row in summary["results"]]
    page = build(tmp_path, summary)
    assert r"a\x1b[31m\u202eb\ud83d\x00" in page
    assert not set(page) & {"\x1b", "\u202e", "\ud83d", "\x00"}


def test_of_many_stages_the_first_are_drawn(tmp_path: Path, summary: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr("pruneonce.report.MOST_CURVES", 2)
    page = build(tmp_path, summary)
    assert page.count("over 100 steps") == 2 < len(summary["stages"])
    assert f"The first 2 stages are drawn; the last loss of the other {len(summary['stages']) - 2} is in" in page


def test_verdict_when_prune_once_wins(summary: dict[str, Any]) -> None:
    assert verdict(summary) == [
        "90.0 % of the encoder's weights are zero; the sparse models keep 97.3 % of the dense accuracy "
        "on average over 2 tasks.",
        "Prune-once beats one-shot pruning on every task, by 8.8 percentage points on average.",
        "Prune-once beats gradual pruning during fine-tuning on every task, by 1.8 percentage points on average.",
    ]


def test_verdict_says_first_where_a_baseline_wins(summary: dict[str, Any]) -> None:
    next(r for r in summary["results"] if r["folder"] == "tasks/sentiment/gradual")["value"] = 0.86
    assert verdict(summary)[1:] == [
        "Gradual pruning during fine-tuning does better on sentiment (86.0 against 84.6 %) and does worse on "
        "entailment (80.1 against 82.1 %).",
        "Prune-once beats one-shot pruning on every task, by 8.8 percentage points on average.",
    ]


def test_verdict_on_one_task_and_a_tie(summary: dict[str, Any]) -> None:
    arms = ("dense", "sparse", "one-shot")
    summary["results"] = [r for r in summary["results"] if r["task"] == "sentiment" and r["arm"] in arms]
    assert verdict(summary) == [
        "90.0 % of the encoder's weights are zero; the sparse model keeps 97.1 % of the dense accuracy on sentiment.",
        "Prune-once beats one-shot pruning on sentiment, by 6.5 percentage points.",
    ]
    summary["results"][2]["value"] = 0.8461
    assert verdict(summary)[1] == "One-shot pruning equals prune-once on sentiment (84.6 against 84.6 %)."


def with_quantized(summary: dict[str, Any]) -> None:
    """The same run with sizes, and an int8 model of each task, a little worse than the sparse one and much smaller."""
    megabytes = {"dense": (90.0, 43.0), "sparse": (44.0, 4.0), "int8": (15.0, 1.6)}
    for task in VALUES:
        quantized = result(task, "int8", VALUES[task]["sparse"] - 0.002)
        summary["results"].append(quantized)
    for row in summary["results"]:
        if row["arm"] in megabytes:
            file, encoder = (1e6 * size for size in megabytes[row["arm"]])
            limit = None if row["arm"] == "dense" else encoder / 1.02
            row["size"] = {"file": None, "bytes": file, "encoder": encoder, "limit": limit}


def test_verdict_on_quantized_models(summary: dict[str, Any]) -> None:
    with_quantized(summary)
    assert verdict(summary)[1] == "In int8 they keep 97.0 %, in a file 6.0 times smaller than the dense one."
    for row in summary["results"]:
        row.pop("size", None)
    assert verdict(summary)[1] == "In int8 they keep 97.0 %."


def test_verdict_begins_with_sparse_int8_beside_dense_int8(summary: dict[str, Any]) -> None:
    with_quantized(summary)
    for task in VALUES:
        summary["results"].append(result(task, "dense-int8", VALUES[task]["dense"] - 0.001))
        summary["results"][-1]["size"] = {"file": None, "bytes": 23e6, "encoder": 1e7, "limit": 1e7}
    models = (("dense", "torch", 9.0), ("dense-int8", "openvino", 1.9), ("dense-int8", "torch", 3.0))
    models = (*models, ("int8", "pruneonce", 0.8))
    cell = {"weights": "int8", "batch": 1, "length": "real"}
    rows = [{"model": model, "engine": engine, "milliseconds": ms, **cell} for model, engine, ms in models]
    summary["benchmark"] = {"rows": rows, "machine": {"processor": "Zen 5", "threads": 2}}
    assert verdict(summary)[0] == (
        "Beside dense int8 (99.9 % of the dense score, 23.0 MB, 1.90 ms in OpenVINO), sparse int8 has 97.0 % of the "
        "dense score, 15.0 MB, 0.800 ms in pruneonce-runtime, over 2 tasks on average."
    )
    assert verdict(summary)[-1].startswith("Int8 in pruneonce-runtime takes 0.800 ms"), (
        "the sparse one, not the dense one"
    )
    assert verdict(summary)[1] == (
        "Milliseconds of a text are those of each model's fastest engine on Zen 5, 2 threads."
    )
    rows[-1]["busy"] = True
    assert " ms " not in verdict(summary)[0], "no time of one model alone"
    summary["results"] = [row for row in summary["results"] if row["task"] == "sentiment"]
    del summary["benchmark"]
    assert verdict(summary)[0] == (
        "Beside dense int8 (87.0 % accuracy, 23.0 MB), sparse int8 has 84.4 % accuracy, 15.0 MB."
    )
    shipped = next(row for row in summary["results"] if row["arm"] == "int8")
    shipped["against"] = {"dense-int8": {"value": -0.026, "low": -0.04, "high": 0.001}}
    assert verdict(summary)[1] == (
        "Accuracy differs by -2.6 points (95 % interval -4.0 to +0.1, on the same examples)."
    )
    summary["results"] = [row for row in summary["results"] if row["arm"] != "int8"]
    assert verdict(summary)[0].endswith("the sparse model has 84.6 % accuracy, 44.0 MB.")


def test_texts_that_are_cut_are_said(tmp_path: Path, summary: dict[str, Any]) -> None:
    cut = {"cut": 1200, "texts": 5000, "share": 0.02, "most": 64, "unit": "questions"}
    assert "are cut at" not in build(tmp_path, summary)
    for one in summary["results"]:
        one["cut"] = {**cut, "cut": 0}
    assert "are cut at" not in build(tmp_path, summary)
    for one in summary["results"]:
        one["cut"] = cut
    page = " ".join(build(tmp_path, summary).split())
    assert "; 1,200 of 5,000 questions are cut at 64 tokens" in page


def test_sizes_are_shown(tmp_path: Path, summary: dict[str, Any]) -> None:
    with_quantized(summary)
    html = build(tmp_path, summary)
    rows = [cell.split() for cell in Page(html).cells]
    first = rows.index(["90.00"])
    assert rows[first : first + 5] == [["90.00"], [], ["43.00"], [], []]
    assert rows[first + 14 : first + 19] == [["15.00"], ["6.0x"], ["1.60"], ["26.9x"], ["2.0", "%"]]
    assert "Bars from 0: dense 90.0 MB, sparse 44.0 MB, int8 15.0 MB" in html
    assert re.findall(r'class="best">([\d.]+)', html)[:2] == ["84.6", "82.1"], "of the models in fp32"


def with_seeds(summary: dict[str, Any]) -> None:
    """The same run with two seeds, and a sweep of the sparse models."""
    summary["seeds"] = [7, 8]
    candidates = [
        {"settings": {"learning_rate": rate, "epochs": 4}, "value": value}
        for rate, value in ((1e-4, 0.8123), (3e-4, 0.8234), (9e-4, None))
    ]
    for row in summary["results"]:
        row.update(spread=0.02, recovery_spread=0.0123)
        if row["arm"] == "sparse":
            row["sweep"] = {"metric": "f1_macro", "split": "dev", "candidates": candidates, "chosen": 1}


def test_seeds_and_sweeps_are_shown(tmp_path: Path, summary: dict[str, Any]) -> None:
    with_seeds(summary)
    html = build(tmp_path, summary)
    cells = [cell.split() for cell in Page(html).cells]
    assert ["87.1", "±", "2.0"] in cells
    assert ["84.6", "±", "2.0", "97.1", "%", "±", "1.2"] in cells
    assert "Values are means over the seeds 7 and 8 of the tasks, with their standard deviation" in html
    tried = [[row["value"], row["settings"], row["chosen"]] for row in comparison.sweeps(by_task(summary))]
    assert tried[:3] == [
        ["81.2", "learning rate 0.0001, epochs 4", False],
        ["82.3", "learning rate 0.0003, epochs 4", True],
        ["diverged", "learning rate 0.0009, epochs 4", False],
    ]
    assert html.count("f1 macro, dev") == 6
    assert html.count(">best</td>") == 2
    assert "no more than the seeds' spread" in verdict(summary)[2], "gradual is 1.7 points away, with a spread of 2"
    assert "spread" not in verdict(summary)[1]


def by_task(summary: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    return {task: {r["arm"]: r for r in summary["results"] if r["task"] == task} for task in VALUES}


def test_the_last_row_is_the_mean_recovery(tmp_path: Path, summary: dict[str, Any]) -> None:
    cells = [cell.split() for cell in Page(build(tmp_path, summary)).cells]
    first = cells.index(["mean", "recovery", "over", "the", "tasks"])
    kept = {arm: [VALUES[task][arm] / VALUES[task]["dense"] for task in VALUES] for arm in VALUES["sentiment"]}
    shown = [f"{100 * sum(kept[arm]) / 2:.1f}" for arm in ("one-shot", "gradual", "sparse")]
    assert cells[first + 1 : first + 5] == [[], *([value, "%"] for value in shown)]
    summary["results"] = [r for r in summary["results"] if r["folder"] != "tasks/sentiment/gradual"]
    assert "95.0 % (1 of 2)" in build(tmp_path, summary)
    summary["results"] = [r for r in summary["results"] if r["task"] == "sentiment"]
    assert "mean recovery" not in build(tmp_path, summary)


def test_recovery_is_drawn_where_it_says_more_than_bars(summary: dict[str, Any]) -> None:
    results = by_task(summary)
    label = "Percent of the dense value. sentiment: sparse 97.1 %, one-shot 89.7 %, gradual 95.2 %; entailment: "
    assert label in comparison.recoveries(results, "a")
    one = {"sentiment": results["sentiment"]}
    assert comparison.recoveries(one, "a") == ""
    with_seeds(summary)
    assert comparison.recoveries(one, "a") != ""
    assert comparison.recoveries({}, "a") == ""


def test_a_recovery_that_is_not_known_is_left_out(tmp_path: Path, summary: dict[str, Any]) -> None:
    for row in summary["results"]:
        row.update(recovery=None, recovery_spread=None)
    html = build(tmp_path, summary)
    assert "84.6" in html
    assert "mean recovery" not in html
    assert not any("keep" in sentence for sentence in verdict(summary))


def test_different_metrics_are_not_called_by_one_name(summary: dict[str, Any]) -> None:
    for item in summary["results"][:4]:
        item["metric"] = "matthews_correlation"
    assert "of the dense score on average over 2 tasks" in verdict(summary)[0]


def test_a_run_that_only_pruned(tmp_path: Path, summary: dict[str, Any]) -> None:
    summary.update(results=[], stages=summary["stages"][:1])
    html = build(tmp_path, summary)
    assert "No task was measured in this run." in html
    assert 'AutoModel.from_pretrained("sparse")' in html
    assert "How good the models are" not in html
    assert sum(tag == "svg" for tag, _ in Page(html).tags) == 2


def test_missing_fields_leave_their_part_out(tmp_path: Path, summary: dict[str, Any]) -> None:
    dense, sparse = summary["results"][:2]
    dense.update(recovery=None)
    del sparse["all"], sparse["recovery"]
    bare_stage = {"name": "sparse", "stage": "prune", "folder": "sparse", "history": []}
    html = build(tmp_path, {"name": "bare", "results": [dense, sparse], "stages": [bare_stage]})
    assert "84.6" in html
    for heading in ("Where the zeros are", "How training went"):
        assert heading not in html
    assert "How to use the models" in build(tmp_path, {"name": "barest"})


def test_methods_and_patterns_are_named(tmp_path: Path, summary: dict[str, Any]) -> None:
    summary["stages"][0].update(method={"name": "obert", "gradients": 512, "block_size": 50}, pattern="1x4")
    assert "obert (gradients 512, block_size 50), 1x4" in build(tmp_path, summary)


@pytest.mark.parametrize("changes", [{"created": "2026-13-45"}, {"created": 7}, {"results": [{}]}, {"layers": [1]}])
def test_a_damaged_summary_is_one_line(changes: dict[str, Any], tmp_path: Path, summary: dict[str, Any]) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({**summary, **changes}))
    with pytest.raises(UserError, match=r"summary\.json is damaged or of another version"):
        write_report(tmp_path)


def test_no_summary_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no summary\.json in .*pruneonce run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stack", "modules", "layers", "roles"),
    [
        ("encoder.layer", BERT, 12, SIX_ROLES),
        ("transformer.layer", DISTILBERT, 6, SIX_ROLES),
        ("layers", MODERNBERT, 22, ["query, key, value", "attention output", "intermediate", "output"]),
    ],
)
def test_layers_are_grouped_by_number_and_role(stack: str, modules: list[str], layers: int, roles: list[str]) -> None:
    grid = layer_grid(reversed(names(stack, layers, modules)))
    assert grid.layers == list(range(layers))
    assert grid.roles == roles
    assert len(grid.cells) == layers * len(roles)
    for module, role in zip(modules, roles, strict=True):
        assert grid.cells[3, role] == f"{stack}.3.{module}.weight"
    assert grid.others == {}


def test_weights_in_no_layer_and_unknown_roles_keep_their_names() -> None:
    grid = layer_grid(["pooler.dense.weight", "layers.10.new.part.weight", "layers.10.mlp.Wi.weight"])
    assert grid.others == {"pooler": "pooler.dense.weight"}
    assert grid.layers == [10]
    assert grid.roles == ["intermediate", "new.part"]


@pytest.mark.parametrize("layers", [6, 12, 22, 24])
def test_the_map_prints_each_weight(tmp_path: Path, layers: int) -> None:
    weights = [*names("encoder.layer", layers, BERT), "pooler.dense.weight"]
    values = [{"name": name, "sparsity": 0.5 + i / 1000} for i, name in enumerate(weights)]
    html = build(tmp_path, {"name": "map", "layers": values})
    printed = re.findall(r"<text[^>]*>([\d.]+)</text>", html)
    assert printed == [f"{100 * value['sparsity']:.1f}" for value in values]
    assert f">layer {layers - 1}</text>" in html
    assert ">pooler</text>" in html


def test_curves_draw_what_there_is() -> None:
    both = [{"step": 1, "loss": 1.0, "learning_rate": 0.1}, {"step": 2, "loss": 0.5, "learning_rate": 0.0}]
    assert 'aria-label="loss, learning rate over 2 steps"' in curves(both, "sparse", "a")
    assert 'aria-label="loss over 7 steps"' in curves([{"step": 7, "loss": 1.0}], "dense", "a")
    assert curves([{"step": 1}], "dense", "a") == ""


def test_bars_below_zero() -> None:
    assert ">-5.0</text>" in bars({"dense": 0.5, "sparse": -0.05}, "a")
