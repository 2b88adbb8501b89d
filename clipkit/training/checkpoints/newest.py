"""The newest complete checkpoint of a run: found and verified once for all ranks."""

from __future__ import annotations

import logging
import time
import zipfile
from collections.abc import Iterable, Iterator
from typing import Final

import fsspec
import torch

from clipkit.addresses import is_local, local_path
from clipkit.atomic_files import FORMER_SUFFIX
from clipkit.distributed.agreement import of_first_rank, on_all_ranks, same_errors
from clipkit.distributed.collectives import rank, world_size
from clipkit.errors import CheckpointError
from clipkit.models.files import sharded as sharded_files
from clipkit.models.files.folders import Folder
from clipkit.training.checkpoints.files import LAST, duplicate, join, remove_partial_files
from clipkit.training.checkpoints.io import UNREADABLE
from clipkit.training.checkpoints.remote import local_copy

_LOG: Final = logging.getLogger(__name__)
_VISIBLE_SECONDS: Final = 90.0
"""NFS keeps the listing of a folder for up to a minute; then every machine sees the same files."""


def has_checkpoints(folder: str) -> bool:
    """Return whether a folder or URL lists a checkpoint, complete or not."""
    system, root = fsspec.url_to_fs(folder)
    return bool(system.isdir(root)) and bool(_checkpoint_names(system, root))


def newest_complete(folder: str) -> str | None:
    """Return the complete checkpoint of a run with the most steps, the same one on every rank.

    Every rank calls it. Rank 0 lists the folder and reads a file of which every checksum is
    compared; of a folder of parts, each rank reads its share. ``last.ckpt`` is read first; it is
    the newest unless it was damaged. Incomplete ones are skipped with a warning. A folder that was
    being replaced when its run was killed counts, too.

    Raises:
        CheckpointError: If there are checkpoints and none is complete, or another machine still
            sees another file after a minute and a half.
    """
    broken: dict[str, str] = {}
    for name, is_folder in of_first_rank(lambda: _candidates(folder)):
        path = join(folder, name)
        if problem := _agreed_problem(path, is_folder):
            broken[name] = problem
            continue
        if rank() == 0:
            for other, reason in broken.items():
                _LOG.warning(
                    "skipping %s: %s; continuing from %s", join(folder, other), reason, name
                )
        wait_until_visible(path)
        return path
    if not broken:
        return None
    listed = "; ".join(f"{name}: {reason}" for name, reason in broken.items())
    raise CheckpointError(
        f"ckpt_path: no checkpoint in {folder} is complete ({listed}); "
        f"move them away for a new start, or name another one with --ckpt_path FILE"
    )


def why_incomplete(path: str, share: int = 0, num_shares: int = 1) -> str:
    """Read a checkpoint and return what is wrong with it; empty if it is complete.

    Every checksum in it is compared. A file in a store is transferred once, into the cache from
    which it is then loaded.

    Args:
        path: Path or URL.
        share: Number of the share of the parts that this rank reads, if they are several files.
        num_shares: Number of shares.
    """
    system, inside = fsspec.url_to_fs(path)
    if system.isdir(inside):
        return sharded_files.why_incomplete(path, share, num_shares)
    try:
        with local_copy(path) as file, zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, CheckpointError) as error:
        return f"incomplete or damaged ({str(error).lower()})"
    return f"damaged at {damaged}" if damaged else ""


def _candidates(folder: str) -> list[tuple[str, bool]]:
    """Return the names of checkpoints, the newest first, and whether each is a folder."""
    system, root = fsspec.url_to_fs(folder)
    if not system.isdir(root):
        return []
    names = _checkpoint_names(system, root)
    return [(name, bool(system.isdir(join(root, name)))) for name in _newest_first(folder, names)]


def _checkpoint_names(system: fsspec.AbstractFileSystem, root: str) -> list[str]:
    system.invalidate_cache()
    paths = (str(path).rstrip("/") for path in system.ls(root, detail=False))
    names = (path.rsplit("/", 1)[-1] for path in paths)
    return [
        name for name in names if name.endswith(FORMER_SUFFIX if name.startswith(".") else ".ckpt")
    ]


def _agreed_problem(path: str, is_folder: bool) -> str:
    """Return why a checkpoint is incomplete, the same text on every rank."""
    if not is_folder:
        return of_first_rank(lambda: why_incomplete(path))
    problems = on_all_ranks(lambda: why_incomplete(path, rank(), world_size()))
    return next(filter(None, problems), "")


def wait_until_visible(path: str) -> None:
    """Wait until this rank's machine shows the file that rank 0 has verified.

    Machines keep listings and files of network disks for some time. A rank that took an older file
    would continue with other weights than the others.
    """
    step = of_first_rank(lambda: step_of(path))
    end = time.monotonic() + _VISIBLE_SECONDS
    with same_errors():
        while (seen := step_of(path)) != step:
            if time.monotonic() > end:
                raise CheckpointError(
                    f"ckpt_path: {path}: expected step {step}, as on rank 0, got "
                    f"{'no readable file' if seen < 0 else f'step {seen}'} on rank {rank()}; every "
                    f"machine must see the same folder"
                )
            time.sleep(1)


def _newest_first(folder: str, names: list[str]) -> Iterator[str]:
    """Yield ``last.ckpt``, then the others by their optimizer steps, then by their age."""
    if LAST in names:
        yield LAST
    system, root = fsspec.url_to_fs(folder)

    def order(name: str) -> tuple[int, float]:
        try:
            modified = float(system.modified(join(root, name)).timestamp())
        except (NotImplementedError, OSError, KeyError, AttributeError):  # a store's folder
            modified = 0.0
        head, _, number = name.removesuffix(".ckpt").partition("=")
        is_named = head == "step" and number.isdigit()
        return int(number) if is_named else step_of(join(folder, name)), modified

    yield from sorted((name for name in names if name != LAST), key=order, reverse=True)


def complete_saves(folder: str, step: int, names: Iterable[str], source: str) -> None:
    """Complete or remove what interrupted saves left; errors are logged.

    Args:
        folder: Path or URL of the checkpoints.
        step: Optimizer step of the run that continues.
        names: Further names of the checkpoint of that step, for which a killed run had no time.
        source: Path or URL from which the run continues.
    """
    try:
        remove_partial_files(folder)
        for name in names:
            _name_last(folder, step, name, source)
    except (OSError, CheckpointError) as error:
        _LOG.warning("%s: incomplete files of earlier saves stay: %s", folder, error)


def _name_last(folder: str, step: int, name: str, source: str) -> None:
    """Give ``last.ckpt`` a further name if it is of the step, and the name is of another one.

    The step of a store's file is not read; ``last.ckpt`` there is of the step if it is the source.
    """
    last, named = join(folder, LAST), join(folder, name)
    if (source == last or step_of(last) == step) and step_of(named) != step:
        duplicate(last, named)


def step_of(path: str) -> int:
    """Return the optimizer step of a checkpoint; -1 for a store's file, or if it is unreadable."""
    try:
        if sharded_files.is_sharded(path):
            return int(Folder(path).read_plain(sharded_files.META)["global_step"])
        if not is_local(path):
            return -1  # reading it would transfer all of it
        file = local_path(path)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return int(content["global_step"])
    except (*UNREADABLE, CheckpointError, KeyError, TypeError):
        return -1  # why_incomplete names the problem
