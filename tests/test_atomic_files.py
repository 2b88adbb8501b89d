"""Whatever is written is complete under its name, or what was there before stays."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipkit.atomic_files import (
    FORMER_SUFFIX,
    new_file,
    new_folder,
    put_in_place,
    restore,
    temporary_path,
    write_bytes,
    write_json,
    write_json_once,
    write_text,
)
from tests.helpers.sources import PACKAGE, trees

RENAMES_ITSELF = {"atomic_files.py", "cache.py"}
"""The second continues a transfer under a fixed name, which a lock protects."""

TEMPORARY = {"new_file", "new_folder", "replaced_folder", "TemporaryDirectory"}
WRITES_ITSELF = {
    "data/demo/emoji.py": "called inside of new_folder",
    "data/storage/remote.py": "a transfer, which is continued, and renamed by the cache",
    "export/onnx_precision.py": "called inside of replaced_folder",
    "models/files/folders.py": "parts of a checkpoint, whose list is written last",
    "models/files/state_dicts.py": "called inside of new_file, or for such a part",
    "search/index/adding.py": "called inside of new_folder",
    "training/callbacks/performance/watchdog.py": "stacks of a rank that may be stuck anywhere",
    "training/launch.py": "what a process prints",
    "training/loggers/metrics_csv.py": "appends lines, of which a reader ignores half a one",
}
"""Files whose writers need no temporary name, and why."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill_and_fail(path: Path) -> None:
    path.write_text("half")
    path.parent.write_text("not a file")


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_contents(tmp_path: Path) -> None:
    write_bytes(tmp_path / "new" / "bytes", b"\0")
    write_text(str(tmp_path / "text"), "ä\r\n")
    write_json(tmp_path / "json", {"ä": ["caf\udce9", 1.5]})
    assert (tmp_path / "new" / "bytes").read_bytes() == b"\0"
    assert (tmp_path / "text").read_bytes() == "ä\r\n".encode()
    assert json.loads((tmp_path / "json").read_text("utf-8")) == {"ä": ["caf\udce9", 1.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "json", float("nan"))
    assert names(tmp_path) == ["json", "new", "text"]


@pytest.mark.parametrize("what", [new_file, new_folder])
def test_a_failure_leaves_the_previous_content(tmp_path: Path, what) -> None:
    target = tmp_path / "target"
    with what(target) as temporary:
        (temporary / "a" if what is new_folder else temporary).write_text("previous")
        assert not target.exists()
    with pytest.raises(IsADirectoryError), what(target) as temporary:
        fill_and_fail(temporary / "a" if what is new_folder else temporary)
    assert (target / "a" if what is new_folder else target).read_text() == "previous"
    assert names(tmp_path) == ["target"]


def test_a_full_disk_names_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file", "previous")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("previous")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"):
        write_text(tmp_path / "file", "new")
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*/folder'"),
        new_folder(tmp_path / "folder") as folder,
    ):
        (folder / "a").write_text("new")
    assert (tmp_path / "file").read_text() == "previous"
    assert (tmp_path / "folder" / "a").read_text() == "previous"
    with new_file(tmp_path / "file", sync=False) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    assert names(tmp_path) == ["file", "folder"]


def test_what_was_killed_a_day_ago_is_removed(tmp_path: Path) -> None:
    names_before = [".a.0123abcd.tmp", ".a.4567abcd.tmp", ".b.0123abcd.tmp", ".a.0123abcd.former"]
    for name in names_before:
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "file").write_text("half")
    yesterday = time.time() - 25 * 3600
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        os.utime(path, (yesterday, yesterday))
    os.utime(tmp_path / ".a.4567abcd.tmp" / "inner" / "file")  # is being written
    with new_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == sorted([*names_before[1:], "a"])


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "folder", "new")
    assert names(tmp_path) == ["folder"]


def test_a_link_to_a_folder_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with new_folder(tmp_path / "link") as folder:
        (folder / "a").write_text("new")
    assert names(tmp_path / "elsewhere") == []
    assert names(tmp_path / "link") == ["a"]


@pytest.mark.parametrize("has_links", [True, False])
def test_of_many_writers_at_once_one_writes(tmp_path: Path, monkeypatch, has_links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "new" / "claim.json"
    with ThreadPoolExecutor(8) as pool:
        wrote = list(pool.map(lambda n: write_json_once(path, n), range(8 if has_links else 1)))
    assert wrote.count(True) == 1
    assert json.loads(path.read_text()) == wrote.index(True)
    assert not write_json_once(path, "other")
    assert json.loads(path.read_text()) == wrote.index(True)
    assert names(path.parent) == ["claim.json"]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_kill_between_two_renames(tmp_path: Path, is_replaced: bool) -> None:
    target = tmp_path / "last.ckpt"
    former = temporary_path(target, FORMER_SUFFIX)
    former.mkdir()
    (former / "a").write_text("former")
    if is_replaced:
        target.mkdir()
    restore(former)
    assert names(tmp_path) == ["last.ckpt"]
    assert names(target) == ([] if is_replaced else ["a"])


def test_kinds_that_replace_each_other(tmp_path: Path) -> None:
    write_text(tmp_path / "target", "file")
    for complete in (tmp_path / "new-folder", tmp_path / "new-file"):
        complete.mkdir() if complete.name == "new-folder" else complete.write_text("file")
        is_folder = complete.is_dir()
        put_in_place(complete, tmp_path / "target")
        assert (tmp_path / "target").is_dir() == is_folder
    assert names(tmp_path) == ["target"]


def test_no_other_module_renames_files() -> None:
    """``str.replace`` has two arguments, ``Path.replace`` one."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name, count = node.func.attr, len(node.args) + len(node.keywords)
            renames = (name == "rename") or (name == "replace" and count == 1 and node.args)
            assert not renames or path.name in RENAMES_ITSELF, f"{path}:{node.lineno}"


def test_other_modules_write_under_a_temporary_name() -> None:
    writers = {
        path.relative_to(PACKAGE).as_posix()
        for path, tree in trees().items()
        if path.name != "atomic_files.py" and writes(tree)
    }
    assert writers == set(WRITES_ITSELF)


def writes(node: ast.AST) -> bool:
    """Whether a file is written, outside of a block that provides a temporary name."""
    begun = node.items if isinstance(node, ast.With) else [node]
    if isinstance(node, ast.With | ast.Assign) and any(map(provides_a_name, begun)):
        return False
    return opens_to_write(node) or any(map(writes, ast.iter_child_nodes(node)))


def provides_a_name(node: ast.AST) -> bool:
    called = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
    return any(getattr(f, "id", getattr(f, "attr", "")) in TEMPORARY for f in called)


def opens_to_write(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    method, function = getattr(node.func, "attr", ""), getattr(node.func, "id", "")
    modes = [str(part.value) for part in node.args if isinstance(part, ast.Constant)]
    is_writing = any(re.fullmatch(r"[wxa][bt+]*", mode) for mode in modes)
    opens = "open" in (method, function) and is_writing
    return opens or method in ("write_text", "write_bytes")
