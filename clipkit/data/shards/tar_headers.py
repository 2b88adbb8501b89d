"""List the members of a tar file from its 512-byte headers, without reading the contents.

This is fifteen times faster than ``tarfile`` and stricter: where ``tarfile`` silently ends an
iteration (a file truncated between members, a flipped byte, zeros in the middle), this raises.
Formats: POSIX ustar, PAX (of WebDataset's writer) and GNU with long names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, final

from clipkit.data.shards.tar_links import Link, Member, Unresolved, resolve_links
from clipkit.errors import ShardError

BLOCK_BYTES: Final = 512
_ZEROS: Final = bytes(BLOCK_BYTES)
# tar pads its end to a multiple of its blocking factor: 20 blocks by default, at most 2048.
_BLOCKING_FACTORS: Final[tuple[int, ...]] = (
    *(2**k for k in range(12)),
    *(20 * 2**k for k in range(7)),
)
_PIECE_BYTES: Final = 2**20
_MAX_EXTENDED_HEADER_BYTES: Final = 2**20
_FILE_TYPES: Final = frozenset(b"0\0" + b"7")
_HARD_LINK: Final = ord("1")
_LINK_TYPES: Final = frozenset(b"12")
_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

ReadAt = Callable[[int, int], bytes]
"""``read_at(offset, length)``: the bytes there, fewer only at the end of the file."""


@dataclass(frozen=True, slots=True)
class TarContents:
    """Result of a scan.

    Args:
        members: Regular files and links to them, in order.
        unresolved: Entries without contents: links to something else, devices and pipes.
        num_directories: Number of directories, which are skipped.
        has_end_marker: Whether the file ends with the block of zeros that closes a tar.
    """

    members: list[Member]
    unresolved: list[Unresolved]
    num_directories: int
    has_end_marker: bool


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    size: int
    kind: int
    target: bytes


@final
class TarWalk:
    """Goes through a tar from the front, header by header.

    Args:
        read_at: Function that reads the tar. The offsets ascend, so that it may be a stream.
        size_bytes: Size of the tar in bytes; None if it is unknown until the end.
        url: Address of the tar, for messages.
    """

    def __init__(self, read_at: ReadAt, size_bytes: int | None, url: str) -> None:
        self._read_at = read_at
        self._size_bytes = size_bytes
        self._url = url
        self.num_entries = 0
        """Number of entries so far, without directories."""
        self.num_directories = 0
        """Number of directories so far, which are skipped."""
        self.has_end_marker = False
        """Whether the walk has reached the block of zeros that closes a tar."""

    def entries(self) -> Iterator[Member | Link]:
        """Yield files and links; the caller reads the contents of a file from a stream first."""
        offset = 0
        overrides: dict[bytes, bytes] = {}
        while self._size_bytes is None or offset < self._size_bytes:
            block = self._read_at(offset, BLOCK_BYTES)
            if not block and self._size_bytes is None:
                return
            if len(block) < BLOCK_BYTES:
                raise self.truncated(offset + len(block), f"inside the header at byte {offset}")
            if block == _ZEROS:
                _check_end(self._read_at, offset, self._size_bytes, self._url)
                self.has_end_marker = True
                return
            header = _parse_header(block, offset, self._url)
            contents, size = offset + BLOCK_BYTES, header.size
            if header.kind in b"xLKg":
                overrides |= self._extended(header, offset)
            else:
                entry = _entry(header, overrides, contents, self._url)
                overrides = {}
                size = entry.size if isinstance(entry, Member) else 0
                self.num_directories += entry is None
                self.num_entries += entry is not None
                self._check_inside(contents + size, entry)
                if entry is not None:
                    yield entry
            offset = contents + -(-size // BLOCK_BYTES) * BLOCK_BYTES

    def truncated(self, end: int, where: str) -> ShardError:
        """Return the error for a tar that ends at byte ``end``."""
        return ShardError(
            f"{self._url}: truncated: the file ends at byte {end}, {where}, after "
            f"{self.num_entries} complete members; copy or pack the shard again"
        )

    def _extended(self, header: _Header, offset: int) -> dict[bytes, bytes]:
        """Read an extended header."""
        start, total = offset + BLOCK_BYTES, self._size_bytes
        fits = header.size <= _MAX_EXTENDED_HEADER_BYTES
        if fits and (total is None or start + header.size <= total):
            data = self._read_at(start, header.size)
            if len(data) == header.size:
                return _extended(header.kind, data, offset, self._url)
            total = start + len(data)
        raise self.truncated(total or start, f"inside a long name at byte {offset}")

    def _check_inside(self, end: int, entry: Member | Link | None) -> None:
        if self._size_bytes is not None and end > self._size_bytes and entry is not None:
            raise self.truncated(self._size_bytes, f"inside {show_name(entry.name)}")


def scan_tar(read_at: ReadAt, size_bytes: int, url: str) -> TarContents:
    """List the files of a tar, header by header."""
    walk = TarWalk(read_at, size_bytes, url)
    members, unresolved = resolve_links(list(walk.entries()))
    return TarContents(members, unresolved, walk.num_directories, walk.has_end_marker)


def _entry(
    header: _Header, overrides: dict[bytes, bytes], contents: int, url: str
) -> Member | Link | None:
    """Return the file or link of a header; None for a directory."""
    name = overrides.get(b"path", header.name)
    if header.kind in _FILE_TYPES and not name.endswith(b"/"):
        return Member(name, contents, int(overrides.get(b"size", header.size)))
    if header.kind == ord("5") or name.endswith(b"/"):
        return None
    if header.kind == ord("S"):
        raise ShardError(f"{url}: sparse member {show_name(name)}; pack it without --sparse")
    target = overrides.get(b"linkpath", header.target)  # links, devices and pipes have no contents
    is_link = header.kind in _LINK_TYPES
    return Link(name, target if is_link else None, header.kind == _HARD_LINK)


def header_facts(block: bytes, url: str) -> tuple[bytes, int]:
    """Return name and size in the header directly in front of a member's contents.

    The name is not complete if it is longer than 100 bytes.

    Raises:
        ShardError: If the block is no header.
    """
    header = _parse_header(block, BLOCK_BYTES, url)
    return header.name, header.size


def _parse_header(block: bytes, offset: int, url: str) -> _Header:
    stored = _number(block[148:156])
    # The checksum counts its own field as eight spaces. Old writers summed signed bytes.
    unsigned = sum(block[:148]) + 256 + sum(block[156:])
    if stored != unsigned:
        high = sum(byte > 127 for byte in block[:148]) + sum(byte > 127 for byte in block[156:])
        if stored is None or stored != unsigned - 256 * high:
            raise _not_a_header(block, offset, url)
    size = _number(block[124:136])
    if size is None:
        raise _not_a_header(block, offset, url)
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0":  # GNU ("ustar  ") stores other fields in place of the prefix
        prefix = block[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return _Header(name, size, block[156], block[157:257].split(b"\0", 1)[0])


def _number(field: bytes) -> int | None:
    """Parse an octal number, or GNU's base 256 for sizes from 8 GiB; None if it is neither."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    text = field.split(b"\0", 1)[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError:
        return None


def _extended(kind: int, data: bytes, offset: int, url: str) -> dict[bytes, bytes]:
    """Parse an extended header: path, size and link target of the next entry."""
    if kind in b"LK":
        return {b"path" if kind == ord("L") else b"linkpath": data.split(b"\0", 1)[0]}
    if kind != ord("x"):
        return {}  # global comments are not needed
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        length, _, _ = data[position:].partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data) - position:
            raise ShardError(f"{url}: damaged PAX record in the header at byte {offset}")
        record = data[position + len(length) + 1 : position + int(length) - 1]
        keyword, _, value = record.partition(b"=")
        if keyword.startswith(b"GNU.sparse"):
            raise ShardError(f"{url}: sparse member at byte {offset}; pack it without --sparse")
        if keyword in {b"path", b"linkpath"} or (keyword == b"size" and value.isdigit()):
            found[keyword] = value
        position += int(length)
    return found


def _check_end(read_at: ReadAt, offset: int, size_bytes: int | None, url: str) -> None:
    """Refuse anything but a little padding after the end marker."""
    start = offset + BLOCK_BYTES
    while size_bytes is None or start < size_bytes:
        piece = read_at(start, _PIECE_BYTES)
        if not piece:
            break
        if piece.count(0) != len(piece):
            of_size = "" if size_bytes is None else f" of {size_bytes}"
            raise ShardError(
                f"{url}: data follows the end marker at byte {offset}{of_size}. Readers "
                f"stop there and would lose it (tars joined with cat, or damage); pack it again"
            )
        start += len(piece)
    total = start if size_bytes is None else size_bytes
    rest = total - offset
    if rest > _most_end_bytes(total):
        raise ShardError(
            f"{url}: {rest} bytes of zeros from byte {offset}, as an incomplete copy leaves "
            f"them; copy the shard again"
        )


def _most_end_bytes(size_bytes: int) -> int:
    """Return the most zeros that end a complete tar of this size: its end marker and padding."""
    factors = [f for f in _BLOCKING_FACTORS if size_bytes % (f * BLOCK_BYTES) == 0]
    return (max([20, *factors]) + 1) * BLOCK_BYTES


def _not_a_header(block: bytes, offset: int, url: str) -> ShardError:
    if offset:
        return ShardError(
            f"{url}: damaged header at byte {offset}: its checksum is wrong; "
            f"copy or pack the shard again"
        )
    for magic, name in _COMPRESSED.items():
        if block.startswith(magic):
            return ShardError(
                f"{url}: compressed with {name}; samples are read in place from plain tars, "
                f"so decompress it first"
            )
    return ShardError(
        f"{url}: expected a tar file, got one that starts with {block[:16]!r}, or its first header "
        f"is damaged"
    )


def show_name(name: bytes) -> str:
    """Return a member's name for messages."""
    return repr(name.decode("utf-8", "replace"))
