"""``collection.json``: the model, the data and the shards of an embedded collection."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import write_json, write_json_once
from clipkit.errors import DataError

INFO_FILE: Final = "collection.json"
IMAGE: Final = "image"
TEXT: Final = "text"
RESERVED_NAMES: Final = (IMAGE, TEXT, "images", "texts")
"""Names that no further modality of a collection has: those of other files."""
_FORMAT: Final = "clipkit-collection-1"


@dataclass(frozen=True, slots=True)
class CollectionShard:
    """A shard of the data that were embedded.

    Args:
        name: Name of its files in the collection, without suffix.
        url: Address of the tar.
        num_samples: Number of samples.
        size_bytes: Size of the tar.
        digest: Digest of keys, kinds and sizes of its members; "" if unknown.
    """

    name: str
    url: str
    num_samples: int
    size_bytes: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What an embedded collection was made of.

    Args:
        model: Name or path of the model, as ``load_model`` takes it.
        weights: "average" or "raw"; None if the model has one set of weights.
        model_hash: Hash of weights, architecture, image transform and tokenizer; "" if unknown.
        data: Source of the data, as ``open_dataset`` takes it.
        split: Folder inside the data.
        embedding_dim: Width of an embedding.
        precision: Precision of the towers: "fp32", "bf16" or "fp16".
        has_texts: Whether captions were embedded too.
        columns: Further columns of the tables: fields of the samples, such as "json:author".
        column_types: Arrow type of each of these: "bool", "int64", "double" or "string".
        class_names: Name of each class by its number; empty if the data have no names.
        shards: The shards, in the order of the data.
        options: Further options that change the files, such as the caption picker, as text.
        versions: Versions of Python and packages.
        modalities: Names of further modalities that were embedded, such as "sound".
        has_images: Whether images were embedded: whether the model has a tower for them.
    """

    model: str
    weights: str | None
    model_hash: str
    data: str
    split: str
    embedding_dim: int
    precision: str
    has_texts: bool
    columns: tuple[str, ...]
    class_names: tuple[str, ...]
    shards: tuple[CollectionShard, ...]
    column_types: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    has_images: bool = True

    @property
    def kinds(self) -> tuple[str, ...]:
        """What was embedded: "image", "text", and the further modalities."""
        images = (IMAGE,) if self.has_images else ()
        return (*images, *((TEXT,) if self.has_texts else ()), *self.modalities)

    @property
    def modality_columns(self) -> dict[str, str]:
        """Columns of the tables for the further modalities, with their Arrow types."""
        return modality_columns(self.modalities)

    @property
    def num_samples(self) -> int:
        """Number of samples of all shards."""
        return sum(shard.num_samples for shard in self.shards)


def modality_columns(modalities: Iterable[str]) -> dict[str, str]:
    """Return the columns of further modalities with their Arrow types.

    Examples:
        >>> list(modality_columns(["sound"]))[:2]
        ['sound_type', 'sound_offset_bytes']
    """
    types = {
        "type": "string",  # extension of the file, such as "flac"; null if there is none
        "offset_bytes": "int64",  # position of its contents in the tar
        "size_bytes": "int64",
        "seconds": "double",  # duration, if the header of the file says
        "error": "string",  # why there is no embedding, which is zeros then; null otherwise
    }
    return {f"{name}_{fact}": kind for name in modalities for fact, kind in types.items()}


def write_info(info: CollectionInfo, folder: Path | str) -> None:
    """Write ``collection.json``."""
    write_json(Path(folder) / INFO_FILE, _as_json(info))


def create_info(info: CollectionInfo, folder: Path | str) -> bool:
    """Write ``collection.json`` unless it exists; of several processes, one does.

    Returns:
        Whether this call wrote the file.
    """
    return write_json_once(Path(folder) / INFO_FILE, _as_json(info))


def _as_json(info: CollectionInfo) -> dict[str, Any]:
    return {"format": _FORMAT, **dataclasses.asdict(info)}


def read_info(folder: Path | str) -> CollectionInfo:
    """Read ``collection.json``.

    Raises:
        DataError: If the folder is no collection, or the file is damaged or of another version.
    """
    path = Path(folder) / INFO_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{folder}: expected a collection that `clipkit embed` wrote, got no {INFO_FILE}"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path}: expected format {_FORMAT!r}, got {found!r}; embed the data again")
    try:
        return _from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error!r}); embed the data again") from error


def _from_json(content: dict[str, Any]) -> CollectionInfo:
    content = {"modalities": (), "has_images": True, **content}  # not in files of version 0.1
    values = {name.name: content[name.name] for name in dataclasses.fields(CollectionInfo)}
    info = CollectionInfo(
        **{
            **values,
            "columns": tuple(map(str, values["columns"])),
            "class_names": tuple(map(str, values["class_names"])),
            "shards": tuple(CollectionShard(**shard) for shard in values["shards"]),
            "column_types": dict(values["column_types"]),
            "options": dict(values["options"]),
            "versions": dict(values["versions"]),
            "modalities": tuple(map(str, values["modalities"])),
        }
    )
    _check(info)
    return info


def _check(info: CollectionInfo) -> None:
    """Check the values, and that no name leads outside of the folder."""
    if info.embedding_dim < 1 or not info.shards:
        raise ValueError("no shards, or no width")
    for name in info.modalities:
        if not name.isidentifier() or name in RESERVED_NAMES:
            raise ValueError(f"name of a modality: {name!r}")
    for shard in info.shards:
        if not shard.name or shard.name.startswith(".") or set(shard.name) & set("/\\\0"):
            raise ValueError(f"name of a shard: {shard.name!r}")
        if shard.num_samples < 0:
            raise ValueError(f"number of samples of shard {shard.name!r}: {shard.num_samples}")
