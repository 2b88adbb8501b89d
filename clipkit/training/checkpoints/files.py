"""The checkpoint files of a run: their names, the newest one, and whether they are complete."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import fsspec
import torch

from clipkit.atomic_files import (
    FORMER_SUFFIX,
    TEMPORARY_SUFFIX,
    put_in_place,
    restore,
    temporary_path,
)
from clipkit.data.storage.urls import is_local, local_path
from clipkit.errors import CheckpointError
from clipkit.models.files import sharded as sharded_files
from clipkit.training.checkpoints.io import UNREADABLE

_LOG: Final = logging.getLogger(__name__)
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


def newest_complete(folder: str) -> str | None:
    """Return the complete checkpoint of a run with the most steps.

    ``last.ckpt`` is read first; it is the newest unless it was damaged. Incomplete ones are skipped
    with a warning. A folder that was being replaced when its run was killed counts, too.
    """
    system, root = fsspec.url_to_fs(folder)
    if not system.isdir(root):
        return None
    listed_names = [str(path).rsplit("/", 1)[-1] for path in system.ls(root, detail=False)]
    names = [
        name
        for name in listed_names
        if name.endswith(FORMER_SUFFIX if name.startswith(".") else ".ckpt")
    ]
    broken: dict[str, str] = {}
    for name in _newest_first(folder, names):
        if not (problem := why_incomplete(join(folder, name))):
            for other, reason in broken.items():
                _LOG.warning(
                    "skipping %s: %s; continuing from %s", join(folder, other), reason, name
                )
            return join(folder, name)
        broken[name] = problem
    if not broken:
        return None
    listed = "; ".join(f"{name}: {reason}" for name, reason in broken.items())
    raise CheckpointError(
        f"ckpt_path: no checkpoint in {folder} is complete ({listed}); "
        f"move them away for a new start, or name another one with --ckpt_path FILE"
    )


def why_incomplete(path: str) -> str:
    """Read a checkpoint and return what is wrong with it; empty if it is complete.

    Every checksum in it is compared.
    """
    system, inside = fsspec.url_to_fs(path)
    if system.isdir(inside):
        if not is_local(path):
            return "sharded, and sharded checkpoints are read from disks only; copy it to one"
        return sharded_files.why_incomplete(Path(inside))
    try:
        with system.open(inside, "rb") as file, zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        return f"incomplete or damaged ({str(error).lower()})"
    return f"damaged at {damaged}" if damaged else ""


def _newest_first(folder: str, names: list[str]) -> Iterator[str]:
    """Yield ``last.ckpt``, then the others by their optimizer steps, then by their age."""
    if LAST in names:
        yield LAST
    system, root = fsspec.url_to_fs(folder)

    def rank(name: str) -> tuple[int, float]:
        try:
            modified = float(system.modified(join(root, name)).timestamp())
        except (NotImplementedError, FileNotFoundError, AttributeError):
            modified = 0.0
        return _step_of(join(folder, name)), modified

    yield from sorted((name for name in names if name != LAST), key=rank, reverse=True)


def _step_of(path: str) -> int:
    """Return the optimizer step of a checkpoint, by its name or content; -1 if it is damaged."""
    head, _, number = path.rsplit("/", 1)[-1].removesuffix(".ckpt").partition("=")
    if head == "step" and number.isdigit():
        return int(number)
    if not is_local(path):
        return -1  # reading it would transfer all of it
    place = local_path(path)
    file = place / sharded_files.META if place.is_dir() else place
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return int(content["global_step"])
    except (*UNREADABLE, KeyError, TypeError):
        return -1  # why_incomplete names the problem


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
