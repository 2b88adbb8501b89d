"""Balance over metadata, as in MetaCLIP (Xu et al. 2024, "Demystifying CLIP Data", 2309.16671)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Float, Int64

from clipkit.curation.candidates import Candidates
from clipkit.curation.draws import draws, uniform
from clipkit.curation.filters.base import Decision, Filter, GroupCount
from clipkit.curation.filters.captions import captions_of
from clipkit.curation.filters.metadata_entries import MetadataEntries, read_entries
from clipkit.errors import check_at_least

_SHOWN_GROUPS: Final = 1000


@final
@dataclass(frozen=True, slots=True)
class MetadataBalanceFilter(Filter):
    """Keeps about ``limit`` samples per metadata entry, and all samples of rare entries.

    An entry that occurs in ``count`` samples keeps each of them with probability
    ``min(1, limit / count)``; a sample is kept if one of its entries keeps it (section 3.3 of the
    paper). So a sample is removed with the product of the probabilities that its entries do not
    keep it, by one random number per sample. A sample without an entry is removed, which includes
    samples without a caption; the entries of all captions of a sample count.

    Args:
        entries: File with the entries: one per line, or a JSON list.
        limit: Number of samples above which an entry is frequent. The paper uses 20,000 for 400
            million samples.
        seed: Seed of the selection. It depends on seed and keys only, not on the order.

    Raises:
        ConfigError: If ``limit`` is less than 1.
    """

    entries: Path
    limit: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("balance_metadata", self.limit, 1)

    @property
    def description(self) -> str:
        """What is kept."""
        return (
            f"about {self.limit} samples per entry of {self.entries.name} and more of rare ones "
            f"(seed {self.seed})"
        )

    def decide(self, candidates: Candidates) -> Decision:
        """Remove samples of frequent entries, and samples without an entry.

        Raises:
            DataError: If the file of the entries cannot be read.
        """
        entries = read_entries(self.entries)
        numbers, starts = occurrences(candidates, entries)
        counts = np.bincount(numbers, minlength=len(entries))
        chances = keeping_chances(numbers, starts, counts, self.limit)
        drawn = np.empty(len(candidates), dtype=np.float64)
        for places, table in candidates.tables(["key"]):
            drawn[places] = uniform(draws(table.column("key").to_pylist(), self.seed))
        removed: Bool[np.ndarray, " candidates"] = drawn >= chances
        kept = np.bincount(numbers[np.repeat(~removed, np.diff(starts))], minlength=len(entries))
        order = np.argsort(-counts, kind="stable")[:_SHOWN_GROUPS].tolist()
        groups = [GroupCount(entries.names[n], int(counts[n]), int(kept[n])) for n in order]
        values = chances.astype(np.float32)
        measure = "Probability that the sample is kept"
        without = int((chances == 0).sum())
        note = (
            f"{without} samples without an entry, {int((counts > self.limit).sum())} of "
            f"{len(entries)} entries are frequent"
        )
        return Decision(removed, values, measure, groups=tuple(groups), notes=(note,))


def occurrences(
    candidates: Candidates, entries: MetadataEntries
) -> tuple[Int64[np.ndarray, " occurrences"], Int64[np.ndarray, " candidates+1"]]:
    """Return the entries of all candidates, one after the other, and where each begins."""
    found, lengths = array("I"), np.zeros(len(candidates) + 1, dtype=np.int64)
    for places, samples in captions_of(candidates):
        for place, captions in enumerate(samples, start=places.start + 1):
            own = set().union(*(entries.occurring(text) for text in captions))
            found.extend(sorted(own))
            lengths[place] = len(own)
    return np.asarray(found).astype(np.int64), np.cumsum(lengths)


def keeping_chances(
    numbers: Int64[np.ndarray, " occurrences"],
    starts: Int64[np.ndarray, " N+1"],
    counts: Int64[np.ndarray, " entries"],
    limit: int,
) -> Float[np.ndarray, " N"]:
    """Return the probability that each sample is kept by at least one of its entries.

    Args:
        numbers: Entries of all samples, one after the other.
        starts: Where the entries of each sample begin in ``numbers``, and their number.
        counts: Number of samples of each entry.
        limit: Number of samples that an entry keeps on average.

    Examples:
        >>> numbers, starts = np.array([0, 0, 1]), np.array([0, 1, 3, 3])
        >>> keeping_chances(numbers, starts, np.array([4, 1]), limit=1)
        array([0.25, 1.  , 0.  ])
    """
    with np.errstate(divide="ignore"):
        chances = np.minimum(1.0, limit / counts)
        logs = np.log1p(-chances)[numbers]  # -inf where an entry keeps all of its samples
    owners = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    certain = np.zeros(len(starts) - 1, dtype=np.bool_)
    certain[owners[np.isinf(logs)]] = True
    sums = np.bincount(owners, np.where(np.isinf(logs), 0.0, logs), minlength=len(starts) - 1)
    kept: Float[np.ndarray, " N"] = np.where(certain, 1.0, 0.0 - np.expm1(sums))
    return kept
