"""The runs of a list (study.yaml): their recipes, and the runs whose finished stages each takes over."""

import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pruneonce import recipe
from pruneonce.config import safe_yaml
from pruneonce.runs.staleness import stale
from pruneonce.system import durable

PRETRAINING = ("model", "sparse_model", "seed", "corpus", "prepare", "prune")  # what sparse pre-training depends on
# Of a run alone; all else in its folder belongs to one of its stages.
LEFT_OUT = {"recipe.yaml", "inputs.json", "summary.json", "report.html", "lock"}


@dataclass(frozen=True)
class Job:
    """One run of the product: a task with a seed or, without a task, sparse pre-training alone."""

    run: str
    task: str | None = None
    seed: int | None = None

    def __str__(self) -> str:
        return f"{self.run}/{'pretraining' if self.task is None else f'{self.task}-{self.seed}'}"

    @property
    def folder(self) -> Path:
        return Path(str(self))


class Runs:
    """A list of runs. Paths in recipes are those of the working folder, and so are the folders of jobs."""

    def __init__(self, file: Path):
        self.settings = safe_yaml.read(file)
        self.base = file.parent / self.settings["recipe"]
        self.runs: dict[str, dict[str, Any]] = {}
        for name, run in self.settings["runs"].items():
            inherited = self.runs.get(run.get("from", ""), {})
            self.runs[name] = {**inherited, **run, "sets": [*inherited.get("sets", []), run.get("set", {})]}
        self._tasks = list(safe_yaml.read(self.base)["tasks"])
        self._recipes: dict[Job, recipe.Recipe] = {}

    @cached_property
    def jobs(self) -> list[Job]:
        """All jobs in the order of the list, each after those that it needs."""
        found: dict[Job, None] = {}

        def add(job: Job) -> None:
            for need in self.needs(job):
                add(need)
            found[job] = None

        for name, run in self.runs.items():
            add(self.pretraining(name))
            for seed in run.get("seeds", [1]):
                for task in run.get("tasks", []):
                    add(Job(name, task, seed))
        return list(found)

    def pretraining(self, name: str) -> Job:
        """The job that pre-trains the sparse model of a run: that of the first run with equal settings."""
        return self._pretraining[name]

    @cached_property
    def _pretraining(self) -> dict[str, Job]:
        first: dict[str, Job] = {}
        settings = {name: self.recipe(Job(name)).model_dump_json(include=set(PRETRAINING)) for name in self.runs}
        return {name: first.setdefault(said, Job(name)) for name, said in settings.items()}

    def recipe(self, job: Job) -> recipe.Recipe:
        """The recipe of a job: the base recipe, the changes of the run and of the task, and no other task."""
        if job not in self._recipes:
            run = self.runs[job.run]
            sets = [*run["sets"], {"name": job.run}]
            if isinstance(run.get("tasks"), dict) and job.task:
                sets.append(run["tasks"][job.task])
            if job.task:
                sets.append({"seeds": [job.seed]})
            overrides = [f"{key}={_flow(value, job)}" for changes in sets for key, value in changes.items()]
            dropped = [f"tasks.{task}=null" for task in self._tasks if task != job.task]
            dropped += [] if job.task else ["baselines=null"]  # some have settings for a task alone
            self._recipes[job] = recipe.load(str(self.base), [*overrides, *dropped])
        return self._recipes[job]

    def needs(self, job: Job) -> list[Job]:
        """The jobs that come before: those that stages are taken over from, and those whose models a recipe names."""
        own = self.recipe(job)
        named = [own.sparse_model, *(task.teacher_model for task in own.tasks.values())]
        return [*self.parents(job), *(_job(name) for name in named if name and "/" in name)]

    def parents(self, job: Job) -> list[Job]:
        """The jobs that finished stages are taken over from."""
        run = self.runs[job.run]
        if job.task is None:
            found = [self.pretraining(run["from"])] if "from" in run else []
        else:
            others = [name for name in (run.get("from"), *self.settings.get("teachers", [])) if name]
            found = [self.pretraining(job.run)]
            found += [Job(name, job.task, job.seed) for name in others if self._has(name, job.task, job.seed)]
        return [parent for parent in dict.fromkeys(found) if parent != job]

    def _has(self, name: str, task: str, seed: int | None) -> bool:
        run = self.runs[name]
        return task in run.get("tasks", []) and seed in run.get("seeds", [1])

    def begin(self, job: Job) -> None:
        """Make the job's folder of the finished stages of its parents that its own recipe would make likewise."""
        if job.folder.is_dir():
            return
        aside = durable.partial(job.folder)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        resolved = self.recipe(job).model_dump(mode="json")
        for parent in self.parents(job):
            before = safe_yaml.read(parent.folder / "recipe.yaml")
            outdated = stale(parent.folder, before, self.recipe(job))
            for file in (path for path in parent.folder.rglob("*") if path.is_file()):
                name = file.relative_to(parent.folder)
                theirs = name.as_posix().startswith(tuple(f"{stage}{end}" for stage in outdated for end in "/."))
                if not theirs and name.name not in LEFT_OUT and not (aside / name).exists():
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    os.link(file, aside / name)
        durable.write_text(aside / "recipe.yaml", yaml.safe_dump(resolved, sort_keys=False))
        durable.publish(aside, job.folder)


def _flow(value: Any, job: Job) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=100_000).removesuffix("...\n").strip()
    return text.replace("{task}", str(job.task)).replace("{seed}", str(job.seed))


def _job(model: str) -> Job:
    """The job that makes a model, by the model's path: RUN/pretraining/... or RUN/TASK-SEED/..."""
    run, name, *_ = Path(model).parts
    task, _, seed = name.rpartition("-")
    return Job(run) if name == "pretraining" else Job(run, task, int(seed))
