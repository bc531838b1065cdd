"""A stand-in of the hub's HTTP interface: what `upload_folder` calls without xet."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """State of the stand-in.

    Attributes:
        address: of the server.
        repositories: {USER/NAME: {"private": bool, "files": {name: content}}}.
        status: answered to every request; None: as the hub does.
        cards: texts that were sent for validation.
    """

    def __init__(self) -> None:
        self.address = ""
        self.repositories: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.status: int | None = None
        self.cards: list[str] = []

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """Return the JSON of an answer."""
        path = path.partition("?")[0]
        if path == "/api/validate-yaml":
            self.cards.append(json.loads(body)["content"])
            return {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            private = asked.get("private", asked.get("visibility") == "private")
            self.repositories.setdefault(name, {"private": private, "files": {}})
            return {"url": f"{self.address}/{name}"}
        if path.startswith("/blob/"):
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/blob/")
            self.blobs[path.removeprefix("/blob/")] = body
            return {}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{self.address}/blob/{one['oid']}"}}
            return {"transfer": "basic", "objects": objects}
        name = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            return {
                "files": [
                    {"path": file["path"], "uploadMode": self.mode(file["path"]), "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
            }
        assert "/commit/" in path, path
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.repositories[name]["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.repositories[name]["files"][value["path"]] = self.blobs[value["oid"]]
        return {"success": True, "commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1"}

    @staticmethod
    def mode(path: str) -> str:
        return "lfs" if path.endswith((".safetensors", ".onnx", ".bin")) else "regular"


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a stand-in on this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status = hub.status or (401 if self.headers.get("Authorization") != "Bearer hf_right" else 200)
            if self.path.startswith("/blob/"):
                status = hub.status or 200  # its address is signed
            answer = hub.answer(self.command, self.path, body) if status == 200 else {"error": "refused"}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = respond  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
