"""Transfers of remote files that resume where they broke."""

from __future__ import annotations

import errno
import logging
import os
import random
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from clipkit.addresses import PIPE_PREFIX
from clipkit.data.storage.urls import STALL_SECONDS, Address, file_system
from clipkit.errors import DataError, ShardError

_LOG = logging.getLogger(__name__)
_RUN_VARIABLE: Final = "CLIPKIT_VERSION_OF_RUN"
_PIECE_BYTES: Final = 8 * 2**20
_MAX_WAIT_SECONDS: Final = 60.0
_TIMES: Final = ("Last-Modified", "LastModified", "last_modified", "mtime", "updated")
_STAMPS: Final = ("ETag", "etag", *_TIMES)
# Errors of this machine, not of the server: retries would hide them.
SYSTEM_ERRNOS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS}
)
_DENIED_STATUSES: Final = frozenset({401, 403})
_MISSING_STATUSES: Final = frozenset({404, 410})
_BEYOND_END: Final = 416
T = TypeVar("T")


def _cause(error: Exception) -> Exception:
    """Return the cause: fsspec reports a missing file whenever a web server did not answer."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    return error if getattr(cause, "status", None) in _MISSING_STATUSES else cause


def _refuse(url: str, error: Exception) -> None:
    """Raise errors that no retry can solve."""
    if isinstance(error, FileNotFoundError):
        raise ShardError(f"{url}: no such file") from error
    if isinstance(error, PermissionError) or getattr(error, "status", None) in _DENIED_STATUSES:
        raise ShardError(f"{url}: access denied: {error}") from error
    if getattr(error, "status", None) == _BEYOND_END:
        raise ShardError(f"{url}: shorter than when it was indexed; index it again") from error
    if isinstance(error, OSError) and error.errno in SYSTEM_ERRNOS:
        raise error


@dataclass(frozen=True, slots=True)
class Retries:
    """Number and times of retries.

    Args:
        count: Number of retries without any progress.
        backoff_seconds: Time before the first retry; it doubles with each, up to a minute.
        stall_seconds: Time without data after which a transfer has failed.
    """

    count: int
    backoff_seconds: float
    stall_seconds: float = STALL_SECONDS

    def run(self, url: str, action: Callable[[], T], progress: Callable[[], int]) -> T:
        """Call ``action``, and call it again after errors that may pass."""
        tries, reached = 0, progress()
        while True:
            try:
                return action()
            except (DataError, MemoryError, RangesIgnored):
                raise
            except Exception as caught:
                error = _cause(caught)
                _refuse(url, error)
                if progress() > reached:
                    tries, reached = 0, progress()
                tries += 1
                reason = f"{type(error).__name__}: {error}"
                if tries > self.count:
                    raise ShardError(
                        f"{url}: gave up after {self.count} retries; last error: {reason}"
                    ) from error
                wait = min(self.backoff_seconds * 2 ** (tries - 1), _MAX_WAIT_SECONDS)
                _LOG.warning("%s: %s; trying again in %.1f s", url, reason, wait)
                time.sleep(wait * random.uniform(0.5, 1.0))


class RemoteState(NamedTuple):
    """What a server says about a file, to tell whether it has changed."""

    size_bytes: int  # -1 if unknown
    stamp: str  # version; "" if only the size is known
    time: str  # when the file was changed; "" if unknown

    def is_same(self, other: RemoteState) -> bool:
        """Return whether two states are of the same content.

        Servers behind one address may have different versions (ETag) of the same file; these are
        the same if size and time are.
        """
        is_same_time = bool(self.time) and self.time == other.time
        return self.size_bytes == other.size_bytes and (self.stamp == other.stamp or is_same_time)


def stat_remote(address: Address, retries: Retries) -> RemoteState:
    """Return size, version and time of a remote file.

    The output of a command, and a file whose server reports neither size nor version, may change
    each time: their version is different in every run.
    """
    if address.kind == "pipe":
        return RemoteState(-1, _version_of_run(), "")
    url = address.text

    def ask() -> Mapping[str, Any]:
        system, path = file_system(url, retries.stall_seconds)
        system.invalidate_cache()
        found: Mapping[str, Any] = system.info(path)
        return found

    info = retries.run(url, ask, lambda: 0)
    if info.get("type") == "directory":
        raise ShardError(f"{url}: a folder, expected a tar file; for all of its shards add /*.tar")
    size = info.get("size")
    stamp = next((str(info[name]) for name in _STAMPS if info.get(name)), "")
    changed = next((str(info[name]) for name in _TIMES if info.get(name)), "")
    if size is None:
        return RemoteState(-1, stamp or _version_of_run(), changed)
    return RemoteState(int(size), stamp, changed)


def _version_of_run() -> str:
    """Return a text that is unique to this run; child processes inherit it."""
    return os.environ.setdefault(_RUN_VARIABLE, f"run-{uuid.uuid4().hex}")


def read_small(address: Address, retries: Retries) -> bytes | None:
    """Read a small remote file; None if there is none or access is denied."""
    url = address.text

    def ask() -> bytes | None:
        system, path = file_system(url, retries.stall_seconds)
        try:
            data: bytes = system.cat_file(path)
        except (FileNotFoundError, PermissionError):
            return None
        except Exception as error:
            if getattr(error, "status", None) in _DENIED_STATUSES | _MISSING_STATUSES:
                return None
            raise
        return data

    return retries.run(url, ask, lambda: 0)


class RangesIgnored(Exception):
    """A server sends complete files where parts of them were asked for."""


def read_ranges(
    address: Address,
    ranges: Sequence[tuple[int, int]],
    size_bytes: int,
    retries: Retries,
    *,
    probe: bool = True,
) -> list[bytes]:
    """Read some byte ranges of a remote file, at the same time where the store allows it.

    Args:
        address: Address of the file.
        ranges: Start and end of each range.
        size_bytes: Size of the file.
        retries: Retries of each call.
        probe: Whether one range is asked for first, because a server that ignores ranges sends a
            complete file for each.

    Raises:
        RangesIgnored: If the server does not serve ranges.
        ShardError: If the file is missing, or shorter than a range.
    """
    url = address.text

    def ask(some: Sequence[tuple[int, int]]) -> list[bytes]:
        system, path = file_system(url, retries.stall_seconds)
        starts, ends = [start for start, _ in some], [end for _, end in some]
        parts = system.cat_ranges([path] * len(some), starts, ends, on_error="raise")
        for (start, end), part in zip(some, parts, strict=True):
            if len(part) == size_bytes and size_bytes > end - start:
                raise RangesIgnored(url)
            if len(part) != end - start:
                raise OSError(f"asked for bytes {start} to {end}, got {len(part)} bytes")
        return [bytes(part) for part in parts]

    if not probe or len(ranges) == 1:
        return retries.run(url, lambda: ask(ranges), lambda: 0)
    first = retries.run(url, lambda: ask(ranges[:1]), lambda: 0)
    return first + retries.run(url, lambda: ask(ranges[1:]), lambda: 0)


def transfer(address: Address, size_bytes: int, part: Path, retries: Retries) -> None:
    """Transfer a remote file to ``part``; bytes that are already there are kept."""
    url = address.text

    def reached() -> int:
        return part.stat().st_size if part.exists() and size_bytes >= 0 else 0

    if address.kind == "pipe":
        retries.run(url, lambda: _run_pipe(address, part), lambda: 0)
    elif size_bytes < 0:
        retries.run(url, lambda: _copy_stream(url, part, retries.stall_seconds), lambda: 0)
    else:
        stall_seconds = retries.stall_seconds
        retries.run(url, lambda: _copy_pieces(url, size_bytes, part, stall_seconds), reached)


def _copy_pieces(url: str, size_bytes: int, part: Path, stall_seconds: float) -> None:
    system, path = file_system(url, stall_seconds)
    with part.open("ab") as file:
        if file.tell() > size_bytes:
            file.truncate(0)
        while (position := file.seek(0, 2)) < size_bytes:
            end = min(position + _PIECE_BYTES, size_bytes)
            piece = system.cat_file(path, start=position, end=end)
            if len(piece) == size_bytes and len(piece) > end - position:
                file.truncate(0)  # the server ignores ranges and sent everything
            elif not 0 < len(piece) <= end - position:
                raise OSError(f"asked for bytes {position} to {end}, got {len(piece)} bytes")
            file.write(piece)
            file.flush()


def _copy_stream(url: str, part: Path, stall_seconds: float) -> None:
    system, path = file_system(url, stall_seconds)
    with system.open(path, "rb") as source, part.open("wb") as target:
        while piece := source.read(_PIECE_BYTES):
            target.write(piece)


def _run_pipe(address: Address, part: Path) -> None:
    # Only parse_address makes an address of this kind: out of a text that the user wrote, and if
    # the user asked for pipes by name (allow_pipe).
    assert address.kind == "pipe", f"{address} is no command"
    command = address.text.removeprefix(PIPE_PREFIX)
    with part.open("wb") as target:
        done = subprocess.run(  # noqa: S602
            command, shell=True, stdout=target, stderr=subprocess.PIPE, check=False
        )
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip()[-300:]
        raise OSError(f"the command ended with status {done.returncode}: {text}")
