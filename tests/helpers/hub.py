"""A server that answers as the Hugging Face hub does, as far as models and data sets are used."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_of_the_test"
_LARGE = (".safetensors", ".onnx", ".data", ".bin")


@dataclass
class Repository:
    """A model or data set: its files by commit, and which commit a branch or tag is at."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Add or replace files, and return the commit."""
        complete = {**self.commits.get(self.refs.get(ref, ""), {}), **files}
        digest = hashlib.sha1(str(len(self.commits)).encode())
        for name, content in sorted(complete.items()):
            digest.update(f" {name} {len(content)} ".encode() + content)
        self.commits[digest.hexdigest()] = complete
        self.refs[ref] = digest.hexdigest()
        return digest.hexdigest()

    def at(self, revision: str) -> str | None:
        """Return the commit of a branch, tag or commit."""
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass
class FakeHub:
    """State of the server; ``broken`` maps a word of a path to the status of its answer."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def add(self, name: str, folder: Path) -> Repository:
        """Add a model with the files of a folder."""
        repository = self.repositories.setdefault(name, Repository())
        repository.commit({file.name: file.read_bytes() for file in folder.iterdir()})
        return repository

    def data_set(self, name: str) -> Repository:
        """Return a data set, which is added if it does not exist."""
        return self.repositories.setdefault(f"datasets/{name}", Repository())

    def files(self, name: str) -> dict[str, bytes]:
        """Return the files of a model on its branch main."""
        repository = self.repositories[name]
        return repository.commits.get(repository.refs.get("main", ""), {})


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route("GET", body=False)

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str, body: bool = True) -> Any:
        self._has_body = body
        self._received = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        for word, status in self.hub.broken.items():
            if word in path:
                return self._answer(status, {"error": "broken on purpose"})
        for wanted, pattern, handle in _ROUTES:
            if wanted == method and (match := re.fullmatch(pattern, path)):
                return handle(self, *match.groups())
        return self._answer(404, {"error": f"no route for {method} {path}"})

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self._has_body:
            self.wfile.write(data)

    @property
    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> Repository | None:
        """Return a model that the caller may read; otherwise answer as the hub does."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._logged_in):
            self._answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        if repository.gated:
            self._answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            return None
        return repository

    def _file(self, name: str, revision: str, path: str) -> None:
        if (repository := self._repository(name)) is None:
            return None
        if (commit := repository.at(revision)) is None:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        data = repository.commits[commit].get(unquote(path))
        if data is None:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self._answer(200, data, X_Repo_Commit=commit, ETag=tag)

    def _info(self, name: str, revision: str | None) -> None:
        if (repository := self._repository(name)) is None:
            return None
        commit = repository.at(unquote(revision or "main"))
        if revision and commit is None:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        files = repository.commits.get(commit or "", {})
        siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
        content = {"id": name, "sha": commit, "siblings": siblings, "tags": [], "downloads": 0}
        return self._answer(200, {**content, "private": repository.private, "likes": 0})

    def _tree(self, name: str, revision: str) -> None:
        if (repository := self._repository(name)) is None:
            return None
        files = repository.commits[repository.at(unquote(revision)) or ""]
        tree = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in sorted(files.items())
        ]
        return self._answer(200, tree, Content_Type="application/json")

    def _whoami(self) -> None:
        if not self._logged_in:
            return self._answer(401, {"error": "Invalid credentials"})
        return self._answer(200, {"name": "me", "type": "user", "orgs": []})

    def _create(self) -> None:
        if not self._logged_in:
            return self._answer(401, {"error": "Invalid credentials"})
        wanted = json.loads(self._received)
        owner = wanted.get("organization") or "me"
        if owner != "me":
            message = f"You don't have the rights to create a model under the namespace {owner!r}"
            return self._answer(403, {"error": message}, X_Error_Message=message)
        name = f"{owner}/{wanted['name']}"
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repositories:
            return self._answer(409, {"error": "You already created this model repo", **url})
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repositories[name] = Repository(private=private)
        return self._answer(200, url)

    def _preupload(self, name: str, revision: str) -> None:
        files = json.loads(self._received)["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        return self._answer(200, {"files": modes})

    def _batch(self, name: str) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}"}}}
            for wanted in json.loads(self._received)["objects"]
        ]
        return self._answer(200, {"transfer": "basic", "objects": objects})

    def _put(self, digest: str) -> None:
        assert hashlib.sha256(self._received).hexdigest() == digest
        self.hub.large[digest] = self._received
        return self._answer(200)

    def _commit(self, name: str, revision: str) -> None:
        repository = self._repository(name)
        assert repository is not None
        files, removed = {}, set()
        for line in self._received.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif item["key"] == "deletedFile":
                removed.add(value["path"])
        commit = repository.commit(files, revision)
        for path in removed - files.keys():
            del repository.commits[commit][path]
        url = f"{self.hub.url}/{name}/commit/{commit}"
        return self._answer(200, {"commitUrl": url, "commitOid": commit})


_NAME = r"/([\w.-]+/[\w.-]+)"
_DATA_SET = r"/(datasets/[\w.-]+/[\w.-]+)"
_ROUTES = (
    ("GET", rf"{_NAME}/resolve/([^/]+)/(.+)", _Handler._file),
    ("GET", rf"{_DATA_SET}/resolve/([^/]+)/(.+)", _Handler._file),
    ("GET", rf"/api{_DATA_SET}/revision/([^/]+)", _Handler._info),
    ("GET", rf"/api{_DATA_SET}/tree/([^/]+)", _Handler._tree),
    ("GET", rf"/api/models{_NAME}", lambda handler, name: handler._info(name, None)),
    ("GET", rf"/api/models{_NAME}/revision/([^/]+)", _Handler._info),
    ("GET", "/api/whoami-v2", _Handler._whoami),
    ("POST", "/api/repos/create", _Handler._create),
    ("POST", "/api/validate-yaml", lambda handler: handler._answer(200, {"warnings": []})),
    ("POST", rf"/api/models{_NAME}/preupload/([^/]+)", _Handler._preupload),
    ("POST", rf"/api/models{_NAME}/commit/([^/]+)", _Handler._commit),
    ("POST", rf"{_NAME}\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/large/(\w+)", _Handler._put),
)


@contextmanager
def hub_server() -> Iterator[FakeHub]:
    """Start the server; its state may be changed while it runs."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
