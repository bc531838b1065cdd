"""Output of a stage: a folder that appears whole, known by a key of everything that went into it.

An unfinished folder is called `NAME.partial`, and one process at a time has it. A stage asks `is_finished` first, works
within `unfinished`, and names the folder by `Build.save` (or `models.publish_folder`).
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from pruneonce import training
from pruneonce.console import console, styled
from pruneonce.errors import InUseError, UserError
from pruneonce.models import BEGUN, content_key, dropouts, load_config, read_provenance, remove_scratch, save_model
from pruneonce.models.provenance import edited, is_as_written, rest_key
from pruneonce.recipe import Section
from pruneonce.sparsity import inspect_module
from pruneonce.system import distributed, durable, locks
from pruneonce.training import Job, Trained
from pruneonce.training.reporting import check_report_to
from pruneonce.wording import listed

REST = "rest"  # in provenance: the `rest_key` of the models that a stage read


def is_finished(output: Path, key: str, *models: str | Path | None) -> bool:
    """Return whether `output` is the result of the stage with this key; print a line if it is.

    Args:
        output: the folder.
        key: of the stage.
        models: those that the stage reads, whose `rest_key` has to be the same too.

    Raises:
        UserError: `output` is not as the stage wrote it.
    """
    return distributed.by_first(lambda: _is_finished(output, key, rest_key(*models)))


def _is_finished(output: Path, key: str, rest: str | None) -> bool:
    provenance = read_provenance(output)
    if not provenance or provenance.get("key") != key or provenance.get(REST, rest) != rest:
        return False
    is_as_written(output)
    if changed := edited(output, provenance):
        raise UserError(
            f"{listed(changed)} of {output} {'is' if len(changed) == 1 else 'are'} not as pruneonce wrote it; put back "
            f"what was there, or remove {output} to make it anew"
        )
    remove_scratch(output)
    console.print(styled("  [dim]{output}: already made[/dim]", output=output), soft_wrap=True)
    return True


@contextmanager
def unfinished(output: Path, key: str, *models: str | Path | None) -> Generator[Path, None, None]:
    """Lock and yield the folder in which `output` is made; interrupted work of the same key is still in it.

    A mistake that is found before there is anything to resume from leaves no folder behind.

    Args:
        output: the folder to make.
        key: of the stage.
        models: those that the stage reads, as for `is_finished`.

    Raises:
        UserError: `output` holds something else, or the folder holds unfinished work of another key.
        InUseError: another process works in the folder.
    """
    begun = durable.partial(output)
    is_new = not begun.exists()
    with locks.scope():
        try:
            distributed.by_first(lambda: _claim(output, begun, key, rest_key(*models)))
            yield begun
        except InUseError:
            raise
        except UserError:
            if is_new and distributed.rank() == 0 and not list(begun.glob("**/checkpoint-*")):
                shutil.rmtree(begun, ignore_errors=True)
            raise


def _claim(output: Path, begun: Path, key: str, rest: str | None) -> None:
    """Make, lock and mark the folder `begun`."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} already holds something else; choose another output or remove it")
    with durable.writing(output):
        begun.mkdir(parents=True, exist_ok=True)
        locks.take(begun)
        mark = durable.read_json(begun / BEGUN)
        if mark is None:
            durable.write_json({"key": key, **({REST: rest} if rest else {})}, begun / BEGUN)
        elif mark["key"] != key or mark.get(REST, rest) != rest:
            raise UserError(f"{begun} is unfinished work of other settings or other data; remove it to start again")


def rest_of(begun: Path) -> dict[str, str]:
    """Entry of the provenance of a folder that is being made: the `rest_key` of the models that its stage reads."""
    rest = (durable.read_json(begun / BEGUN) or {}).get(REST)
    return {REST: rest} if rest else {}


@dataclass(frozen=True)
class Origin:
    """Origin of a model folder: the head of its provenance.

    Attributes:
        stage: the name of the stage.
        source: the model that it started from.
        key: hash of everything that went into it.
        settings: those of the stage, complete.
        more: further entries of the provenance.
    """

    stage: str
    source: str | Path
    key: str
    settings: Section
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Build:
    """Place and circumstances of a stage's model folder, which every stage takes beside its inputs.

    Attributes:
        output: the model folder.
        seed: of everything random.
        cache: keeps token blocks and downloaded data; None: a folder inside the unfinished output, gone with it.
        report_to: transformers' logging integrations.
    """

    output: Path
    seed: int
    cache: Path | None = None
    report_to: list[str] | None = None

    def __post_init__(self) -> None:
        check_report_to(self.report_to)

    def cache_in(self, begun: Path) -> Path:
        """Return the cache, which is inside the unfinished folder unless there is another."""
        return self.cache or begun / "cache"

    def train(self, job: Job, begun: Path, title: str) -> Trained:
        """Run `job`, with its checkpoints in the unfinished folder."""
        return training.train(job, begun, title, seed=self.seed, report_to=self.report_to)

    def save(
        self,
        model: nn.Module,
        origin: Origin,
        trained: Trained | None = None,
        final: dict[str, float] | None = None,
    ) -> Path:
        """Finish the model folder: weights, provenance and metrics, the source's own dropout restored.

        Args:
            model: moved to the processor.
            origin: the head of the provenance.
            trained: steps, tokens, seconds and history of the training; None: nothing was trained.
            final: the measurements at the end, by name.
        """
        usual = load_config(origin.source)
        for name in dropouts(usual):
            setattr(model.config, name, getattr(usual, name))
        metrics = {"history": trained.history if trained else [], "final": final or {}}

        def save() -> None:
            provenance = _provenance(model, origin, self.seed, trained) | rest_of(durable.partial(self.output))
            save_model(model.cpu(), self.output, source=origin.source, provenance=provenance, metrics=metrics)

        distributed.by_first(save)
        return self.output


def _provenance(model: nn.Module, origin: Origin, seed: int, trained: Trained | None) -> dict[str, Any]:
    zeros = inspect_module(model)
    return {
        "stage": origin.stage,
        "key": origin.key,
        "source": str(origin.source),
        "parents": [content_key(origin.source)],
        "settings": origin.settings.model_dump(),
        "seed": seed,
        "training": trained.spent() if trained else {"steps": 0, "tokens": 0, "seconds": 0.0},
        "pattern": zeros.pattern,
        "sparsity": {
            "encoder": zeros.encoder,
            "model": zeros.model,
            "layers": [asdict(layer) | {"sparsity": layer.sparsity} for layer in zeros.layers],
        },
        **origin.more,
    }
