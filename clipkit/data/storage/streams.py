"""Open shards as streams of bytes, without copies on the disk."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Final, final

from clipkit.addresses import PIPE_PREFIX
from clipkit.data.storage.remote import SYSTEM_ERRNOS, Retries, stat_remote
from clipkit.data.storage.urls import Address, file_system
from clipkit.errors import ShardError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE_BYTES: Final = 8 * 2**20
_PATIENCE_SECONDS: Final = 10.0
_BROKEN_PIPE_STATUS: Final = 128 + signal.SIGPIPE
"""Status with which a shell reports that the reader has ended first."""


@contextmanager
def open_stream(address: Address, retries: Retries) -> Iterator[IO[bytes]]:
    """Open a file, a URL or the output of a command for reading from front to back.

    Args:
        address: Address of the shard.
        retries: Retries of a remote read, from the position where it broke.

    Raises:
        ShardError: If it is missing or cannot be read, or a command fails; also at the end of the
            block.
        OSError: If this machine is out of files, memory or disk.
    """
    try:
        if address.is_local:
            with address.path.open("rb") as file:
                yield file
        elif address.kind == "pipe":
            with _output_of(address) as output:
                yield output
        else:
            with _remote(address, retries) as remote:
                yield remote
    except FileNotFoundError as error:
        raise ShardError(f"{address}: no such file") from error
    except OSError as error:
        if error.errno in SYSTEM_ERRNOS:
            raise
        raise ShardError(f"{address}: cannot be read: {error.strerror or error}") from error


@contextmanager
def _remote(address: Address, retries: Retries) -> Iterator[IO[bytes]]:
    state = stat_remote(address, retries)

    def check_version() -> None:
        if state.stamp and not state.is_same(now := stat_remote(address, retries)):
            raise ShardError(
                f"{address}: changed while it was read: version {state.stamp} at the beginning, "
                f"now {now.stamp}; its samples may be of both versions"
            )

    if state.size_bytes >= 0:
        pieces = _RangeReads(address.text, state.size_bytes, retries)
        yield io.BufferedReader(_Pieces(pieces.next))
    else:
        with closing(_StreamRead(address.text, retries, check_version)) as remote:
            yield io.BufferedReader(_Pieces(remote.next))
    check_version()


@final
class _RangeReads:
    """Reads a remote file of known size in consecutive ranges."""

    def __init__(self, url: str, size_bytes: int, retries: Retries) -> None:
        self._url = url
        self._size_bytes = size_bytes
        self._retries = retries
        self._position = 0

    def next(self) -> bytes:
        """Return the next piece; empty at the end."""
        if self._position >= self._size_bytes:
            return b""
        piece = self._retries.run(self._url, self._read, lambda: self._position)
        self._position += len(piece)
        return piece

    def _read(self) -> bytes:
        start = self._position
        end = min(start + _PIECE_BYTES, self._size_bytes)
        system, path = file_system(self._url, self._retries.stall_seconds)
        piece: bytes = system.cat_file(path, start=start, end=end)
        if len(piece) == self._size_bytes and len(piece) > end - start:
            return piece[start:]  # the server ignores ranges and sent everything
        if not 0 < len(piece) <= end - start:
            raise OSError(f"asked for bytes {start} to {end}, got {len(piece)} bytes")
        return piece


@final
class _StreamRead:
    """Reads a remote file of unknown size; after an error, again from its beginning to there."""

    def __init__(self, url: str, retries: Retries, check_version: Callable[[], None]) -> None:
        self._url = url
        self._retries = retries
        self._check_version = check_version
        self._file: Any = None
        self._position = 0

    def next(self) -> bytes:
        """Return the next piece; empty at the end."""
        piece = self._retries.run(self._url, self._read, lambda: self._position)
        self._position += len(piece)
        return piece

    def close(self) -> None:
        """End the transfer."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(Exception):  # the errors of broken connections have no common base
                file.close()

    def _read(self) -> bytes:
        try:
            if self._file is None:
                self._open()
            return bytes(self._file.read(_PIECE_BYTES))
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Open the file at the position that was reached."""
        if self._position:
            self._check_version()
        system, path = file_system(self._url, self._retries.stall_seconds)
        self._file = system.open(path, "rb")
        skipped = 0
        while skipped < self._position:
            piece = self._file.read(min(self._position - skipped, _PIECE_BYTES))
            if not piece:
                raise OSError(f"ended at byte {skipped}, after {self._position} had been read")
            skipped += len(piece)


@final
class _Pieces(io.RawIOBase):
    """A readable file from a function that returns its next bytes."""

    def __init__(self, next_piece: Callable[[], bytes]) -> None:
        self._next_piece = next_piece
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if not self._piece:
            self._piece = memoryview(self._next_piece())
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._piece))
        target[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count


@contextmanager
def _output_of(address: Address) -> Iterator[IO[bytes]]:
    """Run a command; a status other than 0 is an error, also after its complete output."""
    # Only parse_address makes an address of this kind: out of a text that the user wrote, and if
    # the user asked for pipes by name (allow_pipe).
    assert address.kind == "pipe", f"{address} is no command"
    command = address.text.removeprefix(PIPE_PREFIX)
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(  # noqa: S602
            command, shell=True, stdout=subprocess.PIPE, stderr=messages, start_new_session=True
        )
        assert process.stdout is not None
        try:
            yield process.stdout
        except ShardError as error:
            # A tar that ends too early, because the command has failed: its words explain more.
            status = _end(process, _PATIENCE_SECONDS)
            if status in (0, _BROKEN_PIPE_STATUS) or status < 0:
                raise
            raise _failure(address, status, messages) from error
        else:
            if status := _end(process, _PATIENCE_SECONDS):
                raise _failure(address, status, messages)
        finally:
            _end(process, 0.0)


def _end(process: subprocess.Popen[bytes], patience_seconds: float) -> int:
    """Return the status of a command that is read no more; it is killed if it does not end."""
    assert process.stdout is not None
    process.stdout.close()
    try:
        return process.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _failure(address: Address, status: int, messages: IO[bytes]) -> ShardError:
    messages.seek(0)
    text = messages.read().decode(errors="replace").strip()[-300:]
    return ShardError(f"{address}: the command ended with status {status}: {text}")
