"""The checkpoint files of a run: their names, second names, and what killed runs left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import fsspec

from clipkit.atomic_files import (
    FORMER_SUFFIX,
    TEMPORARY_SUFFIX,
    put_in_place,
    restore,
    temporary_path,
)
from clipkit.data.storage.urls import is_local, local_path

LAST: Final = "last.ckpt"
BEST: Final = "best.ckpt"


def join(folder: str | Path, name: str) -> str:
    """Return the path of a file in a folder, which may be a URL.

    Examples:
        >>> join("s3://bucket/run/", "last.ckpt")
        's3://bucket/run/last.ckpt'
    """
    return f"{str(folder).rstrip('/')}/{name}" if str(folder) != "/" else f"/{name}"


def exists(path: str) -> bool:
    """Return whether there is a file or folder at a path or URL."""
    system, inside = fsspec.url_to_fs(path)
    return bool(system.exists(inside))


def duplicate(source: str, target: str) -> None:
    """Give a checkpoint a second name, which stays when the first one is replaced.

    Hard links are used on local disks that have them; a store makes a copy.
    """
    if not is_local(source):
        system, path = fsspec.url_to_fs(source)
        system.copy(path, fsspec.url_to_fs(target)[1], recursive=system.isdir(path))
        return
    first, second = local_path(source), local_path(target)
    copy = temporary_path(second)
    if first.is_dir():
        shutil.copytree(first, copy, copy_function=_link)
    else:
        _link(str(first), str(copy))
    put_in_place(copy, second)


def remove_partial_files(folder: str) -> None:
    """Remove incomplete files of killed runs from ``folder``, and complete interrupted renames."""
    if not is_local(folder):
        return
    for previous in local_path(folder).glob(f".*.ckpt.*{FORMER_SUFFIX}"):
        restore(previous)
    for path in local_path(folder).glob(f".*.ckpt.*{TEMPORARY_SUFFIX}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
