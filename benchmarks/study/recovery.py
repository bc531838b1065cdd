"""What sparse models keep of their dense ones, of whatever was measured."""

from typing import Any

from collected import Found

from pruneonce import recipe

SHOWN = {
    "sparse": "prune once",
    "int8": "and calibrated to int8",
    "int8-trained": "or trained on in int8",
    "more": "prune once, in batches of 64",
    "small": "prune once, in batches of 4",
    "short": "prune once, a fifth of the tokens",
    "related": "the same, by relations too",
    "related-twice": "the same, and in the transfer",
    "rewound": "prune once, half of the tokens, by relations too, rewound",
    "masked-words": "prune once, by masked words",
    "both": "prune once, by both",
    "one-shot": "one-shot",
    "gradual": "gradual",
    "dense": "dense",
}


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
