"""A hub of models on this machine: as much of the Hugging Face hub's interface as a download needs. No network is touched."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse


class SmallHub(ThreadingHTTPServer):
    """Repositories by (name, revision), each a folder; `asked` lists the paths of files that were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[tuple[str, str], Path] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, name: str, revision: str) -> str:
        return hashlib.sha1(f"{name} {revision}".encode()).hexdigest()


@contextmanager
def small_hub() -> Iterator[SmallHub]:
    """A hub that answers until the block ends."""
    hub = SmallHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, parts = self.server, unquote(urlparse(self.path).path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        name, kind, revision, rest = "/".join(parts[:2]), *parts[2:4], "/".join(parts[4:])
        if name not in {one for one, _ in hub.repositories}:
            return self.reply(401, b"", {"X-Error-Code": "RepoNotFound"})
        if name in hub.gated:
            return self.reply(403, b"", {"X-Error-Code": "GatedRepo"})
        by_commit = {hub.commit(name, one): one for owner, one in hub.repositories if owner == name}
        folder = hub.repositories.get((name, by_commit.get(revision, revision)))
        if folder is None:
            return self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
        sha = hub.commit(name, by_commit.get(revision, revision))
        files = sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())
        if is_api and kind == "revision":
            found: object = {
                "id": name,
                "modelId": name,
                "sha": sha,
                "siblings": [{"rfilename": one} for one in files],
            }
            return self.reply(200, json.dumps(found).encode())
        if is_api:
            found = [
                {
                    "type": "file",
                    "path": one,
                    "size": (folder / one).stat().st_size,
                    "oid": hashlib.sha1((folder / one).read_bytes()).hexdigest(),
                }
                for one in files
            ]
            return self.reply(200, json.dumps(found).encode())
        hub.asked.append(rest)
        if rest not in files:
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        body = (folder / rest).read_bytes()
        return self.reply(200, body, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": sha})

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
