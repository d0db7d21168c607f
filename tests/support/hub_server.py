"""A server that speaks the part of the Hugging Face hub's API that downloads need."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`files` of the repository org/tiny. Set `cut` to break down in a transfer after as many
    bytes, `token` to ask for one, `gated` to want terms accepted, `damaged` to send other bytes;
    `requests` are (method, path, Range)."""

    files: dict[str, bytes]
    url: str = ""
    cut: int | None = None
    down: bool = False
    token: str | None = None
    gated: bool = False
    damaged: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def transferred(self, name: str) -> list[str | None]:
        """The Range header of each request for a file's content."""
        return [r for method, path, r in self.requests if method == "GET" and path.endswith(name)]


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(files)

    class Handler(_Handler):
        content = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    content: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        if self.content.down:
            self.close_connection = True
            return None
        path = self.path.partition("?")[0]
        self.content.requests.append((self.command, path, self.headers.get("Range")))
        token = self.content.token
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            code = "GatedRepo" if self.content.gated else "RepoNotFound"
            return self._send(401, b"", {"X-Error-Code": code})
        if not re.match(r"(/api/models)?/org/tiny(/|$)", path):
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        match = re.fullmatch(r"(?:/api/models)?/org/tiny(?:/(\w+)/([^/]+)(?:/(.*))?)?", path)
        kind, revision, name = match.groups() if match else ("", "", "")
        if revision not in (None, "main", "v1", COMMIT):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if kind == "resolve":
            return self._send_file(str(name))
        siblings = [self._entry(name) for name in self.content.files]
        return self._send_json({"id": "org/tiny", "sha": COMMIT, "siblings": siblings})

    def _entry(self, name: str) -> dict[str, object]:
        content = self.content.files[name]
        blob_id = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob_id}
        if name.endswith((".safetensors", ".gguf")):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 135}
        return entry

    def _send_file(self, name: str) -> None:
        if name not in self.content.files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = self.content.files[name]
        if self.content.damaged:
            content = content[::-1]
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(start[1]) if start else 0
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self._send(206 if first else 200, content[first:], headers)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.content.cut
        if cut is not None and len(body) > cut:
            self.wfile.write(body[:cut])
            self.close_connection = self.content.down = True
            return
        self.wfile.write(body)
