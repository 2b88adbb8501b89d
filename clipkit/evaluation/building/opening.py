"""Open the pairs that an evaluation set is built from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clipkit.addresses import is_local, local_path
from clipkit.class_names import class_names_text
from clipkit.data.packing.hub import hub_address, pinned
from clipkit.data.packing.items import ShardItem
from clipkit.data.packing.keys import distinct_keys
from clipkit.data.packing.sources import CLASS_NAMES_FILE, Source, open_source
from clipkit.data.packing.tables.columns import TableColumns
from clipkit.data.packing.tables.parts import is_pattern
from clipkit.data.packing.tables.row_files import TABLE_SUFFIXES
from clipkit.data.shards.reader import ShardReader
from clipkit.errors import check_at_least
from clipkit.evaluation.datasets.opening import open_dataset

TEMPLATES_FILE: Final = "zeroshot_classification_templates.txt"


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How the source is read.

    Args:
        split: Folder inside the source, such as "train"; None for the source itself.
        columns: Columns of a table with images and captions, if their names are not recognised.
        allow_outside: Whether images of a table or folder may be outside of its folder.
        max_bad_samples: Largest number of broken samples that are left out.
        num_workers: Number of threads that read images and write shards.
    """

    split: str | None = None
    columns: TableColumns = TableColumns()
    allow_outside: bool = False
    max_bad_samples: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        check_at_least("max_bad_samples", self.max_bad_samples, 0)
        check_at_least("num_workers", self.num_workers, 1)


def is_table(path: Path) -> bool:
    """Return whether a path is a table or a COCO-style file."""
    return path.is_file() and path.suffix.lower() in (*TABLE_SUFFIXES, ".json")


def open_pairs(source: str | Path, options: SourceOptions) -> tuple[Source, str]:
    """Open a source, and return its name for the data card: without folders of this machine.

    Raises:
        DataError: If there are no such data.
    """
    address = str(source).rstrip("/")
    if hub_address(address) is not None:
        exact = pinned(address)
        return open_source(exact, columns=options.columns), exact
    path = local_path(address)
    if is_local(address) and (path.is_dir() or is_table(path) or is_pattern(path)):
        name = path.resolve().name
        path = path / options.split if options.split else path
        opened = open_source(path, None, None, options.allow_outside, options.columns)
        return opened, f"{name}/{options.split}" if options.split else name
    data = open_dataset(address, options.split or "test")
    reader = ShardReader(data.index)
    keys = [key for n in range(len(data.index.shards)) for key in reader.table(n).iter_keys()]
    fingerprint = f"{data.index.fingerprint} {data.index.digest}"
    items = [
        ShardItem(reader, fingerprint, number, key)
        for number, key in enumerate(distinct_keys(keys, address))
    ]
    files = {CLASS_NAMES_FILE: class_names_text(data.class_names)} if data.class_names else {}
    if data.templates:
        files[TEMPLATES_FILE] = class_names_text(data.templates)
    name = address.rpartition("/")[2] if is_local(address) else address
    return Source(items, files), name
