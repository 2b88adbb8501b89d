"""Sharded checkpoints: a folder with one file of tensors per rank, and one for the rest.

The parts are safetensors files as ``torch.distributed.checkpoint`` writes and reads them; the rest
is ``meta.pt``, with the sizes and checksums of the parts. Nothing is unpickled but plain types and
tensors, and nothing here needs a process group to read.

``meta.pt`` is written last, so that a folder without it is no checkpoint. A store cannot rename a
folder: there the parts of each write have a folder of their own inside, and a new ``meta.pt``,
which a store replaces in one operation, changes from the parts of one write to those of another.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from clipkit.distributed.agreement import on_all_ranks
from clipkit.distributed.collectives import rank
from clipkit.errors import CheckpointError
from clipkit.models.files.folders import Folder
from clipkit.models.files.pieces import (
    Piece,
    StoredPiece,
    copy_rows,
    header_length,
    parse_header,
    write_pieces,
)
from clipkit.models.files.state_dicts import read_file

META: Final = "meta.pt"
_PARTS: Final = "parts"
_PART_NAME: Final = re.compile(r"([^/]+/)?shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_WITHOUT_FOLDERS: Final = ("http://", "https://")

Place = tuple[Any, ...]
"""Position of a tensor in a checkpoint: the keys and indices that lead to it."""


@dataclass(frozen=True, slots=True)
class ShardedContent:
    """What one rank writes of a checkpoint.

    Args:
        pieces: Pieces of sharded tensors, by the places of the tensors as JSON.
        rest: The checkpoint without sharded tensors; rank 0 writes it.
    """

    pieces: Mapping[str, Piece]
    rest: Mapping[str, Any]


def is_sharded(path: Path | str) -> bool:
    """Return whether there is a folder that ``write_sharded`` wrote at a path or URL."""
    return not str(path).startswith(_WITHOUT_FOLDERS) and Folder(path).exists(META)


def split_shards(checkpoint: Mapping[str, Any]) -> ShardedContent:
    """Separate the pieces that this rank has of sharded tensors from the rest; nothing is copied.

    Of several copies of a piece, as under hybrid sharding, the first rank of them has it.
    """
    pieces: dict[str, Piece] = {}
    rest: dict[str, Any] = _split(checkpoint, (), pieces)
    return ShardedContent(pieces, rest)


def write_sharded(
    content: ShardedContent, folder: Path | str, inner: str = "", group: Any = None
) -> int:
    """Write a checkpoint whose tensors are sharded over the ranks; each rank writes its part.

    All ranks call it. The folder is complete when this returns; on a disk, write it under a
    temporary name.

    Args:
        content: What this rank writes.
        folder: Path or URL.
        inner: Name of the folder of the parts inside of it, a new one for each write; empty for
            none.
        group: Process group of the exchanges; None for the default one.

    Returns:
        The number of bytes of all ranks' parts.

    Raises:
        OSError: If one rank cannot write, on every rank.
    """
    name = f"{inner}/" * bool(inner) + f"shard-{rank() + 1:05d}-model-00001-of-00001.safetensors"

    def write_part() -> dict[str, tuple[int, int]]:
        target = Folder(folder)
        if not target.is_store:
            Path(folder, inner).mkdir(parents=True, exist_ok=True)
        if not content.pieces:
            return {}
        with target.writing(name) as file:
            return {name: write_pieces(file, content.pieces)}

    digests = on_all_ranks(write_part, group)
    parts = {name: digest for files in digests for name, digest in files.items()}

    def write_rest() -> None:
        if rank() == 0:
            Folder(folder).write_plain(META, {**content.rest, _PARTS: parts})

    on_all_ranks(write_rest, group)
    return sum(size for size, _ in parts.values())


def read_sharded(
    folder: Path | str,
    like: Callable[[Place], Tensor | None] = lambda _: None,
    wanted: Callable[[Place], bool] = lambda _: True,
) -> dict[str, Any]:
    """Read a sharded checkpoint, as the same run would have written it to one file.

    Args:
        folder: Path or URL.
        like: Function that returns the sharded tensor, of which this rank reads its piece, for a
            tensor of the checkpoint; None to read the complete tensor.
        wanted: Function that returns whether a tensor is read at all.
    """
    source = Folder(folder)
    checkpoint: dict[str, Any] = source.read_plain(META)
    parts = checkpoint.pop(_PARTS, None)
    if problem := _missing(source, parts):
        raise CheckpointError(f"{folder}: {problem}")
    stored = {name: _pieces_of(source, name) for name in parts}
    targets: dict[str, Tensor] = {}
    for key, pieces in _by_key(stored).items():
        place = tuple(json.loads(key))
        if wanted(place):
            targets[key] = _empty(_shape(source, key, pieces), pieces[0].dtype, like(place))
    for name, pieces_by_key in stored.items():
        _read_part(source, name, pieces_by_key, targets)
    for key, tensor in targets.items():
        *path, last = json.loads(key)
        container = checkpoint
        for step in path:
            container = container[step]
        container[last] = tensor
    return checkpoint


def read_checkpoint(path: Path | str) -> Any:
    """Return the contents of a checkpoint, a file or a folder of parts."""
    return read_sharded(path) if is_sharded(path) else read_file(path)


def why_incomplete(folder: Path | str, share: int = 0, num_shares: int = 1) -> str:
    """Read a folder of parts and return what is wrong with it; empty if it is complete.

    Args:
        folder: Path or URL.
        share: Number of the share of the parts whose checksums are compared.
        num_shares: Number of shares; every rank reads one.
    """
    source = Folder(folder)
    try:
        if not source.exists(META):
            return f"incomplete, {META} missing"
        size = source.sizes()[META]
        (data,) = source.read_ranges(META, [(0, size)])
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if damaged_member := archive.testzip():
                return f"{META} is damaged at {damaged_member}"
        parts = source.read_plain(META).get(_PARTS)
        if problem := _missing(source, parts):
            return problem
        own = sorted(parts)[share::num_shares]
        damaged = [name for name in own if source.digest(name) != tuple(parts[name])]
    except (zipfile.BadZipFile, OSError, EOFError, KeyError, CheckpointError) as error:
        return f"{META} or a part is incomplete or damaged ({str(error).lower()})"
    return f"damaged: {', '.join(damaged)}" if damaged else ""


def unused_files(folder: Path | str) -> list[str]:
    """Return the names of the files in a folder of a store that are of other writes.

    They are those of a write that was interrupted, or of one that another has replaced. Files that
    no write of a sharded checkpoint makes are not among them, and none is if ``meta.pt`` is there
    and cannot be read.

    Raises:
        OSError: If the store cannot be reached.
    """
    source = Folder(folder)
    names = source.sizes()
    try:
        used = source.read_plain(META).get(_PARTS, ()) if META in names else ()
    except CheckpointError:
        return []
    return [name for name in names if _PART_NAME.fullmatch(name) and name not in used]


def _split(value: Any, place: Place, pieces: dict[str, Piece]) -> Any:
    """Copy nested containers without sharded tensors, whose pieces are added to ``pieces``."""
    from torch.distributed.tensor import DTensor  # seconds, which most programs do not need

    if not isinstance(value, dict | list):
        return value
    kept: dict[Any, Any] = {}
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        inside = (*place, key)
        if not isinstance(child, DTensor):
            kept[key] = _split(child, inside, pieces)
        elif (offsets := _own_offsets(child)) is not None:
            pieces[json.dumps(inside)] = Piece(offsets, child.to_local().detach())
    return kept if isinstance(value, dict) else list(kept.values())


def _own_offsets(tensor: Any) -> tuple[int, ...] | None:
    """Return the position of this rank's piece of a tensor; None if another rank has it, too."""
    coordinate = tensor.device_mesh.get_coordinate()
    copies = zip(tensor.placements, coordinate or (), strict=False)
    if coordinate is None or any(kind.is_replicate() and at > 0 for kind, at in copies):
        return None
    if not tensor.to_local().numel():
        return None
    (chunk,) = tensor.__create_chunk_list__()
    return tuple(chunk.offsets)


def _empty(size: torch.Size, dtype: torch.dtype, model: Tensor | None) -> Tensor:
    from torch.distributed.tensor import DTensor

    if isinstance(model, DTensor) and model.shape == size:
        return torch.empty_like(model, dtype=dtype)
    return torch.empty(size, dtype=dtype)


def _pieces_of(source: Folder, name: str) -> dict[str, StoredPiece]:
    where = f"{source}/{name}"
    (start,) = source.read_ranges(name, [(0, 8)])
    length = header_length(start, where)
    (header,) = source.read_ranges(name, [(8, 8 + length)])
    return parse_header(header, where)


def _by_key(stored: Mapping[str, Mapping[str, StoredPiece]]) -> dict[str, list[StoredPiece]]:
    pieces: dict[str, list[StoredPiece]] = {}
    for entries in stored.values():
        for key, piece in entries.items():
            pieces.setdefault(key, []).append(piece)
    return pieces


def _shape(source: Folder, key: str, pieces: Sequence[StoredPiece]) -> torch.Size:
    """Return the shape of a tensor, of which the pieces must be all elements."""
    shape = torch.Size(map(max, zip(*(piece.end for piece in pieces), strict=True)))
    if sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
        raise CheckpointError(f"{source}: expected all of {key}, got {len(pieces)} pieces of it")
    return shape


def _read_part(
    source: Folder, name: str, pieces: Mapping[str, StoredPiece], targets: Mapping[str, Tensor]
) -> None:
    """Read what this rank needs of a part."""
    needed = []
    for key, piece in pieces.items():
        if key not in targets:
            continue
        box, low = _box(targets[key])
        high = tuple(a + b for a, b in zip(low, box.shape, strict=True))
        if rows := piece.rows(low, high):
            needed.append((piece, rows, box, low))
    ranges = [piece.byte_range(rows) for piece, rows, _, _ in needed]
    for (piece, rows, box, low), data in zip(needed, source.read_ranges(name, ranges), strict=True):
        copy_rows(piece, rows, data, box, low)


def _box(target: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return the elements of a tensor that this rank has, and the index of the first one."""
    from torch.distributed.tensor import DTensor

    if not isinstance(target, DTensor):
        return target, (0,) * target.dim()
    local = target.to_local()
    if not local.numel():
        return local, (0,) * target.dim()
    (chunk,) = target.__create_chunk_list__()  # type: ignore[no-untyped-call]
    return local, tuple(chunk.offsets)


def _missing(source: Folder, parts: Any) -> str:
    """Name the parts that are missing or of another length; empty if there are none."""
    if not isinstance(parts, Mapping):
        return f"{META} does not list the parts"
    sizes = source.sizes()
    wrong = [name for name, (size, _) in parts.items() if sizes.get(name) != size]
    return f"incomplete, {', '.join(wrong)} missing or incomplete" if wrong else ""
