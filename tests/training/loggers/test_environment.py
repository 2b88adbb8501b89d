"""The commit of a folder, with and without git."""

from __future__ import annotations

import subprocess

from clipkit.training.loggers.environment import Commit, commit_of, package_versions


def git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_commit_and_changes_of_tracked_files(tmp_path):
    assert commit_of(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert commit_of(tmp_path) is None  # a repository without a commit
    (tmp_path / "a.txt").write_text("1")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = commit_of(tmp_path)
    assert commit is not None
    assert len(commit.name) == 40
    (tmp_path / "runs").write_text("untracked")
    assert commit_of(tmp_path) == Commit(commit.name, is_modified=False)
    (tmp_path / "a.txt").write_text("2")
    assert commit_of(tmp_path) == Commit(commit.name, is_modified=True)


def test_a_machine_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path) is None


def test_versions_name_what_can_change_a_result():
    assert {"python", "clipkit", "torch", "numpy", "pillow"} <= set(package_versions())
