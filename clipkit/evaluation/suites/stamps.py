"""Stamps of local files: whether a model or data set changed since it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clipkit.data.storage.cache import SIDECAR_SUFFIX
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
    index files that clipkit writes next to shards are left out.

    Examples:
        >>> data_stamp("https://example.org/set"), len(data_stamp("data/val"))
        ('', 32)
    """
    return _stamp([source])


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
