"""The tables and the plot of the study, of whatever was measured."""

from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from collected import Found, slug
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pruneonce import recipe

SHOWN = {
    "sparse": "prune once",
    "int8": "and calibrated to int8",
    "int8-trained": "or trained on in int8",
    "more": "prune once, in batches of 64",
    "small": "prune once, in batches of 4",
    "masked-words": "prune once, by masked words",
    "both": "prune once, by both",
    "one-shot": "one-shot",
    "gradual": "gradual",
    "dense": "dense",
}
STARTS = {
    "sparse": "sparse pre-training",
    "masked-words": "sparse pre-training by masked words",
    "both": "sparse pre-training by masked words and hidden states",
    "long-blocks": "going on with blocks of 256",
    "more": "sparse pre-training in batches of 64",
    "more-long-blocks": "going on with blocks of 256 in batches of 64",
    "small": "sparse pre-training in batches of 4, four times the steps",
    "small-long-blocks": "going on with blocks of 256 in batches of 4, four times the steps",
    "full-blocks": "3000 steps of full blocks",
    "gradual": "gradual pruning",
}


def write(measured: Found, file: Path, settings: dict[str, Any]) -> None:
    """`file` (.md) and, beside it, the plot (.svg), of what `collected.update` returns."""
    tasks = list(settings["tasks"])
    found = Values(measured, settings)
    lines = [
        "# What sparse models lose on tasks",
        "",
        f"{measured['how']} Settings: [study.yaml](../study/study.yaml).",
        "",
        *main_tables(found, tasks, settings["family"], file.with_suffix(".svg").name),
        *pretraining(measured, settings),
        *transfer(measured, settings),
    ]
    lines += [*sizes(measured, settings), *distances(measured, settings), *budgets(measured, tasks)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot(found, tasks, file.with_suffix(".svg"))


class Values:
    """What was measured: `values[task, arm, zeros]` is `{seed: value}` on test, or on dev where there is no test."""

    def __init__(self, measured: Found, settings: dict[str, Any]):
        self.values: dict[tuple[str, str, str], dict[int, float]] = {}
        self.metric: dict[str, str] = {}
        for task, said in settings["tasks"].items():
            metric = metric_of(said)
            for name, seeds in measured.get("tasks", {}).get(task, {}).items():
                arm, _, zeros = name.rpartition("-") if name != "dense" else ("dense", "", "0")
                for seed, splits in seeds.items():
                    split = "test" if "test" in splits else "dev"
                    self.metric[task] = f"{metric}, {split}"
                    self.values.setdefault((task, arm, zeros), {})[int(seed)] = percent(splits[split][metric])

    def recoveries(self, task: str, arm: str, zeros: str) -> dict[int, float]:
        """Percent of the dense model of the same seed, by seed."""
        dense = self.values.get((task, "dense", "0"), {})
        ours = self.values.get((task, arm, zeros), {})
        return {seed: 100 * value / dense[seed] for seed, value in ours.items() if seed in dense}

    def arms(self) -> list[tuple[str, str]]:
        """`(zeros, arm)` in the order of the tables."""
        found = {(zeros, arm) for _, arm, zeros in self.values if arm != "dense"}
        return sorted(found, key=lambda one: (one[0], list(SHOWN).index(one[1])))


def metric_of(task: dict[str, Any]) -> str:
    kind = recipe.KINDS[task.get("kind", "classification")]
    return task.get("metric", kind.model_fields["metric"].default)  # type: ignore[no-any-return]


def percent(value: float) -> float:
    """SQuAD's metrics are in percent as they come."""
    return value if value > 1 else 100 * value


def main_tables(found: Values, tasks: list[str], family: list[str], image: str) -> list[str]:
    heads = " | ".join(f"{task} ({found.metric.get(task, '-')})" for task in tasks)
    dense = " | ".join(cell(found.values.get((task, "dense", "0"), {})) for task in tasks)
    lines = [
        "## Recovery",
        "",
        "Values in percent, and in brackets the percent of the dense model with the same seed; with several seeds "
        "their mean, and after ± the standard deviation. The means are those of the recoveries, of the family (all "
        f"but {', '.join(task for task in tasks if task not in family)}) and of all tasks; arms can be compared by "
        "them where they have as many tasks.",
        "",
        f"| zeros | arm | {heads} | mean of the family | mean |",
        "|---" * (len(tasks) + 4) + "|",
        f"| 0 | dense | {dense} | 100 | 100 |",
    ]
    for zeros, arm in found.arms():
        kept = {task: found.recoveries(task, arm, zeros) for task in tasks}
        cells = [cell(found.values.get((task, arm, zeros), {}), kept[task]) for task in tasks]
        means = {task: mean(values.values()) for task, values in kept.items() if values}
        shown = [average(means, of) for of in (family, tasks)]
        lines.append(f"| {100 * float(zeros):g} | {SHOWN[arm]} | {' | '.join([*cells, *shown])} |")
    return [*lines, "", f"![recovery]({image})", "", *by_seed(found, tasks, family)]


def by_seed(found: Values, tasks: list[str], family: list[str]) -> list[str]:
    """Recoveries of the arms that have several seeds, a row for each."""
    rows = []
    for zeros, arm in found.arms():
        seeds = sorted({seed for task in tasks for seed in found.recoveries(task, arm, zeros)})
        for seed in seeds if len(seeds) > 1 else ():
            every = {task: found.recoveries(task, arm, zeros) for task in tasks}
            kept = {task: values[seed] for task, values in every.items() if seed in values}
            cells = [f"{kept[task]:.1f}" if task in kept else "-" for task in tasks]
            shown = [average(kept, of) for of in (family, tasks)]
            rows.append(f"| {100 * float(zeros):g} | {SHOWN[arm]} | {seed} | {' | '.join([*cells, *shown])} |")
    if not rows:
        return []
    heading = f"| zeros | arm | seed | {' | '.join(tasks)} | mean of the family | mean |"
    lines = ["Of several seeds, each alone, in percent of dense:", "", heading, "|---" * (len(tasks) + 5) + "|"]
    return [*lines, *rows, ""]


def average(recoveries: dict[str, float], of: list[str]) -> str:
    there = [recoveries[task] for task in of if task in recoveries]
    return f"{mean(there):.1f} (of {len(there)})" if there else "-"


def cell(values: dict[int, float], recoveries: dict[int, float] | None = None) -> str:
    if not values:
        return "-"
    numbers = list(values.values())
    spread = f" ± {stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.1f}{spread}" + (f" ({mean(recoveries.values()):.1f})" if recoveries else "")


def pretraining(measured: Found, settings: dict[str, Any]) -> list[str]:
    """Variants of sparse pre-training, by their held-out loss."""
    rows = []
    for name, changes in settings["pretraining"].items():
        spent = measured["pretrained"].get(f"ablation-{slug(name)}-0.9")
        if spent:
            mlm = changes.get("objective") == "mlm"  # which does not look at hidden states
            loss = "-" if mlm else f"{spent.get('hidden', spent['loss']):.4f}"
            rows.append(f"| {name} | {loss} | {spent['minutes']:.1f} |")
    if not rows:
        return []
    lines = [
        "## What helps sparse pre-training",
        "",
        f"90 %, {settings['ablation']['steps']} steps of 16 x 64 tokens, the loss of hidden states on held-out blocks "
        "(0: equal to the dense model's). One change of the first at a time. With the texts of the tasks in the "
        "corpus, such texts are among the held-out ones too, and with blocks of 256 these are as long.",
        "",
        "| variant | held-out loss | minutes |",
        "|---|---|---|",
    ]
    return [*lines, *rows, ""]


def transfer(measured: Found, settings: dict[str, Any]) -> list[str]:
    """Variants of the transfer, on dev."""
    if not measured.get("transfer"):
        return []
    said = (
        "From the same model, the task's metric on dev in percent, of each seed that has run; means are of the first. "
        "One change of the base at a time."
    )
    lines = ["## What helps the transfer", "", said]
    for title, ablation in settings["transfer_ablation"].items():
        tasks, zeros = ablation["tasks"], title.rpartition("-")[2]
        shown = f"{STARTS[ablation['arm']]}, {100 * float(zeros):g} %"
        lines += ["", f"| {shown} | {' | '.join(tasks)} | mean |", "|---" * (len(tasks) + 2) + "|"]
        for name in ["dense", *ablation["variants"]]:
            values = [_on_dev(measured, title, task, name, metric_of(settings["tasks"][task])) for task in tasks]
            there = [found[0] for found in values if found]
            if there:
                cells = [" / ".join(f"{value:.1f}" for value in found) or "-" for found in values]
                average = f"{mean(there):.1f}" if len(there) == len(values) else "-"
                lines.append(f"| {name} | {' | '.join(cells)} | {average} |")
    return [*lines, ""]


def _on_dev(measured: Found, ablation: str, task: str, name: str, metric: str) -> list[float]:
    """In percent, of a variant with each of its seeds, or of the dense model with those that any variant has."""
    tried = measured["transfer"].get(ablation, {}).get(task, {})
    seeds = tried.get(name, {})
    if name == "dense":
        ran = {"1", *(seed for of_variant in tried.values() for seed in of_variant)}
        dense = measured["tasks"].get(task, {}).get("dense", {})
        seeds = {seed: dense[seed] for seed in dense if seed in ran}
    return [percent(splits["dev"][metric]) for _, splits in sorted(seeds.items()) if "dev" in splits]


def sizes(measured: Found, settings: dict[str, Any]) -> list[str]:
    """Bytes of packed models, and how often those of the dense ones hold them."""
    if not measured.get("sizes"):
        return []
    first, *others = settings["family"]
    shown = {
        "sparse": f"{first}, sparse, fp32",
        "int8": f"{first}, int8",
        "all": f"{first} and {len(others)} others, int8, in one file",
    }
    lines = [
        "## Bytes",
        "",
        "Of packed files, with config, tokenizer and the places of the zeros, and of their encoders; against the fp32 "
        "weights of as many dense models.",
        "",
        "| zeros | packed | file | smaller | encoder | smaller |",
        "|---|---|---|---|---|---|",
    ]
    for zeros, found in sorted(measured["sizes"].items()):
        for name, size in found.items():
            times = [size["dense"] / size["file"], size["dense encoder"] / size["encoder"]]
            lines.append(
                f"| {100 * float(zeros):g} | {shown[name]} | {size['file']:,} | {times[0]:.1f}x | "
                f"{size['encoder']:,} | {times[1]:.1f}x |"
            )
    return [*lines, ""]


def distances(measured: Found, settings: dict[str, Any]) -> list[str]:
    """The loss of hidden states by what is read, a column for each sparse model."""
    there = measured.get("distance", {})
    found = {title: there[name] for title, name in settings["distance"].items() if name in there}
    if not found:
        return []
    lines = [
        "## What sparse models read badly",
        "",
        "The loss of hidden states on running text of the corpus in blocks of so many tokens, on its sentences, and on "
        "examples of the tasks' dev splits, 200 of each.",
        "",
        f"| what is read | {' | '.join(found)} |",
        "|---" * (len(found) + 1) + "|",
    ]
    for kind in max(found.values(), key=len):
        cells = [f"{values[kind]:.3f}" if kind in values else "-" for values in found.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return [*lines, ""]


def budgets(measured: Found, tasks: list[str]) -> list[str]:
    """Tokens and minutes of what was trained."""
    lines = ["## Budgets", "", "Tokens through the student; minutes of training.", ""]
    lines += ["| what | tokens | minutes |", "|---|---|---|"]
    for arm, (model, spent) in product(STARTS, sorted(measured["pretrained"].items())):
        name, _, zeros = model.rpartition("-")
        if name == arm:
            what = f"{STARTS[arm]}, {100 * float(zeros):g} % (held-out loss {spent['loss']:.4f})"
            lines.append(f"| {what} | {spent['tokens']:,} | {spent['minutes']:.1f} |")
    for task in tasks:
        for model, spent in sorted(measured["spent"].get(task, {}).items()):
            lines.append(f"| {task}, {model} | {spent['tokens']:,} | {spent['minutes']:.1f} |")
    return [*lines, ""]


def plot(found: Values, tasks: list[str], file: Path) -> None:
    """Recovery of each task, an arm a colour, a panel for each share of zeros."""
    zeros = sorted({each for each, _ in found.arms()})
    if not zeros:
        return
    everywhere = [arm for arm in SHOWN if any(arm == each for _, each in found.arms())]
    figure = Figure(figsize=(2 + 1.1 * len(tasks), 0.5 + 2.4 * len(zeros)), layout="constrained")
    for number, share in enumerate(zeros, start=1):
        axes = figure.add_subplot(len(zeros), 1, number)
        arms = [arm for each, arm in found.arms() if each == share]
        width = 0.8 / max(2, len(arms))
        lowest = 60.0
        for place, arm in enumerate(arms):
            kept = {index: found.recoveries(task, arm, share) for index, task in enumerate(tasks)}
            kept = {index: values for index, values in kept.items() if values}
            lowest = min(lowest, *(min(values.values()) for values in kept.values()))
            axes.bar(
                [index + (place - (len(arms) - 1) / 2) * width for index in kept],
                [mean(values.values()) for values in kept.values()],
                width=0.95 * width,
                yerr=[stdev(values.values()) if len(values) > 1 else 0.0 for values in kept.values()],
                color=f"C{everywhere.index(arm)}",
            )
        axes.axhline(100, color="0.5", linewidth=0.8)
        axes.set_xticks(range(len(tasks)), tasks)
        axes.set_xlim(-0.5, len(tasks) - 0.5)
        axes.set_ylim(60 if lowest == 60 else 0, 103)  # a short bar tells its length only from 0
        axes.set_ylabel(f"% of dense, {100 * float(share):g} % zeros")
    handles = [Patch(color=f"C{number}", label=SHOWN[arm]) for number, arm in enumerate(everywhere)]
    figure.legend(handles=handles, ncols=min(4, len(handles)), fontsize="small", loc="outside upper center")
    with rc_context({"svg.hashsalt": "study"}):  # the same numbers, the same file
        figure.savefig(file, metadata={"Date": None})
