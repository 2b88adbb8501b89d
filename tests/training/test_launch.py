"""Runs in a process of their own, which ``tests/helpers/launched_here.py`` spares other tests."""

from __future__ import annotations

from clipkit.training.launch import launch_fit


def test_a_run_is_a_process_with_a_log(tmp_path):
    """Help is printed before anything large is imported."""
    log = tmp_path / "log.txt"
    assert launch_fit(tmp_path / "run.yaml", ["--help"], log) == 0
    assert log.read_text().startswith("usage: clipkit fit")


def test_the_status_is_that_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # no interpreter starts from there
    log = tmp_path / "log.txt"
    assert launch_fit(tmp_path / "run.yaml", log=log) == 1
    assert "Fatal Python error" in log.read_text()
