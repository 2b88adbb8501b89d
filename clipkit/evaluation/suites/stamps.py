"""Stamps of local files: whether a model or data set changed since it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clipkit.data.packing.sound_sets.recognise import set_of_split
from clipkit.data.storage.cache import SIDECAR_SUFFIX
from clipkit.data.storage.urls import UNION, exists, expand_urls, is_local, local_path
from clipkit.errors import ClipkitError
from clipkit.evaluation.hashes import text_hash


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
    set of sounds (``ESC-50/fold1``) has the stamp of the set, a pattern or union that of its files.

    Examples:
        >>> data_stamp("https://example.org/set"), len(data_stamp("data/val"))
        ('', 32)
    """
    found = set_of_split(local_path(source)) if is_local(source) else None
    return _stamp([str(found)] if found is not None else _local_files(source))


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


def _stamp(addresses: Iterator[str] | list[str]) -> str:
    facts = [fact for address in addresses for fact in _facts(Path(address))]
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
