"""Processes that tests start, with one thread each: the tests run side by side already, a process for each core.

`python` starts a process as a user does. It takes seconds to import the package, so most tests use `start` and
`command` instead: their processes are forked off a server that has imported it and done nothing else.
"""

import gc
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneonce.cli import main, silence_libraries

ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
}
PATIENCE = 300.0  # seconds
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pruneonce.plan", "pruneonce.runs.pipeline", "transformers.models.auto.modeling_auto"])


@dataclass
class Done:
    """How a process ended: its exit code, negative for a signal, and its output."""

    returncode: int
    stdout: str
    stderr: str


def python(*arguments: str | Path, **environment: str) -> Done:
    """Run a new interpreter with these arguments, with `environment` besides the usual one."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **ONE_THREAD, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Started:
    """A process that runs `function(*arguments)`, forked off the server; its output goes into files in `folder`."""

    def __init__(self, folder: Path, function: Callable[..., Any], *arguments: Any, **environment: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.stdout, self.stderr = (folder / name for name in ("stdout", "stderr"))
        self.stdout.touch()
        self.stderr.touch()
        silence_libraries()  # by variables that the server reads as it imports them
        self.process = SERVER.Process(target=_run, args=(self.stdout, self.stderr, environment, function, arguments))
        self.process.start()
        self.pid = self.process.pid or 0

    def ended(self) -> bool:
        return self.process.exitcode is not None

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Wait until something is true while the process runs."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert not self.ended(), self.stderr.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def finish(self) -> Done:
        self.process.join(PATIENCE)
        if not self.ended():
            self.process.kill()
            self.process.join()
        return Done(self.process.exitcode or 0, self.stdout.read_text(), self.stderr.read_text())


def _run(
    stdout: Path, stderr: Path, environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8") for number in (1, 2))
    os.environ.update(environment)
    gc.freeze()  # what the server has imported is no garbage
    sys.exit(function(*arguments))


def pruneonce(*arguments: str) -> int:
    """The command line, to be run by a `Started` process."""
    return main([*arguments])


def start(folder: Path, *arguments: str | Path, **environment: str) -> Started:
    """Start `pruneonce ARGUMENTS`."""
    return Started(folder, pruneonce, *map(str, arguments), **environment)


def command(folder: Path, *arguments: str | Path, **environment: str) -> Done:
    """Run `pruneonce ARGUMENTS`."""
    return start(folder, *arguments, **environment).finish()


def start_two(folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Started]:
    """Start two processes that find each other by the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Started(folder / str(rank), function, *arguments, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(2)
    ]


class ForkedExecutor(ProcessPoolExecutor):
    """Stands for loky's executor of one process."""

    def __init__(self, processes: int):
        super().__init__(processes, mp_context=SERVER)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, kill_workers: bool = False) -> None:
        processes = list((self._processes or {}).values()) if kill_workers else []
        super().shutdown(wait and not kill_workers, cancel_futures=cancel_futures)
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
