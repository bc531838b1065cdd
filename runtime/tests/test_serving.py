"""The example of a server: a family on loopback, batches, a full queue, wrong requests, and the load generator."""

import asyncio
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from oracle import HEADS, packed, random_model
from pruneonce import storage

import pruneonce_runtime

EXAMPLE = Path(__file__).parents[2] / "examples/serving"
sys.path.append(str(EXAMPLE))

uvicorn, httpx = pytest.importorskip("uvicorn"), pytest.importorskip("httpx2")
pytest.importorskip("starlette")
import load  # noqa: E402
import server  # noqa: E402

TEXTS = ["a great river", "awful winter", "the city of water"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A family of two classifiers, whose labels have different names."""
    folder = tmp_path_factory.mktemp("serving")
    for name, labels in (("mood", ["good", "bad"]), ("topic", ["city", "river"])):
        model = random_model(HEADS["sequence"], "bert", id2label=dict(enumerate(labels)))
        packed(folder / name, model, "fp32", name)
    storage.pack([folder / name / name for name in ("mood", "topic")], folder / "family.pruneonce")
    return folder / "family.pruneonce"


@pytest.fixture(scope="module")
def url(file):
    config = uvicorn.Config(server.application(file), port=0, log_level="error")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    ends = time.monotonic() + 60
    while not running.started:
        assert thread.is_alive()
        assert time.monotonic() < ends
        time.sleep(0.01)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, trust_env=False) as opened:
        yield opened


def test_answers_are_those_of_the_models(client, file):
    family = pruneonce_runtime.load(file)
    assert client.get("/").json() == {"mood": "classification", "topic": "classification"}
    for name, model in family.items():
        for text in TEXTS:
            given = client.post(f"/{name}", json={"text": text})
            assert given.status_code == 200
            assert given.json() == {"result": server.plain(model(text))}
        pair = client.post(f"/{name}", json={"text": TEXTS[0], "second": TEXTS[1]}).json()
        assert pair["result"]["label"] == model(TEXTS[0], TEXTS[1]).label


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/mood", b"{", 400, "a request is a JSON object"),
        ("/mood", b"[" * 60_000, 400, "a request is a JSON object"),
        ("/mood", b"[]", 400, 'a request is {"text"'),
        ("/mood", b'{"second": "a"}', 400, 'a request is {"text"'),
        ("/mood", b'{"text": 7}', 400, 'a request is {"text"'),
        ("/mood", b'{"text": "\\ud800"}', 400, "not valid Unicode"),
        ("/mood", b" " * 70_000, 400, "at most 65536 bytes"),
        ("/food", b'{"text": "a"}', 404, "these are: mood, topic"),
    ],
)
def test_wrong_requests(path, body, status, message, client):
    given = client.post(path, content=body)
    assert given.status_code == status
    assert message in given.json()["error"]


def test_load(url):
    found = asyncio.run(load.measure(url, 8, 200))
    assert found["statuses"] == {200: 200}
    assert found["per_second"] > 0
    assert 0 < found["milliseconds"]["p50"] <= found["milliseconds"]["p99"]


class Slow:
    """A model that waits until it is allowed to answer, and notes its batches."""

    name, task = "slow", "test"

    def __init__(self):
        self.started, self.allowed, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, inputs):
        self.started.set()
        assert self.allowed.wait(60)
        self.batches.append(list(inputs))
        if "wrong" in inputs:
            raise ValueError("a wrong input")
        return [text.upper() for text in inputs]


def test_what_waits_is_run_together_and_what_is_too_much_is_refused():
    model = Slow()
    batcher = server.Batcher(model, waiting=5, most=3)
    first = batcher.submit("a")
    assert model.started.wait(60)
    waiting = [batcher.submit(text) for text in "bcdef"]
    with pytest.raises(server.FullError):
        batcher.submit("g")
    assert waiting[0].cancel()  # its client has gone
    model.allowed.set()
    assert first.result(60) == "A"
    assert [future.result(60) for future in waiting[1:]] == list("CDEF")
    assert model.batches == [["a"], ["c", "d"], ["e", "f"]]
    batcher.close()


def test_a_wrong_input_does_not_spoil_its_batch():
    model = Slow()
    batcher = server.Batcher(model, waiting=5, most=5)
    first = batcher.submit("a")
    assert model.started.wait(60)
    futures = [batcher.submit(text) for text in ("b", "wrong", "c")]
    model.allowed.set()
    assert first.result(60) == "A"
    assert isinstance(futures[1].exception(60), ValueError)
    assert (futures[0].result(60), futures[2].result(60)) == ("B", "C")
    batcher.close()


def test_a_full_queue_is_status_503(file, monkeypatch):
    model = Slow()
    monkeypatch.setattr(pruneonce_runtime, "load", lambda *args, **settings: model)
    app = server.application(file, waiting=1)

    async def statuses():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            sent = [asyncio.create_task(client.post("/slow", json={"text": "a"}))]
            await asyncio.to_thread(model.started.wait, 60)
            sent += [asyncio.create_task(client.post("/slow", json={"text": "a"})) for _ in range(4)]
            await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
            model.allowed.set()
            return [(given.status_code, given.headers.get("Retry-After")) for given in await asyncio.gather(*sent)]

    found = asyncio.run(statuses())
    assert sorted(found, key=str) == [(200, None), (200, None), (503, "1"), (503, "1"), (503, "1")]


def test_the_readme_names_options_that_there_are():
    text = (EXAMPLE / "README.md").read_text()
    for program in ("server.py", "load.py"):
        known = set(re.findall(r'add_argument\("(--[\w-]+)"', (EXAMPLE / program).read_text()))
        used = {name for line in re.findall(rf"{program} (.*)", text) for name in re.findall(r"--[\w-]+", line)}
        assert used <= known
    assert {"--waiting", "--batch", "--threads"} <= set(re.findall(r"`(--[\w-]+)`", text))
