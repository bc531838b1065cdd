"""Timing of models in each engine: over a grid of batch sizes and lengths, and on real texts without padding."""

from __future__ import annotations

import platform
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from pruneonce import quantization
from pruneonce.console import note
from pruneonce.engines import ENGINES, engine_of, open_engine, open_file, require
from pruneonce.engines.rows import REAL
from pruneonce.engines.session import Array, Session
from pruneonce.engines.timing import Work, figures, in_turns, watched
from pruneonce.errors import UserError
from pruneonce.export import FORMATS
from pruneonce.models import LIBRARIES, load_config, load_tokenizer, read_provenance
from pruneonce.models.architectures import check_length
from pruneonce.models.sentence_transformers import type_for
from pruneonce.models.text_settings import TextSettings
from pruneonce.recipe import Benchmark
from pruneonce.storage import as_folder
from pruneonce.system import machine
from pruneonce.system.machine import processor

ROUNDS, TEXT_ROUNDS = 5, 2  # turns that each model gets at least, in a cell of the grid and on the real texts
TRIAL_SECONDS = 0.3  # of each alternative, in a cell of the grid
USUAL = ""  # stands for the name of an alternative

Text = str | tuple[str, str]
Batch = dict[str, Array]


@dataclass(frozen=True)
class Contender:
    """A model to time.

    Attributes:
        source: a model folder, an exported folder, or a packed file.
        folder: holds configuration and tokenizer: `source` itself, or the folder that it was unpacked to.
        engines: engines of the settings that can run it.
        skipped: the reason why each other engine cannot run it, as a sentence without its point.
        work: where its exports go.
    """

    name: str
    source: str | Path
    folder: str | Path
    weights: str
    engines: Sequence[str]
    skipped: Mapping[str, str]
    work: Path

    def open(self, engine: str, threads: int) -> dict[str, Session]:
        """Open the model in an engine, after exporting it where that has not been done.

        Returns:
            The session by `USUAL`, and the engine's alternatives by their names.
        """
        format = ENGINES[engine].format
        if format is None:
            return {USUAL: open_engine(self.source, engine, threads)}
        if engine_of(self.source):
            file = Path(self.source) / FORMATS[format].file
            usual = open_engine(self.source, engine, threads)
        else:
            file = self._exported(format)
            usual = open_file(file, engine, threads)
        return {USUAL: usual, **ENGINES[engine].alternatives(file, threads)}

    def _exported(self, format: str) -> Path:
        """Return the model's file of a format; a file that several formats are converted from is made once."""
        declared = FORMATS[format]
        if not (self.work / declared.file).is_file():
            declared.write(self._exported(declared.made_from) if declared.made_from else self.folder, self.work)
        return self.work / declared.file


def benchmark(
    models: Mapping[str, str | Path], settings: Benchmark, texts: Sequence[Text] | None = None
) -> dict[str, Any]:
    """Time `models` in the engines of `settings`. Nothing is written.

    The models of an engine are timed in turns; engines follow one another, so that the threads of one alone are alive.

    Args:
        models: `{name: folder}`: plain model folders (or hub ids), which are exported for the engines that need it,
            exported folders, and packed files. The others are compared with the first one, in the same engine.
        settings: engines, batch sizes, lengths, threads and times.
        texts: real texts or pairs to time at their own lengths; a sample of `settings.texts` is taken.

    Returns:
        `machine`, `settings`, `texts`, `rows`, `busy` and `skipped`, as docs/design.md describes them.

    Raises:
        UserError: a mistake in the models; an engine is not installed; no engine of `settings` can run a model.
    """
    threads = settings.threads or torch.get_num_threads()
    usual = torch.get_num_threads()
    with TemporaryDirectory() as scratch, ExitStack() as unpacked:
        contenders = [
            _contender(name, source, unpacked.enter_context(as_folder(source)), settings, Path(scratch) / str(number))
            for number, (name, source) in enumerate(models.items())
        ]
        engines = [engine for engine in dict.fromkeys(settings.engines) if any(engine in c.engines for c in contenders)]
        for engine in engines:
            require(engine)
        grid, real = _grid(contenders, settings), _sample(texts, settings.texts)
        rows = []
        try:
            for engine in engines:
                racing = [contender for contender in contenders if engine in contender.engines]
                rows += _rows(engine, racing, grid, real, settings, threads)
        finally:
            torch.set_num_threads(usual)
    return {
        "machine": _machine(threads, engines),
        "settings": settings.model_dump(mode="json"),
        "texts": _lengths(contenders[0], real, settings) if real else None,
        "rows": _compared(rows, contenders[0].name),
        "busy": any(row["busy"] for row in rows),
        "skipped": [
            {"model": contender.name, "engine": engine, "why": contender.skipped[engine]}
            for contender in contenders
            for engine in settings.engines
            if engine in contender.skipped
        ],
    }


def _contender(name: str, source: str | Path, folder: str | Path, settings: Benchmark, work: Path) -> Contender:
    check_length(max(settings.lengths), folder, "lengths")
    exported_for = engine_of(source)
    skipped = {} if exported_for else _skipped(folder)
    usable = [exported_for] if exported_for else [engine for engine in ENGINES if engine not in skipped]
    engines = [engine for engine in settings.engines if engine in usable]
    if not engines:
        raise UserError(f"{source} cannot be timed in {' or '.join(settings.engines)}; add the engine {usable[0]}")
    for format in [] if exported_for else [ENGINES[engine].format for engine in engines]:
        if format is not None:
            FORMATS[format].require()
    return Contender(name, source, folder, _weights(folder), engines, skipped, work)


def _skipped(folder: str | Path) -> dict[str, str]:
    """Return the engines that cannot run a model folder, with the reason of each."""
    config, is_quantized = load_config(folder), quantization.is_quantized(folder)
    reasons = {}
    for name, engine in ENGINES.items():
        if is_quantized and not engine.runs_integers:
            reasons[name] = f"{engine.title} would run it as fake quantization, which is no faster than fp32"
        elif limit := engine.limits(config):
            reasons[name] = limit
    return reasons


def _weights(folder: str | Path) -> str:
    """Return the type of the weights, by the provenance of an exported folder or the grids of a model folder."""
    if engine_of(folder):
        return str((read_provenance(folder) or {}).get("weights", "unknown"))
    return quantization.weights_of(folder)


def _rows(
    name: str,
    contenders: Sequence[Contender],
    grid: Mapping[tuple[int, int], Batch],
    texts: Sequence[Text],
    settings: Benchmark,
    threads: int,
) -> list[dict[str, Any]]:
    """Return all rows of one engine."""
    sessions: dict[str, Session] = {}
    chosen: dict[str, str] = {}
    for each in contenders:
        ways = each.open(name, threads)
        chosen[each.name] = _fastest(ways, grid)
        sessions[each.name] = ways[chosen[each.name]]
    rows = []

    def time(batch: int, length: int | str, works: Mapping[str, Work], sequences: int, rounds: int) -> None:
        turns = watched(works, settings.seconds, rounds)
        for each in contenders:
            model = {"model": each.name, "engine": name, "weights": each.weights, "variant": chosen[each.name] or None}
            cell = {"precision": sessions[each.name].precision, "batch": batch, "length": length}
            rows.append({**model, **cell, **figures(turns.passes[each.name], sequences)})
            rows[-1]["busy"] = turns.is_busy(each.name, threads)

    for (batch, length), values in grid.items():
        time(batch, length, {each: [_call(session, values)] for each, session in sessions.items()}, batch, ROUNDS)
    if texts:
        for size in dict.fromkeys((1, min(max(settings.batch_sizes), len(texts)))):
            works = {}
            for each in contenders:
                batches = _text_batches(each.folder, texts, size, max(settings.lengths))
                works[each.name] = [_call(sessions[each.name], values) for values in batches]
            time(size, REAL, works, len(texts), TEXT_ROUNDS)
    return rows


def _fastest(ways: Mapping[str, Session], grid: Mapping[tuple[int, int], Batch]) -> str:
    """Return the name of the fastest way to run a model, by the geometric mean of its median times over the grid."""
    if len(ways) == 1:
        return USUAL
    logs = dict.fromkeys(ways, 0.0)
    for values in grid.values():
        works = {name: [_call(session, values)] for name, session in ways.items()}
        for name, passes in in_turns(works, TRIAL_SECONDS, ROUNDS).items():
            logs[name] += float(np.log(figures(passes, 1)["milliseconds"]))
    return min(logs, key=logs.__getitem__)


def _call(session: Session, batch: Batch) -> Any:
    return lambda: session(batch)


def _grid(contenders: Sequence[Contender], settings: Benchmark) -> dict[tuple[int, int], Batch]:
    """Return `{(batch, length): input}`, the same random tokens for all models, none of them padding to any."""
    configs = [load_config(contender.folder) for contender in contenders]
    usable = set(range(min(config.vocab_size for config in configs))) - {config.pad_token_id for config in configs}
    draw = np.random.default_rng(0)
    grid = {}
    for batch in dict.fromkeys(settings.batch_sizes):
        for length in dict.fromkeys(settings.lengths):
            ids = draw.choice(np.array(sorted(usable), dtype=np.int64), (batch, length))
            grid[batch, length] = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }
    return grid


def _sample(texts: Sequence[Text] | None, number: int) -> list[Text]:
    texts = list(texts or [])
    return random.Random(0).sample(texts, number) if len(texts) > number else texts


def _text_settings(folder: str | Path) -> TextSettings:
    """Return the way to tokens by a model's files of sentence-transformers, as far as they can be followed."""
    try:
        kind = type_for(load_config(folder))
        return TextSettings.of(folder, kind) if kind else TextSettings()
    except UserError as error:
        note(f"texts are timed without a prompt: {error}")
        return TextSettings()


def _text_batches(folder: str | Path, texts: Sequence[Text], size: int, longest: int) -> list[Batch]:
    """Return real texts in batches of similar length, padded to the longest of the batch; none is padded alone.

    Texts get the prompt, and are cut at the length, of a model with files of sentence-transformers.
    """
    tokenizer = load_tokenizer(folder)
    settings = _text_settings(folder)
    longest = settings.longest(longest)

    def encode(some: Sequence[Text]) -> Batch:
        columns = [list(column) for column in zip(*((t,) if isinstance(t, str) else t for t in some), strict=True)]
        columns[0] = settings.prompted(columns[0])  # of a pair, the first text
        return dict(tokenizer(*columns, padding=True, truncation=True, max_length=longest, return_tensors="np"))

    if size == 1:
        return [encode([text]) for text in texts]
    lengths = [encode([text])["input_ids"].shape[1] for text in texts]
    order = sorted(range(len(texts)), key=lengths.__getitem__)
    return [encode([texts[i] for i in order[first : first + size]]) for first in range(0, len(order), size)]


def _lengths(contender: Contender, texts: Sequence[Text], settings: Benchmark) -> dict[str, int]:
    """Return the number of texts and of their tokens, by the first model's tokenizer."""
    batches = _text_batches(contender.folder, texts, 1, max(settings.lengths))
    tokens = [batch["input_ids"].shape[1] for batch in batches]
    return {"number": len(texts), "median_tokens": int(np.median(tokens)), "most_tokens": max(tokens)}


def _compared(rows: list[dict[str, Any]], first: str) -> list[dict[str, Any]]:
    """Add `speedup` to the rows: how many times faster a row is than the first model in the same engine and cell.

    It is None where the first model was not timed, or the machine was busy.
    """
    cell = ("engine", "batch", "length")
    reference = {
        tuple(row[key] for key in cell): row["milliseconds"]
        for row in rows
        if row["model"] == first and not row["busy"]
    }
    for row in rows:
        base = reference.get(tuple(row[key] for key in cell))
        row["speedup"] = base / row["milliseconds"] if base and not row["busy"] else None
    return rows


def _machine(threads: int, engines: Sequence[str]) -> dict[str, Any]:
    libraries = dict.fromkeys([*LIBRARIES, *(ENGINES[engine].library for engine in engines)])
    return {
        "processor": processor(),
        "instructions": machine.instruction_sets(),
        "threads": threads,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }
