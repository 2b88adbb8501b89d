"""Fast tests stay fast."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import tiny
from tests.helpers.tiers import FAST, forbid_slow_starts


@pytest.mark.parametrize(
    ("start", "folder"),
    [
        (lambda: subprocess.run([sys.executable, "-c", ""]), "processes"),
        (lambda: subprocess.run("python3 -c 1", shell=True), "processes"),
        (lambda: multiprocessing.get_context("spawn").Process(target=int).start(), "distributed"),
        (lambda: tiny.trainer(Path()), "training"),
    ],
)
@pytest.mark.parametrize("imported", [False, True])
def test_slow_starts_name_their_folder(
    start: Callable[[], object], folder: str, imported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if imported:
        __import__("lightning.pytorch")
    else:
        for name in [name for name in sys.modules if name.partition(".")[0] == "lightning"]:
            monkeypatch.delitem(sys.modules, name)
    forbid_slow_starts(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match=f"move it to tests/{folder}"):
        start()


def test_other_programs_and_forks_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_slow_starts(monkeypatch)
    assert subprocess.run(["true"], check=False).returncode == 0
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0


def test_the_makefile_names_the_same_folders() -> None:
    lines = (Path(__file__).parents[1] / "Makefile").read_text("utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("FAST :=")]
    assert line.split()[2:] == [f"tests/{name}" for name in FAST]
