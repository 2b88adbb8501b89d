"""``clipkit search serve``: options that cannot work are one line, before anything is served."""

import socket

import pytest

from clipkit.cli.main import main
from clipkit.cli.search.serve import TOKEN_VARIABLE, given_token
from clipkit.errors import ConfigError
from tests.helpers.collections import write_collection


def serve(capsys, *words):
    assert main(["search", "serve", *map(str, words)]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.count("\n") == 1
    return errors.removeprefix("clipkit: error: ")


def test_a_folder_that_is_no_collection(capsys, tmp_path):
    assert "expected a collection that `clipkit embed` wrote" in serve(capsys, tmp_path)


def test_a_collection_that_is_not_complete(capsys, tmp_path):
    (write_collection(tmp_path) / "00001.parquet").unlink()
    assert "1 of 2 shards are not embedded yet, such as 00001" in serve(capsys, tmp_path)


def test_a_port_that_is_taken(capsys, served):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = serve(capsys, served, "--port", port)
    assert message.startswith(f"--port: 127.0.0.1:{port} cannot be opened: Address already in use")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--port", "65536"], "--port: expected 0 to 65535, got 65536"),
        (["--host", "no such host"], "no such host"),
        (["--max-upload-mb", "0"], "--max-upload-mb: expected more than 0, got 0.0"),
        (["--max-upload-mb", "nan"], "--max-upload-mb: expected more than 0, got nan"),
        (["--token-file", "missing"], "--token-file: missing: cannot be read"),
    ],
)
def test_options_that_cannot_work(capsys, served, options, part):
    assert part in serve(capsys, served, *options)


@pytest.mark.parametrize("options", [["--allowed-host", "search.example.org"], ["--host", "::"]])
def test_a_server_that_others_reach_makes_a_token(served, options, monkeypatch, capsys):
    seen = []

    def serve(_, options, announce):
        seen.append(options.token)
        announce("http://127.0.0.1:8000/")

    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.setattr("clipkit.search.serving.serve", serve)
    assert main(["search", "serve", str(served), *options]) == 0
    assert main(["search", "serve", str(served)]) == 0
    token, none = seen
    assert len(token) >= 40
    assert none is None
    assert f"?token={token}\n" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["short\n", "with a space in the middle"])
def test_weak_tokens(capsys, served, tmp_path, content):
    (tmp_path / "token").write_text(content)
    message = serve(capsys, served, "--token-file", tmp_path / "token")
    assert "expected at least 16 printable ASCII characters" in message
    assert content.strip() not in message


def test_the_token_of_the_file_comes_before_that_of_the_environment(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("  of-the-file\n")
    assert given_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "of-the-environment")
    assert given_token(None) == "of-the-environment"
    assert given_token(tmp_path / "token") == "of-the-file"
    monkeypatch.setenv(TOKEN_VARIABLE, " ")
    with pytest.raises(ConfigError, match="expected a token, got an empty text"):
        given_token(None)


def test_a_token_file_that_is_no_text(tmp_path):
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        given_token(tmp_path / "token")
