"""The tables of the study, of whatever was measured."""

from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from collected import Found, slug
from plot import plot
from recovery import SHOWN, Values, metric_of, percent

STARTS = {
    "sparse": "sparse pre-training",
    "masked-words": "sparse pre-training by masked words",
    "both": "sparse pre-training by masked words and hidden states",
    "long-blocks": "going on with blocks of 256",
    "more": "sparse pre-training in batches of 64",
    "more-long-blocks": "going on with blocks of 256 in batches of 64",
    "small": "sparse pre-training in batches of 4, four times the steps",
    "small-long-blocks": "going on with blocks of 256 in batches of 4, four times the steps",
    "short": "sparse pre-training, a fifth of the steps",
    "short-long-blocks": "going on with blocks of 256, a fifth of the steps",
    "related": "sparse pre-training by hidden states and relations, a fifth of the steps",
    "related-long-blocks": "going on with blocks of 256 by hidden states and relations, a fifth of the steps",
    "rewound": "sparse pre-training by hidden states and relations, rewound, half of the steps",
    "rewound-long-blocks": "going on with blocks of 256 by hidden states and relations, half of the steps",
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
        rows = []
        for name in ["dense", *ablation["variants"]]:
            values = [_on_dev(measured, title, task, name, metric_of(settings["tasks"][task])) for task in tasks]
            there = [found[0] for found in values if found]
            if there:
                cells = [" / ".join(f"{value:.1f}" for value in found) or "-" for found in values]
                average = f"{mean(there):.1f}" if len(there) == len(values) else "-"
                rows.append(f"| {name} | {' | '.join(cells)} | {average} |")
        if rows[1:]:  # more than dense
            lines += ["", f"| {shown} | {' | '.join(tasks)} | mean |", "|---" * (len(tasks) + 2) + "|", *rows]
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
            loss = spent.get("hidden", spent["loss"])  # of hidden states, where there are others beside
            what = f"{STARTS[arm]}, {100 * float(zeros):g} % (held-out loss {loss:.4f})"
            lines.append(f"| {what} | {spent['tokens']:,} | {spent['minutes']:.1f} |")
    for task in tasks:
        for model, spent in sorted(measured["spent"].get(task, {}).items()):
            lines.append(f"| {task}, {model} | {spent['tokens']:,} | {spent['minutes']:.1f} |")
    return [*lines, ""]
