"""The checkpoint files of a run: their names, second names, and what killed runs left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import fsspec

from clipkit.addresses import is_local, local_path
from clipkit.atomic_files import (
    FORMER_SUFFIX,
    TEMPORARY_SUFFIX,
    put_in_place,
    restore,
    temporary_path,
)
from clipkit.models.files.folders import Folder, store_errors
from clipkit.models.files.sharded import META, is_sharded, unused_files

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
        if is_sharded(source):
            _duplicate_parts(Folder(source), Folder(target))
            return
        system, path = fsspec.url_to_fs(source)
        with store_errors():
            system.copy(path, fsspec.url_to_fs(target)[1])
        return
    first, second = local_path(source), local_path(target)
    copy = temporary_path(second)
    if first.is_dir():
        shutil.copytree(first, copy, copy_function=_link)
    else:
        _link(str(first), str(copy))
    put_in_place(copy, second)


def remove(path: str) -> None:
    """Remove a checkpoint.

    Of a folder in a store, ``meta.pt`` is removed first: what is left of it after an interruption
    is no checkpoint.
    """
    if is_local(path):
        place = local_path(path)
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        return
    remove_parts(path)
    system, inside = fsspec.url_to_fs(path)
    system.invalidate_cache()
    if system.exists(inside):
        system.rm(inside, recursive=True)


def remove_parts(path: str) -> None:
    """Remove the folder of parts at a URL, but not a file of the same name."""
    if is_sharded(path):
        Folder(path).remove(META)
        Folder(path).remove(*unused_files(path))


def remove_partial_files(folder: str) -> None:
    """Remove incomplete files of killed runs from ``folder``, and complete interrupted renames."""
    if not is_local(folder):
        system, root = fsspec.url_to_fs(folder)
        system.invalidate_cache()
        for path in system.ls(root, detail=False) if system.isdir(root) else ():
            name = str(path).rstrip("/").rsplit("/", 1)[-1]
            if name.endswith(".ckpt") and system.isdir(path):
                checkpoint = join(folder, name)
                Folder(checkpoint).remove(*unused_files(checkpoint))
        return
    for previous in local_path(folder).glob(f".*.ckpt.*{FORMER_SUFFIX}"):
        restore(previous)
    for path in local_path(folder).glob(f".*.ckpt.*{TEMPORARY_SUFFIX}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _duplicate_parts(source: Folder, target: Folder) -> None:
    for name in source.sizes():
        if name != META:
            source.copy(name, target)
    source.copy(META, target)
    target.remove(*unused_files(target.place))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
