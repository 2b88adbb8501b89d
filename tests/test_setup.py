"""`tools/setup.sh` says in one line what a fresh machine lacks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parent.parent / "tools" / "setup.sh"


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


def setup(tmp_path: Path, python: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SETUP), str(tmp_path / "venv"), "test"],
        env={**os.environ, "PYTHON": str(python), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def good_python(tmp_path):
    """Answers as Python 3.11 with venv does."""
    return script(tmp_path / "python", 'case "$2" in *version_info*) echo 3.11;; esac')


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        ("echo 3.9", "expected Python 3.11 to 3.13, got 3.9"),
        (
            'case "$2" in *ensurepip*) exit 1;; *) echo 3.12;; esac',
            "apt-get install python3.12-venv",
        ),
    ],
    ids=["too old", "without venv"],
)
def test_a_python_that_cannot_serve_is_named(tmp_path, python, expected):
    done = setup(tmp_path, script(tmp_path / "python", python))
    assert done.returncode == 1
    assert expected in done.stderr
    assert not (tmp_path / "venv").exists()


def test_no_python_at_all(tmp_path):
    done = setup(tmp_path, tmp_path / "nowhere")
    assert done.returncode == 1
    assert "apt-get install python3 python3-venv" in done.stderr


def test_a_disk_without_room_is_known_before_the_download(tmp_path, good_python):
    table = "Filesystem 1M-blocks Used Available\\ndisk 9000 8000 1000 90% /"
    df = script(tmp_path / "bin" / "df", f'echo -e "{table}"')
    done = setup(tmp_path, good_python, PATH=f"{df.parent}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "expected 8,000 MiB of free disk" in done.stderr
    assert "got 1000 MiB" in done.stderr


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("NewConnectionError: Network is unreachable", "no package index could be reached"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: No matching distribution", "pip could not install clipkit[test]"),
    ],
    ids=["no network", "disk full", "anything else"],
)
def test_a_failed_install_says_why_and_leaves_no_mark(tmp_path, good_python, output, expected):
    script(tmp_path / "venv" / "bin" / "pip", "exit 1")
    script(tmp_path / "venv" / "bin" / "python", f'echo "{output}" >&2; exit 1')
    done = setup(tmp_path, good_python)
    assert done.returncode == 1
    assert expected in done.stderr.splitlines()[-1]
    assert output in done.stderr
    assert not (tmp_path / "venv" / ".installed-test").exists()


def test_a_finished_install_leaves_its_mark(tmp_path, good_python):
    script(tmp_path / "venv" / "bin" / "pip", "exit 0")
    script(tmp_path / "venv" / "bin" / "python", "exit 0")
    assert setup(tmp_path, good_python).returncode == 0
    assert (tmp_path / "venv" / ".installed-test").exists()
