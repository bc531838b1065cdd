"""The tables and the plot of a study, out of its result: recovery, ablations, bytes, distances, budgets.

A result has, beside what benchmarks/tables.py says,

- `tasks`: `metric` and `full_score` of each task; `family`: the tasks of one sparse model and one packed file.
- `list`: the file that lists the runs; `runs`: `zeros` (percent) and what that file says of each.
- `training[task][run][arm]` and `pretraining[run]`: tokens, minutes and held-out losses.
- `sizes[run][arm]` and `packed[zeros]`: bytes of packed models and of as many dense ones; `distance[run][text]`.
"""

from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

Result = dict[str, Any]
Block = str | dict[str, Any]

ARMS = {"sparse": "{}", "int8-ptq": "{}, calibrated to int8", "int8": "{}, trained in int8"}
ARMS |= {"one-shot": "one-shot pruning", "gradual": "gradual pruning"}
Row = tuple[float, str]  # percent of zeros, name


class Recoveries:
    """The rows of the table of recovery: `values[row][task][seed]`, in percent, on test or, for want of it, on dev."""

    def __init__(self, result: Result):
        self.tasks, self.family = list(result["tasks"]), result["family"]
        self.metrics: dict[str, str] = {}
        self.dense: dict[str, dict[str, float]] = {}
        self.values: dict[Row, dict[str, dict[str, float]]] = {}
        for task in self.tasks:
            self.dense[task] = self._percents(result, task, "dense", "dense")
            for (name, run), arm in product(result["runs"].items(), ARMS):
                found = self._percents(result, task, name, arm) if "table" not in run else {}
                if found:
                    row = (run["zeros"], ARMS[arm].format(run["label"]))
                    self.values.setdefault(row, {}).setdefault(task, {}).update(found)
        names = [ARMS[arm].format(run["label"]) for run in result["runs"].values() for arm in ARMS]
        self.rows = sorted(self.values, key=lambda row: (row[0], names.index(row[1])))

    def _percents(self, result: Result, task: str, run: str, arm: str) -> dict[str, float]:
        found = {}
        for seed, splits in result["results"].get(task, {}).get(run, {}).get(arm, {}).items():
            split = "test" if "test" in splits else "dev"
            self.metrics[task] = f"{result['tasks'][task]['metric']}, {split}"
            found[seed] = percent(result, task, splits[split])
        return found

    def of(self, row: Row, task: str) -> dict[str, float]:
        """Percent of the dense model of the same seed, by seed."""
        values, dense = self.values[row].get(task, {}), self.dense[task]
        return {seed: 100 * value / dense[seed] for seed, value in values.items() if seed in dense}

    def means(self, row: Row, seed: str | None = None) -> list[str]:
        """The mean recovery over the family and over all tasks, with the number of tasks that have one."""
        by_task = {task: self.of(row, task) for task in self.tasks}
        kept = {task: [value for one, value in of.items() if seed in (None, one)] for task, of in by_task.items()}
        shown = []
        for tasks in (self.family, self.tasks):
            there = [fmean(kept[task]) for task in tasks if kept.get(task)]
            shown.append(f"{fmean(there):.1f} (of {len(there)})" if there else "-")
        return shown


def percent(result: Result, task: str, metrics: dict[str, float]) -> float:
    said = result["tasks"][task]
    return 100 * metrics[said["metric"]] / float(said["full_score"])


def blocks_of(result: Result, name: str) -> list[Block]:
    """The page of a study; `name` is that of its plot."""
    found = Recoveries(result)
    blocks = [f"Runs and settings: [{result['list']}](../study/{result['list']}).", *recovery(found, name)]
    return [*blocks, *pretraining(result), *transfer(result), *sizes(result), *distances(result), *budgets(result)]


def recovery(found: Recoveries, name: str) -> list[Block]:
    others = ", ".join(task for task in found.tasks if task not in found.family)
    family = f"all tasks but {others}" if others else "all tasks"
    columns = ["zeros, %", "model", *(f"{task} ({found.metrics.get(task, '-')})" for task in found.tasks)]
    rows: list[list[Any]] = [["0", "dense", *(spread(found.dense[task]) for task in found.tasks), "100", "100"]]
    for row in found.rows:
        cells = [spread(found.values[row].get(task, {}), found.of(row, task)) for task in found.tasks]
        rows.append([f"{row[0]:g}", row[1], *cells, *found.means(row)])
    blocks: list[Block] = [
        {"heading": "Recovery"},
        "A cell is the value in percent and, in brackets, the recovery: the percent of the dense model with the same "
        "seed. Several seeds have their mean and, after ±, the standard deviation.",
        f"The last columns are mean recoveries: of the family ({family}) and of all tasks.",
        {"columns": [*columns, "mean of the family", "mean"], "rows": rows},
        f"![recovery]({name}.svg)",
    ]
    by_seed = []
    for row in found.rows:
        kept = {task: found.of(row, task) for task in found.tasks}
        seeds = sorted({seed for values in kept.values() for seed in values})
        for seed in seeds if len(seeds) > 1 else ():
            by_seed.append(
                [f"{row[0]:g}", row[1], seed, *(kept[task].get(seed) for task in found.tasks), *found.means(row, seed)]
            )
    if by_seed:
        of_tasks = [{"name": task, "format": "{:.1f}", "missing": "-"} for task in found.tasks]
        heads = ["zeros, %", "model", "seed", *of_tasks, "mean of the family", "mean"]
        blocks += ["Recovery of each seed, in percent:", {"columns": heads, "rows": by_seed}]
    return blocks


def spread(values: dict[str, float], recoveries: dict[str, float] | None = None) -> str:
    if not values:
        return "-"
    numbers = list(values.values())
    around = f" ± {stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{fmean(numbers):.1f}{around}" + (f" ({fmean(recoveries.values()):.1f})" if recoveries else "")


def pretraining(result: Result) -> list[Block]:
    """Variants of a short sparse pre-training, by their held-out loss."""
    runs = {name: run for name, run in result["runs"].items() if run.get("table") == "pretraining"}
    spent = result.get("pretraining", {})
    rows = [[run["label"], spent[name].get("hidden"), spent[name]["minutes"]] for name, run in runs.items()]
    if not rows:
        return []
    columns = ["variant", {"name": "held-out loss", "format": "{:.4f}", "missing": "-"}]
    return [
        {"heading": "What helps sparse pre-training"},
        "Sparse pre-training to 90 % in 400 steps of 16 x 64 tokens. The loss is that of hidden states on held-out "
        "blocks; a model equal to the dense one has 0. Each variant is a change of the base.",
        "Two variants have held-out blocks of their own: the corpus with the tasks' texts, and blocks of 256.",
        {"columns": [*columns, {"name": "minutes", "format": "{:.1f}"}], "rows": rows},
    ]


def transfer(result: Result) -> list[Block]:
    """Variants of the transfer, a table for each group."""
    groups: dict[str, list[str]] = {}
    for name, run in result["runs"].items():
        if run.get("table") == "transfer":
            groups.setdefault(run["group"], []).append(name)
    blocks: list[Block] = []
    for group, names in groups.items():
        tasks = [task for task, runs in result["results"].items() if set(names) & runs.keys()]
        models = {name: (name, result["runs"][name].get("arm", "sparse")) for name in names}
        measured = [result["results"][task][name][arm] for task in tasks for name, arm in models.values()
                    if name in result["results"][task]]  # fmt: skip
        seeds = {"1", *(seed for of_seeds in measured for seed in of_seeds)}
        rows = []
        for name, (run, arm) in {"dense": ("dense", "dense"), **models}.items():
            on_dev = [dev(result, task, run, arm, seeds) for task in tasks]
            mean = fmean(values[0] for values in on_dev) if all(on_dev) else None
            label = "dense" if name == "dense" else result["runs"][name]["label"]
            rows.append([label, *(" / ".join(f"{value:.1f}" for value in values) or "-" for values in on_dev), mean])
        columns = [group, *tasks, {"name": "mean", "format": "{:.1f}", "missing": "-"}]
        blocks.append({"columns": columns, "rows": rows})
    said = (
        "The variants of a table start from the same sparse model. Cells are the task's metric on dev in percent, of "
        "each seed that has run; means are those of the first seed. Each variant is a change of the first."
    )
    return [{"heading": "What helps the transfer"}, said, *blocks] if blocks else []


def dev(result: Result, task: str, run: str, arm: str, seeds: set[str]) -> list[float]:
    found = result["results"].get(task, {}).get(run, {}).get(arm, {})
    there = {seed: splits["dev"] for seed, splits in sorted(found.items()) if seed in seeds and "dev" in splits}
    return [percent(result, task, metrics) for metrics in there.values()]


def sizes(result: Result) -> list[Block]:
    """Bytes of packed models, and how many times smaller than the dense ones they are."""
    first, *others = result["family"]
    shown = {"sparse": f"{first}, fp32", "int8-ptq": f"{first}, int8"}
    packed = {
        (result["runs"][run]["zeros"], shown[arm]): size
        for run, arms in result.get("sizes", {}).items()
        for arm, size in arms.items()
    }
    whole = f"{first} and {len(others)} others, int8, in one file"
    packed |= {(float(zeros), whole): size for zeros, size in result.get("packed", {}).items()}
    if not packed:
        return []
    rows = [
        [*key, size["bytes"], size["dense"] / size["bytes"], size["encoder"], size["dense_encoder"] / size["encoder"]]
        for key, size in sorted(packed.items(), key=lambda item: item[0][0])
    ]
    number, times = ({"format": "{:,}"}, {"name": "smaller", "format": "{:.1f}x"})
    zeros = {"name": "zeros, %", "format": "{:g}"}
    return [
        {"heading": "Bytes"},
        "A packed file holds config, tokenizer and the places of the zeros. It is compared with the fp32 weights of as "
        "many dense models, and its encoders with theirs.",
        {
            "columns": [zeros, "packed", {"name": "file", **number}, times, {"name": "encoder", **number}, times],
            "rows": rows,
        },
    ]


def distances(result: Result) -> list[Block]:
    """The loss of hidden states by kind of text, a column for each sparse model."""
    found = {run: result["distance"][run] for run in result["runs"] if run in result.get("distance", {})}
    if not found:
        return []
    columns = [{"name": run, "format": "{:.3f}", "missing": "-"} for run in found]
    kinds = max(found.values(), key=len)
    return [
        {"heading": "What sparse models read badly"},
        "The loss of hidden states on 200 texts of each kind: blocks of running text of the corpus, its sentences, and "
        "examples of the tasks' dev splits. A column is the sparse model of a run in study.yaml.",
        {"columns": ["text", *columns], "rows": [[kind, *(of.get(kind) for of in found.values())] for kind in kinds]},
    ]


def budgets(result: Result) -> list[Block]:
    number, minutes = {"name": "tokens", "format": "{:,}"}, {"name": "minutes", "format": "{:.1f}"}
    losses = [{"name": name, "format": "{:.4f}", "missing": "-"} for name in ("held-out loss", "of hidden states")]
    before = [
        [name, spent["tokens"], spent["minutes"], spent.get("loss", spent.get("hidden")), spent.get("hidden")]
        for name, spent in result.get("pretraining", {}).items()
    ]
    after = [
        [task, name, arm, spent["tokens"], spent["minutes"]]
        for task, runs in result.get("training", {}).items()
        for name, arms in runs.items()
        for arm, spent in arms.items()
    ]
    return [
        {"heading": "Budgets"},
        "Tokens through the student, and minutes of training. The held-out loss is that of the objective.",
        {"columns": ["run", number, minutes, *losses], "rows": before},
        {"columns": ["task", "run", "arm", number, minutes], "rows": after},
    ]


def plot(found: Recoveries, file: Path) -> None:
    """The recovery of each task: a panel for each share of zeros, a colour for each row."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shares, names = list(dict.fromkeys(row[0] for row in found.rows)), list(dict.fromkeys(row[1] for row in found.rows))
    if not shares:
        return
    figure = Figure(figsize=(2 + 1.1 * len(found.tasks), 0.5 + 2.4 * len(shares)), layout="constrained")
    for panel, share in enumerate(shares, start=1):
        axes = figure.add_subplot(len(shares), 1, panel)
        rows = [row for row in found.rows if row[0] == share]
        width, lowest = 0.8 / max(2, len(rows)), 60.0
        for index, task in enumerate(found.tasks):
            kept = {row[1]: list(values.values()) for row in rows if (values := found.of(row, task))}
            for place, (name, bars) in enumerate(kept.items()):
                lowest = min(lowest, *bars)
                at = index + (place - (len(kept) - 1) / 2) * width
                error = stdev(bars) if len(bars) > 1 else 0.0
                axes.bar(at, fmean(bars), width=0.95 * width, yerr=error, color=f"C{names.index(name)}")
        axes.axhline(100, color="0.5", linewidth=0.8)
        axes.set_xticks(range(len(found.tasks)), found.tasks)
        axes.set_xlim(-0.5, len(found.tasks) - 0.5)
        axes.set_ylim(60 if lowest == 60 else 0, 103)  # a short bar tells its length only from 0
        axes.set_ylabel(f"% of dense, {share:g} % zeros")
    handles = [Patch(color=f"C{number}", label=name) for number, name in enumerate(names)]
    # Two columns: in three, the longest names are wider than the figure.
    figure.legend(handles=handles, ncols=min(2, len(handles)), fontsize="small", loc="outside upper center")
    with rc_context({"svg.hashsalt": "study"}):  # the same numbers, the same file
        figure.savefig(file, metadata={"Date": None})
