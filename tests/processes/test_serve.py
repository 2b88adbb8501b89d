"""``clipkit search serve`` as a process: its address, its token, signals, kills, a second start."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.helpers.served import write_served

SERVE = [sys.executable, "-m", "clipkit.cli.main", "search", "serve"]
QUERY = {"parts": [{"text": "a red square"}, {"row": 3, "weight": 0.5}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return write_served(tmp_path_factory.mktemp("served"))


@pytest.fixture
def start():
    """Start servers and end what is left of them."""
    processes = []

    def started(folder, *options):
        process = subprocess.Popen(
            [*SERVE, str(folder), "--device", "cpu", *options],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a test run in the background of a shell ignores Ctrl-C, and passes that on
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        processes.append(process)
        return process, process.stdout.readline().strip().rpartition(": ")[2]

    yield started
    for process in processes:
        process.kill()
        process.wait(20)


def wait_until(address, state, **options):
    deadline = time.monotonic() + 90
    while True:
        status = httpx.get(f"{address}/api/status", **options).json()
        if status["state"] == state:
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def end(process, number):
    process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    return process.returncode, out, errors


def test_a_killed_server_loses_nothing(served, start):
    before = digests(served)
    first, link = start(served, "--host", "0.0.0.0", "--port", "0")
    address, _, token = link.partition("/?token=")
    assert len(token) >= 40
    bearer = {"headers": {"Authorization": f"Bearer {token}"}}
    assert httpx.get(f"{address}/api/status").status_code == 401
    wait_until(address, "ready", **bearer)
    found = httpx.post(f"{address}/api/search", json=QUERY, **bearer).json()["results"]
    assert httpx.get(link).status_code == 303

    port = address.rpartition(":")[2]
    second = subprocess.run(
        [*SERVE, str(served), "--port", port], capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert second.stderr.startswith(f"clipkit: error: --port: 127.0.0.1:{port} cannot be opened")

    code, out, errors = end(first, signal.SIGKILL)
    assert (code, out, errors) == (-signal.SIGKILL, "", "")  # no request, and no token, is logged
    again, address = start(served, "--port", port)
    wait_until(address.rstrip("/"), "ready")
    repeated = httpx.post(f"{address}api/search", json=QUERY).json()["results"]
    assert repeated == found
    code, out, errors = end(again, signal.SIGINT)
    assert (code, out, errors) == (130, "", "clipkit: interrupted\n")
    assert digests(served) == before


def test_a_server_whose_model_is_missing_says_so_and_stays(served, start):
    process, address = start(served, "--port", "0", "--model", "missing.ckpt")
    status = wait_until(address.rstrip("/"), "failed")
    assert "missing.ckpt: no such file" in status["message"]
    answer = httpx.get(f"{address}api/images/0")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert answer.json()["error"].startswith("loading failed: model of the collection: missing")
    assert httpx.get(address).status_code == 200
    code, out, errors = end(process, signal.SIGTERM)
    assert (code, out) == (-signal.SIGTERM, "")
    assert errors.startswith("loading failed: model of the collection: missing.ckpt")
    assert len(errors.splitlines()) == 1
