"""Write files and folders that are either complete under their name, or absent.

Everything is written under a hidden temporary name in the folder of its target, synchronised with
the disk, then renamed. A reader sees the previous content or the new one, never a part, even if the
process is killed or the disk is full. Permissions are those that the umask leaves.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, Final

from clipkit.errors import naming

TEMPORARY_SUFFIX: Final = ".tmp"
_OLD_SECONDS: Final = 24 * 3600
FORMER_SUFFIX: Final = ".former"
"""Suffix of a folder that was renamed to make room for its successor."""


def temporary_path(path: Path, suffix: str = TEMPORARY_SUFFIX) -> Path:
    """Return a hidden, random name in the folder of ``path``.

    A name that can be predicted could be a link that another user put into a shared folder.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")


@contextmanager
def new_file(path: Path | str, *, sync: bool = True) -> Iterator[Path]:
    """Provide the path of an empty temporary file that replaces ``path`` after the block.

    If the block raises, the temporary file is removed and ``path`` stays as it was.

    Examples:
        >>> with new_file("runs/table.csv") as temporary:
        ...     _ = temporary.write_text("a,b")
        >>> Path("runs/table.csv").read_text()
        'a,b'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        with naming(path):
            yield temporary
            if temporary.stat().st_mode != mode:  # safetensors makes files that only we can read
                temporary.chmod(stat.S_IMODE(mode))
            if sync:
                wait_for_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Provide an empty temporary folder that takes the place of ``path`` after the block.

    If the block raises, the temporary folder is removed and ``path`` stays as it was. Those that
    killed processes left a day ago or earlier are removed, too.
    """
    path = Path(path)
    _remove_old_folders(path)
    temporary = temporary_path(path)
    temporary.mkdir(parents=True)
    try:
        with naming(path):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    wait_for_disk(file)
        put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_old_folders(path: Path) -> None:
    """Remove temporary folders in which nothing has changed for a day."""
    oldest = time.time() - _OLD_SECONDS
    for folder in path.parent.glob(f".{escape(path.name)}.????????{TEMPORARY_SUFFIX}"):
        with suppress(OSError):  # another process removes it, or it is another user's
            content = [folder, *folder.rglob("*")]
            if folder.is_dir() and max(each.lstat().st_mtime for each in content) < oldest:
                shutil.rmtree(folder)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a complete file; see ``new_file``."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path | str, text: str) -> None:
    """Write a complete file of text in UTF-8, line ends as they are; see ``new_file``."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, content: Any) -> None:
    """Write JSON that people can read; see ``new_file``."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    # Names of files that are not UTF-8 hold lone surrogates, which JSON writes as Python does.
    write_bytes(path, f"{text}\n".encode(errors="backslashreplace"))


def write_json_once(path: Path | str, content: Any) -> bool:
    """Write JSON unless the file exists; of several processes at the same time, one does.

    Returns:
        Whether this call wrote the file.

    Examples:
        >>> write_json_once("runs/claim.json", {"rank": 0}), write_json_once("runs/claim.json", {})
        (True, False)
    """
    path = Path(path)
    complete = temporary_path(path)
    try:
        write_json(complete, content)
        try:
            os.link(complete, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links, as on some network and object file systems
            if path.exists():
                return False
            complete.replace(path)
        return True
    finally:
        complete.unlink(missing_ok=True)


def put_in_place(complete: Path, target: Path) -> None:
    """Rename a complete file or folder so that it takes the place of another one.

    No system call replaces a folder. The previous one is first renamed, to a name from which
    ``restore`` brings it back if the process is killed between the two.
    """
    if not target.is_dir() and not complete.is_dir():
        complete.replace(target)
        return
    previous = temporary_path(target, FORMER_SUFFIX)
    if target.exists():
        target.rename(previous)
    complete.rename(target)
    _remove(previous)


def restore(previous: Path) -> None:
    """Complete a ``put_in_place`` that was killed: rename back unless the successor is there."""
    target = previous.with_name(previous.name[1:].removesuffix(FORMER_SUFFIX).rpartition(".")[0])
    if target.exists():
        _remove(previous)
    else:
        previous.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def wait_for_disk(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
