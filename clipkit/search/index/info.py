"""``index/index.json``: how an index was built, of which collection, and how good it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from clipkit.atomic_files import FORMER_SUFFIX, write_json
from clipkit.collection import Collection
from clipkit.collection.info import INFO_FILE
from clipkit.collection.shard_files import TABLE_SUFFIX, suffix_of
from clipkit.collection.unreadable import unreadable
from clipkit.errors import DataError

INDEX_FOLDER: Final = "index"
INDEX_FILE: Final = "faiss.index"
LISTS_FILE: Final = "faiss.ivfdata"
INFO_NAME: Final = "index.json"
REMEDY: Final = "build it again: clipkit search build, or delete the folder"
"""What to do about an index that cannot be used."""
_FORMAT: Final = "clipkit-index-1"
_SAMPLED_ROWS: Final = 4096
_DIGITS: Final = 32


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """How an index was built.

    Args:
        factory: Factory string of FAISS.
        num_probes: Number of inverted lists that a query searches; 0 for an index without lists.
        num_rows: Number of rows of the collection.
        embedding_dim: Width of an embedding.
        fingerprint: Fingerprint of the collection; see ``collection_fingerprint``.
        recall_at_10: Share of the ten most similar rows that the index finds, by kind of query:
            "images" (or "sounds") are rows of the collection, "captions" their captions.
        num_queries: Number of queries of each kind.
        seconds: Time of training, adding and measuring.
        seed: Seed of the samples and of the training.
        versions: Versions of Python and packages.
    """

    factory: str
    num_probes: int
    num_rows: int
    embedding_dim: int
    fingerprint: str
    recall_at_10: dict[str, float]
    num_queries: int
    seconds: dict[str, float]
    seed: int
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def least_recall(self) -> float:
        """Lowest recall of all kinds of queries."""
        return min(self.recall_at_10.values())


def collection_fingerprint(collection: Collection, modality: str = "image") -> str:
    """Return a hash of what an index depends on.

    It covers ``collection.json``, the sizes of the files with embeddings and tables, and the
    embeddings of 4,096 rows that are spread evenly: reading all of them would take minutes.
    """
    digest = hashlib.sha256((collection.folder / INFO_FILE).read_bytes())
    for files in collection.shards:
        base = collection.folder / files.shard.name
        for suffix in (suffix_of(modality), TABLE_SUFFIX):
            digest.update(f"{Path(f'{base}{suffix}').stat().st_size}\0".encode())
    rows = np.unique(np.linspace(0, len(collection) - 1, _SAMPLED_ROWS).astype(np.int64))
    digest.update(collection.embeddings(rows[rows >= 0], modality).tobytes())
    return digest.hexdigest()[:_DIGITS]


def write_index_info(info: IndexInfo, folder: Path) -> None:
    """Write ``index.json`` into the folder of an index."""
    write_json(folder / INFO_NAME, {"format": _FORMAT, **dataclasses.asdict(info)})


def index_name(modality: str) -> str:
    """Return the name of the folder of an index: "index", or such as "index-sound"."""
    return INDEX_FOLDER if modality == "image" else f"{INDEX_FOLDER}-{modality}"


def index_folder(collection: Collection, modality: str = "image") -> Path:
    """Return the folder of the index of a collection, whether it is there or not.

    A build that is killed while the new index takes the place of the previous one leaves the latter
    under another name until the next build.
    """
    folder = collection.folder / index_name(modality)
    if folder.exists():
        return folder
    previous = collection.folder.glob(f".{folder.name}.????????{FORMER_SUFFIX}")
    return next(iter(sorted(previous)), folder)


def read_index_info(collection: Collection, modality: str = "image") -> IndexInfo | None:
    """Read ``index.json`` of a collection; None if it has no index.

    Raises:
        DataError: If the file is damaged, or of another version.
    """
    path = index_folder(collection, modality) / INFO_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise unreadable(path, error, REMEDY) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f"{path}: expected format {_FORMAT!r}; {REMEDY}")
    try:
        return _from_json(content)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error!r}); {REMEDY}") from error


def _from_json(content: dict[str, Any]) -> IndexInfo:
    values = {each.name: content[each.name] for each in dataclasses.fields(IndexInfo)}
    info = IndexInfo(**values)
    numbers = (info.num_probes, info.num_rows, info.embedding_dim, info.num_queries)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a number is negative or no integer")
    recalls = [float(recall) for recall in info.recall_at_10.values()]
    if not recalls or not all(0 <= recall <= 1 for recall in recalls):
        raise ValueError("recall")
    return info
