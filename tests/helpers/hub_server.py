"""A fake Hugging Face Hub on loopback that serves the files of data sets."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

PARQUET_BRANCH = "refs/convert/parquet"


@dataclass
class FakeHub:
    """Content of the hub.

    Args:
        commits: Files (path -> bytes) by data set and commit.
        branches: Commit by data set and branch.
        requests: Paths that were asked for.
    """

    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def push(self, repo: str, files: dict[str, bytes], branch: str = PARQUET_BRANCH) -> str:
        """Make a commit the newest of a branch; returns its name."""
        content = repr(sorted(files.items())).encode()
        commit = hashlib.sha1(content).hexdigest()
        self.commits.setdefault(repo, {})[commit] = files
        self.branches.setdefault(repo, {})[branch] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(path)
        api = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(revision|tree)/(.+)", path)
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", path)
        match = api or file
        if match is None or match[1] not in self.hub.commits:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        repo = match[1]
        revision = match[3].rstrip("/") if api else match[2]
        commit = self.hub.branches[repo].get(revision, revision)
        files = self.hub.commits[repo].get(commit)
        if files is None:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if api is None:
            return self._file(commit, files.get(match[3]))
        siblings = [{"rfilename": name} for name in sorted(files)]
        tree = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in sorted(files.items())
        ]
        info = {"id": repo, "sha": commit, "siblings": siblings}
        content = tree if api[2] == "tree" else info
        return self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, commit: str, data: bytes | None) -> None:
        if data is None:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
        return self._send(200, data, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def hub_server(hub: FakeHub) -> Iterator[str]:
    """Serve a hub; yields the URL."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
