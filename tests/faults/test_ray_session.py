"""The commands connect to a Ray cluster themselves, or start one, and leave nothing behind."""

from __future__ import annotations

import importlib.util
import signal
import socket
import sys

import psutil
import pytest

from clipkit.cli.main import main
from clipkit.models import save_encoder
from tests.helpers.embedding import contents
from tests.helpers.evaluation_data import tiny_encoder, write_layout

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)


@pytest.fixture
def words(tmp_path):
    save_encoder(tiny_encoder(), tmp_path / "model")
    data = write_layout(tmp_path / "set", (3, 2))
    options = ["--model", str(tmp_path / "model"), "--device", "cpu", "--num-workers", "0"]
    return ["embed", str(data), *options, "--output", str(tmp_path / "parts")]


def test_a_cluster_is_started_for_the_command(words, tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    children = set(psutil.Process().children(recursive=True))
    assert main([*words, "--engine", "ray"]) == 0
    assert "5 images and" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before
    assert not sys.modules["ray"].is_initialized()
    left = set(psutil.Process().children(recursive=True)) - children
    psutil.wait_procs(left, timeout=30)
    assert not [
        process for process in left if process.is_running() and process.status() != "zombie"
    ]
    assert main([*words[:-1], str(tmp_path / "whole")]) == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_an_address_that_does_not_answer_is_named(words, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert main([*words, "--engine", "ray", "--address", f"127.0.0.1:{port}"]) == 2
    message = capsys.readouterr().err
    assert "--address: expected the address of a running Ray cluster, or local; got" in message
    assert f"got 127.0.0.1:{port}: " in message


def test_an_address_that_is_none_is_named(words, capsys):
    assert main([*words, "--engine", "ray", "--address", "nowhere"]) == 2
    assert "--address: expected the address of a running" in capsys.readouterr().err
