"""Read the samples of a shard from front to back, without an index and without a copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol, final

from clipkit.data.shards.reader import RawSample
from clipkit.data.shards.shard_table import MemberNames, check_count, name_as_text
from clipkit.data.shards.tar_headers import TarWalk, show_name
from clipkit.data.shards.tar_links import Link
from clipkit.errors import ShardError

_PIECE_BYTES: Final = 2**24


class ByteStream(Protocol):
    """A source of bytes from front to back."""

    def read(self, size: int, /) -> bytes:
        """Return the next ``size`` bytes; fewer only at the end."""
        ...


def read_samples(
    stream: ByteStream, url: str, expected_samples: int | None = None
) -> Iterator[RawSample]:
    """Yield the samples of a tar, as strictly as ``scan_shard`` reads its headers.

    Args:
        stream: Bytes of the tar.
        url: Address of the tar, for messages.
        expected_samples: Number of samples if it is known.

    Raises:
        ShardError: After the complete samples, if the tar is damaged, ends too early or has
            another number of samples.
    """
    forward = _Forward(stream)
    walk, names = TarWalk(forward.read_at, None, url), MemberNames(url)
    current: RawSample | None = None
    for entry in walk.entries():
        parts = names.split(entry.name)
        if parts is None:
            continue  # not part of a sample
        if isinstance(entry, Link):
            raise ShardError(
                f"{url}: {name_as_text(entry.name)!r}: expected a file, got a link or device, "
                f"which a sequential reader cannot follow. Pack the shard again with the file "
                f"itself (tar --dereference --hard-dereference)"
            )
        key, extension, begins = parts
        if begins:
            if current is not None:
                yield current
            current = RawSample(key, {}, url, names.num_samples - 1)
        assert current is not None
        data = forward.read_at(entry.offset, entry.size)
        if len(data) < entry.size:
            raise walk.truncated(forward.position, f"inside {show_name(entry.name)}")
        current.members[extension] = data
    # The last sample may lack members if the end is missing.
    check_count(names.num_samples, walk.num_entries, walk, forward.position, url, expected_samples)
    if current is not None:
        yield current


@final
class _Forward:
    """Reads a stream at ascending offsets, as if it were a file."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.position = 0

    def read_at(self, offset: int, length: int) -> bytes:
        while self.position < offset:
            if not self._read(min(offset - self.position, _PIECE_BYTES)):
                return b""
        if length <= _PIECE_BYTES:
            return self._read(length)
        # A header may name any size: memory is taken for what is there.
        data = bytearray()
        while piece := self._read(min(length - len(data), _PIECE_BYTES)):
            data += piece
        return bytes(data)

    def _read(self, length: int) -> bytes:
        data = self._stream.read(length) if length else b""
        self.position += len(data)
        return data
