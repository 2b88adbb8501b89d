"""Sources for packing: tables, folders by class, COCO's JSON, and existing shards."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from clipkit.class_names import class_names_text
from clipkit.data.packing.class_numbers import ClassNumbers
from clipkit.data.packing.hub import download_parquet, hub_address
from clipkit.data.packing.images import find_images_or_sounds, kinds_of, visible_shards
from clipkit.data.packing.img2dataset import STATS_SUFFIX, items_of_downloads
from clipkit.data.packing.items import FileItem, Item, ShardItem
from clipkit.data.packing.keys import distinct_keys
from clipkit.data.packing.labels import Spellings
from clipkit.data.packing.roots import refuse_outside
from clipkit.data.packing.sound_sets.recognise import clips_at
from clipkit.data.packing.tables.arrow_rows import ArrowDataset, DatasetRows, check_dataset
from clipkit.data.packing.tables.columns import TableColumns, one_line
from clipkit.data.packing.tables.parts import is_pattern, matches_of, open_parts, parts_of
from clipkit.data.packing.tables.row_files import TABLE_SUFFIXES
from clipkit.data.packing.tables.table import Table, as_json
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.lost_shards import check_complete
from clipkit.data.shards.reader import ShardReader
from clipkit.data.storage.urls import file_address
from clipkit.errors import DataError

_LOG: Final = logging.getLogger(__name__)
CLASS_NAMES_FILE: Final = "classnames.txt"
_CLASS_FILES: Final = (CLASS_NAMES_FILE, "zeroshot_classification_templates.txt")


@dataclass(frozen=True, slots=True)
class Source:
    """All samples to be packed, in order.

    Args:
        items: Samples.
        files: Text files that are written next to the shards, by name.
        has_own_numbers: Whether class numbers are in the source, not derived from the names.
    """

    items: Sequence[Item]
    files: Mapping[str, str] = field(default_factory=dict)
    has_own_numbers: bool = True

    def fingerprint(self) -> str:
        """Return a hash of all samples' identities."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(item.identity.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


def open_source(
    source: str | Path,
    images: Path | None = None,
    class_names: Sequence[str] | None = None,
    allow_outside: bool = False,
    columns: TableColumns = TableColumns(),
) -> Source:
    """Open a source of any kind, which is recognised by its address, suffix or content.

    Args:
        source: Path of a table, folder or COCO file, a glob of Parquet files, or
            ``hf://datasets/OWNER/NAME``.
        images: Folder that names of images are relative to; None for the folder of the source.
        class_names: Names in the order of class numbers; None for the numbers of the source.
        allow_outside: Whether images may be outside of that folder.
        columns: Columns of a table with images and captions.

    Raises:
        DataError: If the source is not recognised or has no samples.
    """
    if (address := hub_address(source)) is not None:
        files, versions = download_parquet(address)
        root, table = images or files[0].parent, open_parts(files, versions)
        opened = source_of_table(Table.of(table, root, class_names, columns))
    else:
        path = Path(source)
        root = images or (path if path.is_dir() else path.parent)
        opened = _open_path(path, root, class_names, columns, allow_outside)
    if not opened.items:
        raise DataError(f"{source}: no samples found")
    if not allow_outside:
        refuse_outside((file for item in opened.items for file in item.files), root, source)
    return opened


def _open_path(
    path: Path,
    root: Path,
    class_names: Sequence[str] | None,
    columns: TableColumns,
    allow_outside: bool,
) -> Source:
    if is_pattern(path):
        return source_of_table(Table.of(open_parts(matches_of(path)), root, class_names, columns))
    if (clips := clips_at(path)) is not None:
        return Source(clips.items(), clips.files())
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if not path.is_dir():
        return _from_file(path, root, class_names, columns)
    if shards := visible_shards(path):
        return _from_shards(path, shards)
    if items := items_of_downloads(path):
        return Source(items)
    tables = tables_in(path)
    if parts := parts_of(tables):
        return _from_parts(parts, root, class_names, columns)
    if tables:
        names = ", ".join(file.name for file in tables)
        raise DataError(f"{path}: contains several tables ({names}); name one of them")
    if classes := class_folders(path):
        return _from_class_folders(path, classes, class_names, None if allow_outside else root)
    raise DataError(
        f"{path}: expected a table ({', '.join(TABLE_SUFFIXES)}, .json), one folder for each "
        f"class, or shards (.tar); found none of them"
    )


def source_of_dataset(
    dataset: ArrowDataset,
    images: Path | None = None,
    class_names: Sequence[str] | None = None,
    allow_outside: bool = False,
    columns: TableColumns = TableColumns(),
) -> Source:
    """Return the rows of a ``datasets.Dataset``; see ``open_source`` for the other arguments."""
    check_dataset(dataset)
    root = images or Path.cwd()
    rows = DatasetRows(dataset)
    opened = source_of_table(Table.of([rows], root, class_names, columns))
    if not allow_outside:
        refuse_outside((file for item in opened.items for file in item.files), root, rows.where)
    return opened


def source_of_table(table: Table) -> Source:
    """Return the images of a table as a source."""
    return Source(table, _class_file(table.class_names), table.has_own_numbers)


def tables_in(folder: Path) -> list[Path]:
    """List the tables and COCO-style files of a folder, by name."""
    suffixes = (*TABLE_SUFFIXES, ".json")
    return [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in suffixes
        and file.name not in {"sizes.json", "pack.json"}
        and not file.name.endswith(STATS_SUFFIX)
        and not file.name.startswith(".")
    ]


def class_folders(folder: Path) -> list[Path]:
    """List the folders in a folder, by name, without hidden ones."""
    return [
        path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")
    ]


def _from_file(
    path: Path, root: Path, class_names: Sequence[str] | None, columns: TableColumns
) -> Source:
    if path.suffix.lower() in (".json", *TABLE_SUFFIXES):
        return _from_parts([path], root, class_names, columns)
    raise DataError(f"{path}: expected one of {', '.join((*TABLE_SUFFIXES, '.json'))}")


def _from_parts(
    parts: Sequence[Path], root: Path, class_names: Sequence[str] | None, columns: TableColumns
) -> Source:
    if parts[0].suffix.lower() == ".json":
        return _from_coco(parts[0], root)
    return source_of_table(Table.of(open_parts(parts), root, class_names, columns))


def _from_class_folders(
    path: Path, classes: Sequence[Path], class_names: Sequence[str] | None, root: Path | None
) -> Source:
    spellings = Spellings(str(path))
    names = [spellings.name(folder.name) for folder in classes]
    numbers = ClassNumbers(class_names or names, str(path))
    items: list[Item] = []
    skipped: Counter[str] = Counter()
    what, searched = find_images_or_sounds(classes, root)
    for folder, name, found in zip(classes, names, searched, strict=True):
        texts = {"cls": str(numbers.number(name)).encode(), "txt": name.encode()}
        items.extend(FileItem(file, texts, found.sounds.get(file)) for file in found.files)
        skipped += found.skipped
        if not found.files:
            _say_once(f"{folder}: no {what} of the class {name!r}")
    _say_skipped(path, len(items), what, skipped)
    return Source(items, _class_file(numbers.names), has_own_numbers=False)


def _say_skipped(path: Path, num_files: int, what: str, inside: Counter[str]) -> None:
    """Log the kinds and numbers of other files in a folder of classes."""
    outside = sum(
        file.is_file() and not file.name.startswith(".") and file.name not in _CLASS_FILES
        for file in path.iterdir()
    )
    skipped = +(inside + Counter({"outside the folders of classes": outside}))
    if skipped:
        _say_once(
            f"{path}: {num_files} {what}; skipped {skipped.total()} files that are no {what} of a "
            f"class: {kinds_of(skipped)}"
        )


@cache
def _say_once(message: str) -> None:
    """Log a warning only once, even if a command opens its data several times."""
    _LOG.warning("%s", message)


def _class_file(names: Sequence[str]) -> dict[str, str]:
    return {CLASS_NAMES_FILE: class_names_text(names)} if any(names) else {}


def _from_coco(path: Path, root: Path) -> Source:
    try:
        return Source(_coco_items(json.loads(path.read_text(encoding="utf-8")), path, root))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: expected COCO's captions: 'images' with id and file_name, 'annotations' with "
            f"image_id and caption; got {error!r}"
        ) from error


def _coco_items(content: Any, path: Path, root: Path) -> list[Item]:
    captions: dict[Any, list[str]] = defaultdict(list)
    for annotation in content["annotations"]:
        captions[annotation["image_id"]].append(one_line(annotation["caption"]))
    listed = [image["id"] for image in content["images"]]
    if len(set(listed)) < len(listed):
        twice = next(number for number, count in Counter(listed).items() if count > 1)
        raise DataError(f"{path}: expected one entry per image, got several with id {twice!r}")
    if absent := sorted(map(repr, captions.keys() - set(listed))):
        left_out = sum(len(captions[number]) for number in captions.keys() - set(listed))
        _say_once(
            f"{path}: skipping {left_out} captions of {len(absent)} images that 'images' does not "
            f"list, such as image_id {absent[0]}"
        )
    return [
        FileItem(
            root / image["file_name"],
            {
                "txt": "\n".join(captions[image["id"]]).encode(),
                "json": as_json({"id": image["id"], "captions": captions[image["id"]]}),
            },
        )
        for image in content["images"]
    ]


def _from_shards(path: Path, shards: Sequence[Path]) -> Source:
    folders = sorted({shard.parent for shard in shards})
    if len(folders) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in folders)
        raise DataError(f"{path}: contains shards in several folders ({names}); name one of them")
    check_complete(folders[0], [file_address(shard) for shard in shards])
    return source_of_shards(shards)


def source_of_shards(shards: Sequence[Path]) -> Source:
    """Return every sample of some shards, in order and with its key."""
    folder = shards[0].parent
    index = ShardIndex.from_urls(shards, write_sidecars=False)
    reader = ShardReader(index)
    # CLIP_benchmark has them next to the folders of the splits.
    texts = [parent / name for parent in (folder.parent, folder) for name in _CLASS_FILES]
    fingerprint = f"{index.fingerprint} {index.digest}"
    found = [key for number in range(len(shards)) for key in reader.table(number).iter_keys()]
    keys = enumerate(distinct_keys(found, str(folder)))
    return Source(
        [ShardItem(reader, fingerprint, number, key) for number, key in keys],
        {file.name: _text_of(file) for file in texts if file.is_file()},
    )


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: expected a text in UTF-8: {error}") from error
