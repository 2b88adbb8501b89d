"""``clipkit search serve`` as a process: its address, its token, signals, kills, a second start."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from clipkit.cli.main import main
from tests.helpers.ranks import fork_server
from tests.helpers.served import write_served

SERVE = ["search", "serve"]
QUERY = {"parts": [{"text": "a red square"}, {"row": 3, "weight": 0.5}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return write_served(tmp_path_factory.mktemp("served"))


class Server:
    """A process that serves: it prints to a pipe, and its errors to a file."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self._folder = folder
        os.mkfifo(folder / "out")
        self._process = fork_server().Process(target=serve, args=(words, folder))
        self._process.start()
        self._out = (folder / "out").open()  # when the process has opened it
        self.link = self._out.readline().strip().rpartition(": ")[2]

    def end(self, number: int) -> tuple[int | None, str, str]:
        """Send a signal; return the exit code, and the rest of the two outputs."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)
        self._process.join(30)
        return self._process.exitcode, self._out.read(), (self._folder / "errors").read_text()

    def close(self) -> None:
        self._process.kill()
        self._process.join(20)
        self._out.close()


def serve(words: list[str], folder: Path) -> NoReturn:
    for number, name in ((1, "out"), (2, "errors")):
        with (folder / name).open("w") as file:
            os.dup2(file.fileno(), number)
    # a test run in the background of a shell ignores Ctrl-C, and passes that on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(words))


@pytest.fixture
def start(tmp_path):
    """Start servers and end what is left of them."""
    servers = []

    def started(folder, *options):
        (tmp_path / str(len(servers))).mkdir()
        words = [*SERVE, str(folder), "--device", "cpu", *options]
        servers.append(Server(tmp_path / str(len(servers)), words))
        return servers[-1]

    yield started
    for server in servers:
        server.close()


def wait_until(address, state, **options):
    deadline = time.monotonic() + 90
    while True:
        status = httpx.get(f"{address}/api/status", **options).json()
        if status["state"] == state:
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.01)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_killed_server_loses_nothing(served, start, capsys):
    before = digests(served)
    first = start(served, "--host", "0.0.0.0", "--port", "0")
    address, _, token = first.link.partition("/?token=")
    assert len(token) >= 40
    bearer = {"headers": {"Authorization": f"Bearer {token}"}}
    assert httpx.get(f"{address}/api/status").status_code == 401
    wait_until(address, "ready", **bearer)
    found = httpx.post(f"{address}/api/search", json=QUERY, **bearer).json()["results"]
    assert httpx.get(first.link).status_code == 303

    port = address.rpartition(":")[2]
    assert main([*SERVE, str(served), "--port", port]) == 2
    problem = capsys.readouterr().err
    assert problem.startswith(f"clipkit: error: --port: 127.0.0.1:{port} cannot be opened")

    code, out, errors = first.end(signal.SIGKILL)
    assert (code, out, errors) == (-signal.SIGKILL, "", "")  # no request, and no token, is logged
    again = start(served, "--port", port)
    wait_until(again.link.rstrip("/"), "ready")
    repeated = httpx.post(f"{again.link}api/search", json=QUERY).json()["results"]
    assert repeated == found
    code, out, errors = again.end(signal.SIGINT)
    assert (code, out, errors) == (130, "", "clipkit: interrupted\n")
    assert digests(served) == before


def test_a_server_whose_model_is_missing_says_so_and_stays(served, start):
    server = start(served, "--port", "0", "--model", "missing.ckpt")
    address = server.link
    status = wait_until(address.rstrip("/"), "failed")
    assert "missing.ckpt: no such file" in status["message"]
    answer = httpx.get(f"{address}api/images/0")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert answer.json()["error"].startswith("loading failed: model of the collection: missing")
    assert httpx.get(address).status_code == 200
    code, out, errors = server.end(signal.SIGTERM)
    assert (code, out) == (-signal.SIGTERM, "")
    assert errors.startswith("loading failed: model of the collection: missing.ckpt")
    assert len(errors.splitlines()) == 1
