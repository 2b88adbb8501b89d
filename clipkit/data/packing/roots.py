"""Check that the images of a table or folder are inside its folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from clipkit.errors import DataError


def refuse_outside(images: Iterable[Path], root: Path, source: str | Path) -> None:
    """Refuse images outside of a folder; symbolic links are resolved.

    Without this check, a table could name any file of this machine, which would then be packed.
    """
    inside = _real(root)
    folders: dict[Path, bool] = {}
    outside: list[Path] = []
    num_images = 0
    for image in images:
        num_images += 1
        # Tables of millions of images name few folders, and most images are not links.
        if image.parent not in folders:
            folders[image.parent] = _real(image.parent).is_relative_to(inside)
        is_plain = folders[image.parent] and image.name != ".." and not _may_lead(image)
        if not is_plain and not _real(image).is_relative_to(inside):
            outside.append(image)
    if not outside:
        return
    first, real = outside[0], _real(outside[0])
    leads = "" if real == first else f" (which is {real})"
    raise DataError(
        f"{source}: {len(outside)} of {num_images} images are outside of {root}, the first is "
        f"{first}{leads}; name the folder that contains all of them (clipkit shards pack --images "
        f"DIR), or, if you trust the author of these names, allow it: --allow-outside, "
        f"data.storage.allow_outside: true for fit, or allow_outside=True in Python"
    )


def is_inside(file: Path, root: Path) -> bool:
    """Return whether a file is inside of a folder; symbolic links are resolved."""
    return _real(file).is_relative_to(_real(root))


def _may_lead(image: Path) -> bool:
    """Return whether an image may be a link; True if it cannot be determined."""
    try:
        return image.is_symlink()
    except OSError:
        return True


def _real(path: Path) -> Path:
    """Resolve a path; unlike ``Path.resolve``, without an error for circular links."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a NUL: no such file can exist
        return Path()
