"""Run a recipe: its stages in order, every task from the one sparse model, then the summary and the report."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.rule import Rule
from rich.text import Text

from pruneonce import quantization, stages
from pruneonce.config import safe_yaml
from pruneonce.console import console
from pruneonce.engines import ENGINES, require
from pruneonce.errors import UserError
from pruneonce.export import FORMATS
from pruneonce.models import PROVENANCE, check_weights, load_config, load_tokenizer
from pruneonce.models.architectures import check_given, check_length, check_supported, empty_encoder, layers_found
from pruneonce.models.given_roles import giving
from pruneonce.recipe import Quantization, Recipe, Transfer
from pruneonce.recipe.arms import ARMS, DENSE, SPARSE, arms_of
from pruneonce.report import write_report
from pruneonce.runs import inputs
from pruneonce.runs.certificates import write_certificates
from pruneonce.runs.layout import BENCHMARK, arm_models, make_room_for_seeds
from pruneonce.runs.staleness import differences, stale
from pruneonce.runs.summary import summarize
from pruneonce.runs.task_run import TaskRun
from pruneonce.stages.prune import check_same_shape, check_same_tokens
from pruneonce.stages.take import check_sparse
from pruneonce.stages.task_training import check_teacher
from pruneonce.system import distributed, durable, locks
from pruneonce.system.libraries import quiet
from pruneonce.tasks import kind_of, loaded
from pruneonce.tasks.teachers import Reader, check_tokens
from pruneonce.training import checkpoints
from pruneonce.training.reporting import check_report_to
from pruneonce.wording import listed, percent_as_set

SOME = 200  # examples whose tokens are compared with the teacher's before hours are spent


@quiet
def run(recipe: Recipe, output: Path, *, keep_checkpoints: int = checkpoints.KEPT) -> dict[str, Any]:
    """Run `recipe` in the folder `output` and return its summary. Run again, it skips finished work and goes on.

    Args:
        recipe: the run.
        output: the run folder; it is made where it is missing.
        keep_checkpoints: the number of checkpoints that an unfinished stage keeps, the newest ones.

    Raises:
        UserError: a mistake in the recipe or its inputs; another process works in `output`. Nothing is left behind if
            there is nothing to resume from.
        Interrupted: SIGINT or SIGTERM came during training.
    """
    distributed.start()
    with roles_of_recipe(recipe), locks.scope(), checkpoints.keeping(keep_checkpoints):
        is_new = distributed.by_first(lambda: _claim(recipe, output))
        try:
            distributed.by_first(lambda: check(recipe, output / "cache"))
            _check_inputs(recipe, output)
            _run_stages(recipe, output)
        except UserError:
            if is_new and distributed.rank() == 0 and not _has_work(output):
                shutil.rmtree(output)
            raise
        return distributed.by_first(lambda: _conclude(recipe, output))


@contextmanager
def roles_of_recipe(recipe: Recipe) -> Generator[None, None, None]:
    """Context in which models have the roles that a recipe gives.

    Raises:
        UserError: it gives roles of an architecture whose roles are known.
    """
    if recipe.roles is None:
        yield
        return
    config = load_config(recipe.model)
    check_given(config)
    with giving(recipe.roles.given(), config.model_type):
        yield


def _check_inputs(recipe: Recipe, output: Path) -> None:
    distributed.by_first(lambda: inputs.check_unchanged(recipe, output))


def _has_work(output: Path) -> bool:
    """Return whether there is work to resume from: a finished stage, or a checkpoint."""
    return any(any(output.rglob(name)) for name in (PROVENANCE, "checkpoint-*"))


def _conclude(recipe: Recipe, output: Path) -> dict[str, Any]:
    _benchmark(recipe, output)
    write_certificates(recipe, output)
    summary = summarize(recipe, output)
    durable.write_json(summary, output / "summary.json")
    write_report(output)
    return summary


def _claim(recipe: Recipe, output: Path) -> bool:
    """Make `output` this recipe's, or raise if it is another's; return whether it is new."""
    is_new = not output.exists()
    file = output / "recipe.yaml"
    leftovers = {file.name, locks.NAME, durable.partial(file).name}  # left by a run that was killed as it began
    if (
        not file.is_file()
        and not is_new
        and (not output.is_dir() or {path.name for path in output.iterdir()} - leftovers)
    ):
        raise UserError(f"{output} is not empty and not a run of a recipe; choose another --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
        locks.take(output)
        resolved = recipe.model_dump(mode="json")
        if not file.is_file():
            durable.write_text(file, yaml.safe_dump(resolved, sort_keys=False))
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}") from None
    before = safe_yaml.read(file)
    different = differences(before, resolved)
    if outdated := different and stale(output, before, recipe):
        raise UserError(
            f"{output} holds a run of another recipe (different: {', '.join(different)}; "
            f"stale: {', '.join(outdated)}); choose another --output"
        )
    if different:  # finished work is as this recipe would make it: a task, an arm or a seed was added
        durable.write_text(file, yaml.safe_dump(resolved, sort_keys=False))
    make_room_for_seeds(recipe, output)
    return is_new


def check(recipe: Recipe, cache: Path) -> None:
    """Find mistakes before hours are spent: in the architecture, the tasks' data, their tokens, and given teachers.

    Args:
        recipe: the run.
        cache: folder that hub data is downloaded to.

    Raises:
        UserError: a mistake in the recipe or its inputs.
    """
    config = load_config(recipe.model)
    check_supported(config)
    if found := layers_found(empty_encoder(config)):
        console.print(Text(found), soft_wrap=True)
    if recipe.corpus:
        check_length(recipe.corpus.block_length, recipe.model, "corpus.block_length")
    tokenizer = load_tokenizer(recipe.model)
    check_weights(recipe.model)
    if recipe.sparse:
        check_sparse(recipe.sparse)
    for sparse in filter(None, (recipe.sparse, recipe.sparse_model)):
        check_weights(sparse)
        check_same_shape(sparse, recipe.model)
        check_same_tokens(sparse, recipe.model)
    for name, task in recipe.tasks.items():
        check_length(task.max_length, recipe.model, f"tasks.{name}.max_length")
        _check_task(recipe, name, tokenizer, cache)
    _check_deployment(recipe)


def _check_task(recipe: Recipe, name: str, tokenizer: Any, cache: Path) -> None:
    """Check a task's data and, as far as its teacher exists, whether the task can be learnt from it."""
    task = recipe.tasks[name]
    kind = kind_of(task).for_model(recipe.model)
    data = loaded.load(kind, cache).data
    kind.encode(data.splits["dev"].select([0]), tokenizer)
    student, reader = load_config(recipe.model), Reader(kind, tokenizer, str(recipe.model))
    for _, settings in arms_of(recipe, name):
        if isinstance(settings, Transfer):
            kind.check_settings(settings)
            if task.teacher_model:
                check_weights(task.teacher_model)
                check_teacher(kind, task.teacher_model, data, student, task.completed(settings))
                some = data.taught.select(range(min(SOME, len(data.taught))))
                check_tokens(reader, task.teacher_model, some, task.completed(settings))


def _check_deployment(recipe: Recipe) -> None:
    """Find mistakes that would fail at the end of a run: groups that do not fit, engines that are not installed."""
    encoder = check_weights(recipe.model)
    quantized = {
        name: [(arm, settings) for arm, settings in arms_of(recipe, name) if isinstance(settings, Quantization)]
        for name in recipe.tasks
    }
    for arms in quantized.values():
        for _, settings in arms:
            quantization.check_fits(encoder, settings)
    engines = recipe.benchmark.engines if recipe.benchmark else []
    timed = [arm for arm, _ in next(iter(quantized.values()), []) if arm.timed]
    if timed and engines and not any(ENGINES[engine].runs_integers for engine in engines):
        integer_engines = [engine for engine, declared in ENGINES.items() if declared.runs_integers]
        raise UserError(
            f"`benchmark.engines` has {listed(engines)} alone, which runs no quantized model; "
            f"add {listed(integer_engines, 'or')}"
        )
    check_report_to(recipe.report_to)
    for engine in engines:
        require(engine)
    if recipe.benchmark:
        check_length(max(recipe.benchmark.lengths), recipe.model, "benchmark.lengths")
    for format in dict.fromkeys([*(ENGINES[engine].format for engine in engines), *recipe.export]):
        if format is not None:
            FORMATS[format].require()


def _run_stages(recipe: Recipe, output: Path) -> None:
    models = _pretrained(recipe, output)
    for name in recipe.tasks:
        for seed in recipe.task_seeds:
            _heading(f"task {name}, seed {seed}" if recipe.seeds else f"task {name}")
            _check_inputs(recipe, output)
            TaskRun(recipe, output, name, seed).make(models)


def _pretrained(recipe: Recipe, output: Path) -> dict[str, str | Path]:
    """Make the models that tasks start from, and return them by their names in `Arm.from_run`."""
    if recipe.sparse:
        _heading("take: the sparse encoder as it is")
        return {DENSE: recipe.model, SPARSE: stages.take(recipe.sparse, output / "sparse")}
    assert recipe.pretraining is not None
    corpus, settings = recipe.pretraining
    common: dict[str, Any] = {"seed": recipe.seed, "cache": output / "cache", "report_to": recipe.report_to}
    dense: str | Path = recipe.model
    if recipe.prepare:
        _heading("prepare: the dense model learns the corpus")
        dense = stages.prepare(recipe.model, corpus, recipe.prepare, output / "teacher", **common)
        _check_inputs(recipe, output)
    _heading(f"prune: sparse pre-training to {percent_as_set(settings.sparsity)}, once")
    start, teacher = (recipe.sparse_model, dense) if recipe.sparse_model else (dense, None)
    sparse = stages.prune(start, corpus, settings, output / "sparse", teacher=teacher, **common)
    models: dict[str, str | Path] = {DENSE: dense, SPARSE: sparse}
    if recipe.baselines.one_shot:
        models["one-shot"] = stages.prune_one_shot(dense, settings, output / "one-shot", seed=recipe.seed)
    return models


def _benchmark(recipe: Recipe, output: Path) -> None:
    """Time the first task's models; those of other tasks and seeds, and rivals, have the same shape."""
    if not recipe.benchmark or not recipe.tasks:
        return
    name, task = next(iter(recipe.tasks.items()))
    models = dict(arm_models(recipe, output, name, recipe.task_seeds[0]))
    models = {arm: model for arm, model in models.items() if ARMS[arm].timed}
    request = {"task": name, "models": sorted(models), "settings": recipe.benchmark.model_dump(mode="json")}
    finished = durable.read_json(output / BENCHMARK) or {}
    if request == {key: finished.get(key) for key in request}:
        return
    _heading(f"benchmark: the models of {name}")
    kind = kind_of(task)
    texts = kind.texts(loaded.load(kind, output / "cache").data.splits["dev"])
    measurements = stages.benchmark(models, recipe.benchmark, texts)
    durable.write_json({**measurements, **request}, output / BENCHMARK)


def _heading(text: str) -> None:
    console.print(Rule(text, align="left", style="cyan"))
