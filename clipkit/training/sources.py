"""What a run trains on, as a configuration says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipkit.data import Mixture, ShardIndex, Source
from clipkit.errors import ConfigError


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


def open_data(
    train: str | Sequence[str] | None, mixture: Sequence[MixedSource] | None
) -> ShardIndex | Mixture:
    """The index of some shards, or the mixture of several sources.

    Args:
        train: Shards.
        mixture: Sources; either these or shards.

    Returns:
        What a ``PairStream`` reads.

    Raises:
        ClipkitError: If both are given or none, if shards are missing, or if the sources do not
            make a mixture.
    """
    if train and mixture:
        raise ConfigError("data.train: expected either train or mixture, got both")
    if mixture:
        return Mixture(
            [Source(s.name, ShardIndex.from_urls(s.urls), s.weight, s.epochs) for s in mixture]
        )
    if not train:
        raise ConfigError("data.train: expected shards to train on, got none")
    return ShardIndex.from_urls(train)
