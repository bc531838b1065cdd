"""Serve the models of a packed family over HTTP, from one process.

    python examples/serving/server.py family.pruneonce --port 8000
    curl -d '{"text": "a great river"}' http://127.0.0.1:8000/mood

Requests wait in one queue of bounded length for each model. A thread takes those that wait, up to a batch, and runs
them together. A request that finds the queue full gets status 503 at once, so that waiting times stay bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pruneonce_runtime
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

MAX_BODY = 1 << 16  # bytes of a request


class FullError(Exception):
    """More requests wait than the queue holds."""


class Batcher:
    """One model, a queue of the inputs that wait for it, and the thread that runs them in batches.

    Args:
        waiting: inputs that the queue holds.
        most: inputs of a batch.
    """

    def __init__(self, model: Any, waiting: int, most: int) -> None:
        self._model = model
        self._most = most
        self._queue: queue.Queue[tuple[Any, Future[Any]] | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name=model.name, daemon=True)
        self._thread.start()

    def submit(self, given: Any) -> Future[Any]:
        """The future result of one input.

        Raises:
            FullError: the queue is full.
        """
        future: Future[Any] = Future()
        try:
            self._queue.put_nowait((given, future))
        except queue.Full:
            raise FullError from None
        return future

    def close(self) -> None:
        """Answer the inputs that wait, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        """Run whatever waits, until None comes. A busy model's batches are large, an idle one answers at once."""
        is_open = True
        while is_open:
            waiting = [self._queue.get()]
            while len(waiting) < self._most:
                try:
                    waiting.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            is_open = None not in waiting
            self._run([one for one in waiting if one is not None and one[1].set_running_or_notify_cancel()])

    def _run(self, batch: list[tuple[Any, Future[Any]]]) -> None:
        if not batch:
            return
        try:
            results = self._model([given for given, _ in batch])
        except Exception as error:
            if len(batch) > 1:  # one input is wrong: the others have nothing to do with it
                for one in batch:
                    self._run([one])
            else:
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


def application(file: Path, waiting: int = 64, most: int = 16, threads: int = 1) -> Starlette:
    """The server of a packed file: a POST for each model under its name, and GET / for their names and tasks.

    Args:
        waiting: requests that may wait for a model.
        most: requests of a batch.
        threads: of a call of a model.
    """
    loaded = pruneonce_runtime.load(file, threads=threads)
    models = dict(loaded) if isinstance(loaded, pruneonce_runtime.Family) else {loaded.name: loaded}
    batchers: dict[str, Batcher] = {}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        batchers.update({name: Batcher(model, waiting, most) for name, model in models.items()})
        yield
        for batcher in batchers.values():
            await asyncio.to_thread(batcher.close)

    async def names(request: Request) -> JSONResponse:
        return JSONResponse({name: model.task for name, model in models.items()})

    async def answer(request: Request) -> JSONResponse:
        name = request.path_params["name"]
        if name not in models:
            return problem(404, f"there is no model {name!r}; these are: {', '.join(models)}")
        try:
            future = batchers[name].submit(await input_of(request))
            return JSONResponse({"result": plain(await asyncio.wrap_future(future))})
        except FullError:
            return problem(503, f"{waiting} requests wait for {name}; try again later", {"Retry-After": "1"})
        except (ValueError, pruneonce_runtime.PruneonceError) as error:
            return problem(400, str(error))

    routes = [Route("/", names), Route("/{name}", answer, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan)


async def input_of(request: Request) -> Any:
    """The text, or the pair of texts, in a request.

    Raises:
        ValueError: there is none.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise ValueError(f"a request has at most {MAX_BODY} bytes")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("a request is a JSON object") from None
    texts = [given[key] for key in ("text", "second") if key in given] if isinstance(given, dict) else []
    if not texts or "text" not in given or not all(isinstance(text, str) for text in texts):
        raise ValueError('a request is {"text": "..."}, for a pair of texts {"text": "...", "second": "..."}')
    return texts[0] if len(texts) == 1 else tuple(texts)


def plain(result: Any) -> Any:
    """A result of a model as JSON has it."""
    if hasattr(result, "_asdict"):  # a prediction, a word, an answer
        return {name: plain(value) for name, value in result._asdict().items()}
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    if isinstance(result, list | tuple):
        return [plain(one) for one in result]
    return result.tolist() if hasattr(result, "tolist") else result


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="packed file, of one model or of several")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--waiting", type=int, default=64, help="requests that may wait for a model")
    parser.add_argument("--batch", type=int, default=16, help="requests that are run together")
    parser.add_argument("--threads", type=int, default=1, help="threads of a call of a model")
    options = parser.parse_args()
    app = application(options.file, options.waiting, options.batch, options.threads)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
