"""Stamps of local files: whether a model or data set changed since it was measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from clipkit.addresses import is_local, local_path
from clipkit.data.packing.items import state_of
from clipkit.data.packing.sound_sets.recognise import set_of_split
from clipkit.data.packing.tables.parts import is_pattern, matches_of, open_parts
from clipkit.data.packing.tables.row_files import TABLE_SUFFIXES
from clipkit.data.storage.cache import SIDECAR_SUFFIX
from clipkit.data.storage.urls import UNION, exists, expand_urls
from clipkit.errors import ClipkitError
from clipkit.evaluation.datasets.choice_sources import SUGAR_CREPE_IMAGES
from clipkit.evaluation.hashes import text_hash

_LONGEST_NAME: Final = 1024
"""Characters; longer texts of a table name no file."""


def model_stamp(name: str) -> str:
    """Return a stamp of the local files that a model's name mentions; "" if there are none.

    Examples:
        >>> model_stamp("ViT-B-32@openai")
        ''
    """
    return _stamp(part for part in [name, *name.split("@")] if part)


def data_stamp(source: str) -> str:
    """Return a stamp of local evaluation data: names, sizes and times of change of its files.

    It is "" for data that are not on this machine. Folders whose names begin with a dot and the
    index files that clipkit writes next to shards are left out. An address that names a split of a
    set of sounds (``ESC-50/fold1``) has the stamp of the set, a pattern or union that of its files,
    and a table or JSON file that of the files that it names, too.

    Examples:
        >>> data_stamp("https://example.org/set"), len(data_stamp("data/val"))
        ('', 32)
    """
    if not is_local(source):
        return _stamp(_local_files(source))
    path = local_path(source)
    if (found := set_of_split(path)) is not None:
        return _stamp([str(found)])
    return _stamp(_local_files(source), _named_files(path))


def file_stamp(names: Iterable[str]) -> str:
    """Return a stamp of those names that are local files; "" if none is."""
    return _stamp(name for name in names if _is_file(Path(name)))


def _local_files(source: str) -> list[str]:
    """Return the file or folder of this name, or the local files of a pattern or union."""
    path = local_path(source) if is_local(source) else None
    if path is not None and exists(path):
        return [str(path)]
    parts = [part for part in source.split(UNION) if part]
    if not all(map(is_local, parts)):
        return []
    try:
        return [str(address.path) for address in expand_urls(source)]
    except ClipkitError:
        return []  # what measures them says why


def _named_files(path: Path) -> Iterator[str]:
    """Yield name, size and time of change of each file that a table or JSON file names."""
    folders, known = [str(path.parent)], set()
    if _is_json(path):
        folders.append(str(path.parent / SUGAR_CREPE_IMAGES))
    try:
        for row in _rows(path):
            for text in _texts_in(row):
                if len(text) > _LONGEST_NAME or text in known:
                    continue
                # Not by pathlib, which takes several times as long: captions are looked up, too.
                places = [os.path.join(folder, text) for folder in folders]  # noqa: PTH118
                found = [Path(place) for place in places if os.path.isfile(place)]  # noqa: PTH113
                if found:
                    known.add(text)  # not captions, which would fill the memory
                    yield "\0".join([text, *map(state_of, found)])
    except (ClipkitError, OSError, ValueError, RecursionError):
        return  # what measures them says why


def _rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a table, or the content of a JSON file."""
    if _is_json(path):
        yield json.loads(path.read_text(encoding="utf-8"))
        return
    if is_pattern(path):
        files = matches_of(path)
    else:
        files = [path] if path.suffix.lower() in TABLE_SUFFIXES and _is_file(path) else []
    for part in open_parts(files):
        yield from part.rows(part.columns)


def _texts_in(value: Any) -> Iterator[str]:
    """Yield the texts in a row or in JSON, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts_in(part)


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json" and _is_file(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _stamp(addresses: Iterable[str], further: Iterable[str] = ()) -> str:
    facts = [fact for address in addresses for fact in _facts(Path(address))]
    facts += further
    return text_hash(*sorted(facts)) if facts else ""


def _facts(path: Path) -> Iterator[str]:
    try:
        files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    except (OSError, ValueError):
        return
    for file in files:
        inside = file.relative_to(path).as_posix()
        if (inside.startswith(".") and inside != ".") or "/." in inside:
            continue
        if not file.name.endswith(SIDECAR_SUFFIX) and file.is_file():
            status = file.stat()
            yield f"{inside}\0{status.st_size}\0{status.st_mtime_ns}"
