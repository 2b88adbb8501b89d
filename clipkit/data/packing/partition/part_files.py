"""Files that record which parts of a table are packed, and what they become together.

Each part has a hidden file of its own, so that parts that run at the same time write no common
file. The part that completes the last one writes ``sizes.json`` of all; two of them that end in
the same moment write the same content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import write_json, write_json_once
from clipkit.data.packing.pack import RECIPE_FILE, SIZES_FILE
from clipkit.errors import DataError
from clipkit.part import Part

NUM_PARTS: Final = "num_parts"
"""Entry of the recipe of folders that are packed in parts."""
_SHOWN: Final = 10


def claim_part(folder: Path, part: Part, fingerprint: str) -> None:
    """Record the samples of a part before it is packed, or check that they are the same.

    Raises:
        DataError: If the part was begun with other images or captions.
    """
    path = _file(folder, part)
    if not write_json_once(path, {"fingerprint": fingerprint, "sizes": None}):
        known = _read(path)
        if known is None or known.get("fingerprint") != fingerprint:
            raise DataError(
                f"{folder}: part {part} was begun with other images or captions ({path.name} "
                f"differs); choose another folder, or empty this one"
            )


def complete_part(folder: Path, part: Part, fingerprint: str, sizes: Mapping[str, int]) -> None:
    """Record that the shards of a part are complete.

    Args:
        folder: Folder of the shards.
        part: The part.
        fingerprint: That of ``claim_part``.
        sizes: Number of samples of each shard, by name.
    """
    write_json(_file(folder, part), {"fingerprint": fingerprint, "sizes": dict(sizes)})


def merge_parts(folder: Path) -> tuple[int, ...]:
    """Write ``sizes.json`` if all parts are complete.

    Returns:
        Numbers of the parts that are not complete; empty if nothing is missing, also for a folder
        that was not packed in parts.

    Raises:
        DataError: If the file of a part is damaged.
    """
    sizes: dict[str, int] = {}
    missing = []
    count = _number_of_parts(folder)
    for number in range(1, count + 1):
        known = _read(_file(folder, Part(number, count)))
        of_part = None if known is None else known.get("sizes")
        if isinstance(of_part, dict):
            sizes |= of_part
        else:
            missing.append(number)
    if count and not missing:
        write_json(folder / SIZES_FILE, sizes)
    return tuple(missing)


def check_parts(folder: Path) -> None:
    """Merge the parts of a folder.

    Raises:
        DataError: If a part is missing.
    """
    if missing := merge_parts(folder):
        named = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
        raise DataError(
            f"{folder}: parts that are not packed yet: {named}; run `clipkit shards pack --part "
            f"I/N` for them first"
        )


def _number_of_parts(folder: Path) -> int:
    """Return the number of parts of a folder; 0 if it was not packed in parts."""
    path = folder / RECIPE_FILE
    count = (_read(path) or {}).get(NUM_PARTS, 0)
    if type(count) is not int or count < 0:
        raise DataError(f"{path}: {NUM_PARTS}: expected a number of parts, got {count!r}")
    return count


def _file(folder: Path, part: Part) -> Path:
    return folder / f".part-{part.number:05d}-of-{part.count:05d}.json"


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of a file; None if it does not exist."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); remove it, and pack the part again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: damaged; remove it, and pack the part again")
    return content
