"""Which index suits a collection: a string of FAISS's ``index_factory`` by the number of rows."""

from __future__ import annotations

import math
from typing import Final

EXACT_ROWS: Final = 2_000_000
"""Up to this number of rows, exact search needs no index: two cores take 0.25 s per query."""
_LISTS_FACTOR: Final = 4
_MAX_LISTS: Final = 65_536
_GRAPH_LISTS: Final = 16_384
"""With fewer lists, comparing a vector with all their centres takes no longer than a graph would,
and finds the nearest one with certainty."""
_BYTE_ROWS: Final = 50_000_000
_COMPONENTS_PER_CODE: Final = 8


def index_factory(num_rows: int, width: int) -> str:
    """Return the factory string of an index.

    Inverted lists (IVF), about four times the square root of the rows of them, of vectors with one
    byte per component (SQ8), beyond 50 million rows one byte per eight components (PQ). From 16,384
    lists on, the nearest lists of a vector are found with a graph (HNSW).

    Args:
        num_rows: Number of rows.
        width: Components of a vector.

    Source: "Guidelines to choose an index" and "The index factory" in the wiki of FAISS.

    Examples:
        >>> index_factory(1_000_000, 512), index_factory(10_000_000, 512)
        ('IVF2048,SQ8', 'IVF8192,SQ8')
        >>> index_factory(1_000_000_000, 512)
        'IVF65536_HNSW32,PQ64'
    """
    wanted = _LISTS_FACTOR * math.sqrt(max(1, num_rows))
    num_lists = min(_MAX_LISTS, 2 ** int(math.log2(wanted)))
    graph = "_HNSW32" if num_lists >= _GRAPH_LISTS else ""
    codes = "SQ8" if num_rows <= _BYTE_ROWS else f"PQ{_num_codes(width)}"
    return f"IVF{num_lists}{graph},{codes}"


def _num_codes(width: int) -> int:
    """Return the largest divisor of the width with at least eight components per code."""
    most = max(1, width // _COMPONENTS_PER_CODE)
    return max(count for count in range(1, most + 1) if width % count == 0)
