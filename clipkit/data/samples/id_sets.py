"""Sets of sample ids as short text, for checkpoints of plain types."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection

import numpy as np


def pack_ids(ids: Collection[int]) -> str:
    """Pack a set of ids as text: sorted differences, compressed; a few bytes per id.

    Examples:
        >>> sorted(unpack_ids(pack_ids({3, 5, 2**40})))
        [3, 5, 1099511627776]
    """
    ordered = np.sort(np.fromiter(ids, dtype=np.int64, count=len(ids)))
    steps = np.diff(ordered, prepend=0).astype("<i8")
    return base64.b64encode(zlib.compress(steps.tobytes())).decode("ascii")


def unpack_ids(text: str) -> set[int]:
    """Return the ids of a text of ``pack_ids``."""
    steps = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<i8")
    return set(np.cumsum(steps).tolist())
