"""Add the rows of a collection to a trained index, and write it, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from clipkit.collection import Collection
from clipkit.errors import naming
from clipkit.search.index.faiss_module import faiss_library, lists_of
from clipkit.search.index.info import INDEX_FILE, LISTS_FILE

_TILE_ROWS: Final = 65_536
BLOCK_BYTES: Final = 2 * 2**30
"""Inverted lists of more bytes are written in blocks, which are merged on the disk."""
_ID_BYTES: Final = 8
_GRAPH_BYTES: Final = 512
_LEAST_BYTES: Final = 64 * 2**20


def add_rows(
    index: Any,
    collection: Collection,
    folder: Path,
    on_progress: Callable[[int, int | None], None],
    modality: str,
    block_bytes: int = BLOCK_BYTES,
) -> None:
    """Add all rows in their order, and write the index into a folder.

    Args:
        index: A trained index without rows.
        collection: The collection.
        folder: The folder.
        on_progress: Called with the number of rows that were added, and of all rows.
        modality: "image", or the name of a further modality.
        block_bytes: Size of the inverted lists that are held in memory.
    """
    total, lists = len(collection), lists_of(index)
    block_rows = total if lists is None else max(1, block_bytes // _row_bytes(index))
    parts: list[Path] = []
    current, first = _empty_copy(index, total > block_rows), 0
    for start, images in collection.tiles(modality, min(_TILE_ROWS, block_rows)):
        if start + len(images) - first > block_rows:
            parts.append(_write(current, folder / f"block-{len(parts)}"))
            current, first = _empty_copy(index, True), start
        _add(current, np.array(images), start)
        on_progress(start + len(images), total)
    if not parts:
        _write(current, folder / INDEX_FILE)
        return
    parts.append(_write(current, folder / f"block-{len(parts)}"))
    del current
    _merge(index, parts, folder)
    _write(index, folder / INDEX_FILE)


def _merge(index: Any, parts: list[Path], folder: Path) -> None:
    """Write the inverted lists of all parts to one file, which the index then names.

    FAISS's own function fills a file that is mapped into memory, and a process that does so is
    killed if others fill the disk.
    """
    faiss, path = faiss_library(), folder / LISTS_FILE
    target = faiss.extract_index_ivf(index)
    blocks = [faiss.read_index(str(part), faiss.IO_FLAG_MMAP) for part in parts]
    sources = [faiss.extract_index_ivf(block).invlists for block in blocks]
    merged = faiss.OnDiskInvertedLists(target.nlist, target.code_size, str(path))
    entries = faiss.OnDiskOneListVector()
    with naming(path), path.open("wb") as file:
        for number in range(target.nlist):
            entry = faiss.OnDiskOneList()
            entry.offset = file.tell()
            entry.size = entry.capacity = _write_list(sources, number, target.code_size, file)
            entries.push_back(entry)
        merged.totsize = file.tell()
    merged.lists.swap(entries)
    index.ntotal = target.ntotal = sum(block.ntotal for block in blocks)
    target.replace_invlists(merged, True)
    merged.this.disown()  # the index frees it
    del sources, blocks
    for part in parts:
        part.unlink()


def _write_list(sources: Sequence[Any], number: int, code_size: int, file: BinaryIO) -> int:
    """Write the codes, then the ids, of one inverted list of several parts; return its length."""
    faiss = faiss_library()
    sizes = [int(source.list_size(number)) for source in sources]
    filled = [(source, size) for source, size in zip(sources, sizes, strict=True) if size]
    for source, size in filled:
        file.write(faiss.rev_swig_ptr(source.get_codes(number), size * code_size).data)
    for source, size in filled:
        file.write(faiss.rev_swig_ptr(source.get_ids(number), size).data)
    return sum(sizes)


def needed_bytes(index: Any, num_rows: int) -> int:
    """Return the largest size of the files of an index while it is built."""
    size = num_rows * _row_bytes(index)
    blocks = 2 if lists_of(index) is not None and size > BLOCK_BYTES else 1
    return blocks * size + _LEAST_BYTES


def _row_bytes(index: Any) -> int:
    lists = lists_of(index)
    if lists is not None:
        return int(lists.code_size) + _ID_BYTES
    return 4 * int(index.d) + _GRAPH_BYTES


def _empty_copy(index: Any, copies: bool) -> Any:
    return faiss_library().clone_index(index) if copies else index


def _add(index: Any, images: np.ndarray, start: int) -> None:
    wide = images.astype(np.float32)
    wide[~np.isfinite(wide).all(axis=1)] = 0
    if lists_of(index) is None:
        index.add(wide)
    else:
        index.add_with_ids(wide, np.arange(start, start + len(wide), dtype=np.int64))


def _write(index: Any, path: Path) -> Path:
    with naming(path):
        faiss_library().write_index(index, str(path))
    return path
