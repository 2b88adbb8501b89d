"""What can be packed: tables, folders by class, COCO's JSON, and shards that exist already."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from clipkit.data.index import ShardIndex
from clipkit.data.reader import ShardReader
from clipkit.errors import DataError, SampleError

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
)
IMAGE_COLUMNS: Final = ("image", "image_path", "filepath", "file_path", "file", "path", "filename")
CAPTION_COLUMNS: Final = ("caption", "captions", "title", "text", "txt")
LABEL_COLUMNS: Final = ("label", "cls", "class_id")
_TABLES: Final = (".csv", ".tsv", ".parquet")
_CLASS_FILES: Final = ("classnames.txt", "zeroshot_classification_templates.txt")
_CSV_LIMIT: Final = min(sys.maxsize, 2**31 - 1)


class Item(ABC):
    """One sample that is to be packed."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Changes when the sample's bytes do; cheap to find out."""

    @abstractmethod
    def members(self) -> dict[str, bytes]:
        """The sample's files by extension.

        Raises:
            SampleError: A file is missing.
        """


@final
@dataclass(frozen=True, slots=True)
class FileItem(Item):
    """A picture on disk and the texts that belong to it."""

    image: Path
    texts: Mapping[str, bytes]

    @property
    def identity(self) -> str:
        """See `Item.identity`."""
        try:
            status = self.image.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "missing"
        return f"{self.image} {state} {sorted(self.texts.items())}"

    def members(self) -> dict[str, bytes]:
        """See `Item.members`."""
        try:
            data = self.image.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise SampleError("no such picture", key=str(self.image)) from error
        extension = self.image.suffix.lower().lstrip(".") or "jpg"
        return {extension: data, **self.texts}


@final
@dataclass(frozen=True, slots=True)
class ShardItem(Item):
    """A sample of a shard that exists already."""

    reader: ShardReader
    fingerprint: str
    sample_id: int

    @property
    def identity(self) -> str:
        """See `Item.identity`."""
        return f"{self.fingerprint} {self.sample_id}"

    def members(self) -> dict[str, bytes]:
        """See `Item.members`."""
        return dict(self.reader.read(self.sample_id).members)


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that is to be packed, in order.

    Args:
        items: The samples.
        files: Texts that are written beside the shards, by name.
    """

    items: Sequence[Item]
    files: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """A hash of all samples' identities."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(item.identity.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


def open_source(path: Path, images: Path | None = None) -> Source:
    """Recognise a source by what it looks like.

    Args:
        path: A CSV, TSV or Parquet table; a COCO-style JSON file; a folder that holds one of these;
            a folder of one folder of pictures for each class; or a folder of shards, also in
            CLIP_benchmark's layout.
        images: Folder that pictures are named relative to; that of the table when left out.

    Raises:
        DataError: It is none of these, or has no samples.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    source = _from_folder(path, images) if path.is_dir() else _from_file(path, images)
    if not source.items:
        raise DataError(f"{path}: no samples found")
    return source


def _from_folder(path: Path, images: Path | None) -> Source:
    tables = [file for file in sorted(path.iterdir()) if file.suffix.lower() in (*_TABLES, ".json")]
    tables = [file for file in tables if file.name not in {"sizes.json", "pack.json"}]
    if shards := sorted(path.rglob("*.tar")):
        return _from_shards(path, shards)
    if len(tables) == 1:
        return _from_file(tables[0], images)
    if len(tables) > 1:
        names = ", ".join(file.name for file in tables)
        raise DataError(f"{path}: holds several tables ({names}); name one of them")
    classes = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
    if classes:
        return _from_class_folders(classes)
    raise DataError(
        f"{path}: expected a table ({', '.join(_TABLES)}, .json), one folder for each class, or "
        f"shards (.tar); found none of them"
    )


def _from_file(path: Path, images: Path | None) -> Source:
    root = images or path.parent
    if path.suffix.lower() == ".json":
        return _from_coco(path, root)
    if path.suffix.lower() == ".parquet":
        return _from_rows(path, _parquet_rows(path), root)
    if path.suffix.lower() in _TABLES:
        return _from_rows(path, _csv_rows(path), root)
    raise DataError(f"{path}: expected one of {', '.join((*_TABLES, '.json'))}")


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_CSV_LIMIT)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for row in csv.DictReader(file, delimiter=delimiter, strict=True):
                if None in row or None in row.values():
                    raise DataError(f"{path}: a row has another number of columns than the header")
                yield row
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: not a UTF-8 table: {error}") from error


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pip install 'clipkit[tables]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file: {error}") from error


def _from_rows(path: Path, rows: Iterator[dict[str, Any]], root: Path) -> Source:
    """One sample for each picture, in order of appearance; its rows each add captions."""
    first: dict[str, dict[str, Any]] = {}
    captions: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        image = str(row.get(_column(path, row, IMAGE_COLUMNS, "pictures")))
        found = row.get(_column(path, row, CAPTION_COLUMNS, "captions"))
        first.setdefault(image, row)
        captions[image].extend(
            _one_line(str(text)) for text in (found if isinstance(found, list) else [found]) if text
        )
    return Source(
        [FileItem(root / image, _row_texts(row, captions[image])) for image, row in first.items()]
    )


def _row_texts(row: Mapping[str, Any], captions: list[str]) -> dict[str, bytes]:
    """Captions one a line, as CLIP_benchmark has them; all columns as JSON."""
    texts = {
        "txt": "\n".join(captions).encode(),
        "json": _json({**row, "captions": captions}),
    }
    label = next((row[name] for name in LABEL_COLUMNS if row.get(name) not in (None, "")), None)
    if label is not None:
        texts["cls"] = str(label).encode()
    return texts


def _column(path: Path, row: Mapping[str, Any], names: Sequence[str], what: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise DataError(
            f"{path}: no column with {what}: expected one of {', '.join(names)}, got columns "
            f"{', '.join(map(str, row))}"
        )
    return found


def _from_class_folders(classes: Sequence[Path]) -> Source:
    items: list[Item] = []
    names = [folder.name.replace("_", " ") for folder in classes]
    for label, (folder, name) in enumerate(zip(classes, names, strict=True)):
        texts = {"cls": str(label).encode(), "txt": name.encode()}
        pictures = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        items.extend(FileItem(file, texts) for file in sorted(pictures))
    return Source(items, {"classnames.txt": "".join(f"{name}\n" for name in names)})


def _from_coco(path: Path, root: Path) -> Source:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        captions: dict[Any, list[str]] = defaultdict(list)
        for annotation in content["annotations"]:
            captions[annotation["image_id"]].append(_one_line(annotation["caption"]))
        pictures = [(root / image["file_name"], image["id"]) for image in content["images"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected COCO's captions: 'images' with id and file_name, 'annotations' with "
            f"image_id and caption; got {error!r}"
        ) from error
    return Source(
        [
            FileItem(
                picture,
                {
                    "txt": "\n".join(captions[number]).encode(),
                    "json": _json({"id": number, "captions": captions[number]}),
                },
            )
            for picture, number in pictures
        ]
    )


def _from_shards(path: Path, shards: Sequence[Path]) -> Source:
    folders = sorted({shard.parent for shard in shards})
    if len(folders) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in folders)
        raise DataError(f"{path}: holds shards in several folders ({names}); name one of them")
    index = ShardIndex.from_urls([str(shard) for shard in shards], write_sidecars=False)
    reader = ShardReader(index)
    # CLIP_benchmark keeps them beside the folders of the splits.
    texts = [parent / name for parent in (folders[0].parent, folders[0]) for name in _CLASS_FILES]
    return Source(
        [ShardItem(reader, index.fingerprint, number) for number in range(index.num_samples)],
        {file.name: file.read_text(encoding="utf-8") for file in texts if file.is_file()},
    )


def _one_line(text: str) -> str:
    """A caption without line breaks, which separate captions."""
    return " ".join(text.split())


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str).encode()
