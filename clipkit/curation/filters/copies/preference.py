"""Which one of several copies is kept: the preferred one."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Int64

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.base import NOT_A_COPY

PREFERENCE: Final = "the image with the most pixels, then the best score, then the first row"
Places = Int64[np.ndarray, " candidates"]


def preference(candidates: Candidates) -> Places:
    """Return the rank of each candidate: of several copies, the one with the lowest is kept.

    More pixels are preferred, then a higher image-text score if captions were embedded, then a
    lower row. An unknown size or score ranks last.
    """
    areas = candidates.numbers("width_pixels") * candidates.numbers("height_pixels")
    has_texts = candidates.collection.info.has_texts
    scores = candidates.scores if has_texts else np.zeros(len(candidates), dtype=np.float32)
    return ranks(areas, scores)


def ranks(
    areas: Float[np.ndarray, " N"], scores: Float[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """Return the rank of each sample by area, then by score, then by place.

    Examples:
        >>> ranks(np.array([1.0, 4.0, 4.0, np.nan]), np.array([0.9, 0.1, 0.2, 0.9]))
        array([2, 1, 0, 3])
    """
    keys = [np.where(np.isnan(values), np.inf, -values) for values in (scores, areas)]
    order = np.lexsort(keys)
    found = np.empty(len(areas), dtype=np.int64)
    found[order] = np.arange(len(areas))
    return found


def copies_of_equal(words: np.ndarray, rank: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """Return for each row the preferred one of equal rows, and ``NOT_A_COPY`` for that one itself.

    Args:
        words: Rows of integers [N, columns].
        rank: Rank of each row.

    Examples:
        >>> copies_of_equal(np.array([[7], [8], [7]]), np.array([2, 1, 0]))
        array([ 2, -1, -1])
    """
    copy_of = np.full(len(words), NOT_A_COPY, dtype=np.int64)
    if not len(words):
        return copy_of
    order = np.lexsort((rank, *words.T))
    ordered = words[order]
    is_first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    firsts = order[np.flatnonzero(is_first)][np.cumsum(is_first) - 1]
    copy_of[order[~is_first]] = firsts[~is_first]
    return copy_of


def copies_of_pairs(
    first: Int64[np.ndarray, " pairs"],
    second: Int64[np.ndarray, " pairs"],
    rank: Int64[np.ndarray, " N"],
) -> Int64[np.ndarray, " N"]:
    """Return for each row the kept row that it is a copy of, and ``NOT_A_COPY`` for kept rows.

    In the order of the ranks, a row is kept unless it is paired with a kept one. So every copy is
    paired with the row that is kept in its place, and no two kept rows are paired; a chain of pairs
    does not make its ends copies of each other.

    Args:
        first: First row of each pair.
        second: Second row of each pair.
        rank: Rank of each row.

    Examples:
        >>> pairs = np.array([0, 1]), np.array([1, 2])
        >>> copies_of_pairs(*pairs, rank=np.array([0, 1, 2]))
        array([-1,  0, -1])
    """
    copy_of = np.full(len(rank), NOT_A_COPY, dtype=np.int64)
    owners, others = np.concatenate([first, second]), np.concatenate([second, first])
    order = np.argsort(owners, kind="stable")
    owners, others = owners[order], others[order]
    rows, starts = np.unique(owners, return_index=True)
    ends = np.append(starts[1:], len(owners))
    for at in np.argsort(rank[rows], kind="stable").tolist():
        row = rows[at]
        if copy_of[row] == NOT_A_COPY:
            near = others[starts[at] : ends[at]]
            # A kept neighbour would have removed this row: the others are removed, or come later.
            copy_of[near[copy_of[near] == NOT_A_COPY]] = row
    return copy_of


def copy_notes(copy_of: Int64[np.ndarray, " N"]) -> tuple[str, ...]:
    """Return the number of copies and of the samples that they are copies of, as a sentence."""
    copies = copy_of[copy_of >= 0]
    if not len(copies):
        return ()
    return (f"{len(copies)} copies of {len(np.unique(copies))} samples; kept: {PREFERENCE}",)
