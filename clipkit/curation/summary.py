"""The summary of a mask: what each filter removed."""

from __future__ import annotations

from typing import Any, Final

from clipkit.collection import Collection
from clipkit.curation.filters.apply import Filtered
from clipkit.data import SampleMask, ShardIndex

_LONGEST: Final = 300


def mask_of(index: ShardIndex, filtered: Filtered) -> SampleMask:
    """Return the mask of filtered samples, for the data of an index."""
    names = [printable(outcome.description) for outcome in filtered.outcomes]
    return SampleMask.of(index, filtered.removed_by, names)


def summary_of(collection: Collection, filtered: Filtered, mask: SampleMask) -> dict[str, Any]:
    """Return what each filter removed, as JSON."""
    return {
        "collection": str(collection.folder),
        "model": collection.info.model,
        "data": collection.info.data,
        "index_fingerprint": mask.index_fingerprint,
        "mask_fingerprint": mask.fingerprint,
        "num_samples": mask.num_samples,
        "num_kept": mask.num_kept,
        "filters": [
            {
                "description": printable(each.description),
                "num_removed": each.num_removed,
                "share_removed": each.share_removed,
                "num_kept": each.num_kept,
                "notes": list(each.notes),
            }
            for each in filtered.outcomes
        ],
    }


def printable(text: str) -> str:
    r"""Return a description that a mask can hold: of file names, any character may be a part.

    Examples:
        >>> printable("not in a\nb")
        'not in a\\nb'
    """
    shown = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
    return shown[:_LONGEST]
