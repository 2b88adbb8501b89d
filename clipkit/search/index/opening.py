"""Open the index of a collection, if it has one and it belongs to the collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipkit.collection import Collection
from clipkit.collection.unreadable import unreadable
from clipkit.errors import DataError
from clipkit.search.engine import RowMask, SearchEngine
from clipkit.search.exact_engine import ExactEngine
from clipkit.search.index.engine import FaissEngine
from clipkit.search.index.faiss_module import faiss_library, first_reason, lists_of
from clipkit.search.index.info import (
    INDEX_FILE,
    LISTS_FILE,
    REMEDY,
    IndexInfo,
    collection_fingerprint,
    index_folder,
    index_name,
    read_index_info,
)


def open_engine(
    collection: Collection, usable: RowMask | None = None, modality: str = "image"
) -> SearchEngine:
    """Return the engine of a collection: its index if one was built, else exact search.

    Args:
        collection: The collection.
        usable: Rows with an embedding; None to read them from the tables.
        modality: What is searched for: "image", or the name of a further modality.

    Raises:
        DataError: If the index is damaged, or of another state of the collection.
        ConfigError: If there is an index and FAISS is not installed.

    Examples:
        >>> open_engine(Collection("collection")).description
        'exact'
    """
    info = read_index_info(collection, modality)
    if info is None:
        return ExactEngine(collection, usable=usable, modality=modality)
    check_belongs(info, collection, modality)
    index = read_index(index_folder(collection, modality))
    return FaissEngine(collection, index, info.num_probes, info.factory, usable, modality)


def check_belongs(info: IndexInfo, collection: Collection, modality: str = "image") -> None:
    """Check that an index is of the collection as it is now.

    Raises:
        DataError: If it is not.
    """
    fingerprint = collection_fingerprint(collection, modality)
    expected = (len(collection), collection.info.embedding_dim, fingerprint)
    if (info.num_rows, info.embedding_dim, info.fingerprint) != expected:
        raise DataError(
            f"{collection.folder / index_name(modality)}: the collection has changed "
            f"since this index was built ({info.num_rows} rows then, {len(collection)} now); "
            f"{REMEDY}"
        )


def read_index(folder: Path) -> Any:
    """Map an index into memory; its inverted lists are read when they are searched.

    The file is parsed by FAISS, which does not check all of it: open indexes of people only whose
    programs you would run.

    Raises:
        DataError: If it is missing or damaged.
    """
    faiss, path = faiss_library(), folder / INDEX_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; {REMEDY}")
    try:
        path.open("rb").close()
    except OSError as error:  # FAISS would not say whether it is the file's fault
        raise unreadable(path, error, REMEDY) from error
    if (folder / LISTS_FILE).is_file():
        flags = faiss.IO_FLAG_READ_ONLY | faiss.IO_FLAG_ONDISK_SAME_DIR
    else:
        flags = faiss.IO_FLAG_MMAP
    try:
        index = faiss.read_index(str(path), flags)
    except (RuntimeError, MemoryError) as error:
        raise DataError(f"{path}: cannot be read: {first_reason(error)}; {REMEDY}") from error
    lists = lists_of(index)
    if lists is not None:
        lists.parallel_mode = 0  # one query per thread, whatever the file says
    return index
