"""What a run trains on, as a configuration says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipkit.data import Mixture, ShardIndex, Source


@dataclass(frozen=True, slots=True)
class MixedSource:
    """One of several data sets that are mixed in exact proportions; see ``clipkit.data.Mixture``.

    Args:
        name: For counters and checkpoints.
        urls: Its shards.
        weight: Its share of the samples, relative to the other sources'.
        epochs: Instead of a weight: how often an epoch of the mixture goes through it.
    """

    name: str
    urls: str | list[str]
    weight: float | None = None
    epochs: float | None = None


def open_data(train: str | Sequence[str] | Sequence[MixedSource]) -> ShardIndex | Mixture:
    """The index of some shards, or the mixture of several sources.

    Args:
        train: Shards, or sources.

    Returns:
        What a ``PairStream`` reads.

    Raises:
        ClipkitError: If shards are missing, or the sources do not make a mixture.
    """
    if isinstance(train, str):
        return ShardIndex.from_urls(train)
    sources = [part for part in train if isinstance(part, MixedSource)]
    if not sources:
        return ShardIndex.from_urls([part for part in train if isinstance(part, str)])
    return Mixture(
        [Source(s.name, ShardIndex.from_urls(s.urls), s.weight, s.epochs) for s in sources]
    )
