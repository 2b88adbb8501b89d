"""What a WebDatasetSource reads: shards, known numbers of samples, first samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from clipkit.data.shards.counts import counts_by_folder, known_counts, read_counts
from clipkit.data.shards.lost_shards import lost_shards
from clipkit.data.shards.named import named_shards
from clipkit.data.shards.reader import RawSample
from clipkit.data.shards.sequential import read_samples
from clipkit.data.storage.cache import ShardCache, default_cache
from clipkit.data.storage.remote import Retries
from clipkit.data.storage.streams import open_stream
from clipkit.data.storage.urls import Address, Patterns
from clipkit.errors import ConfigError, ShardError

WebSample = Mapping[str, Any]
"""A sample of webdataset: ``__key__``, ``__url__``, and members by extension."""

Handler = Callable[[Exception], bool]
"""What webdataset calls with an error; True to continue."""

UserPipeline = Callable[[Sequence[str], int, Handler], Iterable[WebSample]]
"""``(urls, seed, handler) -> webdataset.DataPipeline``."""


@final
@dataclass(frozen=True, slots=True)
class WebDatasetShards:
    """Shards for a ``WebDatasetSource``, and how they are read.

    Args:
        urls: Shards: braces, globs, folders, ``"::"`` unions, a wids ``.json``, any scheme that
            fsspec opens, and ``pipe:COMMAND``; None if ``pipeline`` needs none.
        num_samples: Number of samples that count as an epoch, over all ranks. It is rounded down to
            complete steps of the first launch.
        resampled: Whether each worker draws shards at random, with replacement; otherwise all
            workers of all ranks divide the shards, and read each one once per pass.
        pipeline: Function ``(urls, seed, handler)`` that returns your own
            ``webdataset.DataPipeline``, called in each worker. It yields samples of bytes, without
            ``decode()``, and splits them over ranks and workers with ``webdataset.split_by_node``
            and ``split_by_worker``. Pass ``handler`` to its stages, so that errors are counted.
        counts: File or URL with the number of samples of each shard; None for ``sizes.json`` or
            energon's ``.info.json`` next to the shards. A shard with another number is bad.
        allow_pipe: Whether ``pipe:COMMAND`` among the shards may run a command on this machine.
        cache: Its numbers of retries and seconds apply to remote reads; None for the default.

    Raises:
        ConfigError: If there are neither shards nor a pipeline, or an option has no effect.

    Examples:
        >>> WebDatasetShards("s3://bucket/{00000..41407}.tar", num_samples=10_000_000).resampled
        False
    """

    urls: Patterns | None
    num_samples: int
    resampled: bool = False
    pipeline: UserPipeline | None = None
    counts: str | Path | None = None
    allow_pipe: bool = False
    cache: ShardCache | None = None

    def __post_init__(self) -> None:
        if self.pipeline is None and self.urls is None:
            raise ConfigError("urls: expected shards, got none")
        if self.pipeline is not None and self.resampled:
            raise ConfigError(
                "resampled: has no effect on a pipeline of your own; leave it out, and begin the "
                "pipeline with webdataset.ResampledShards"
            )

    def find(self) -> SequentialShards:
        """Find the shards, and the numbers of their samples in files next to them.

        Raises:
            DataError: If no shards match, one that a counts file lists is missing, or a command
                is not allowed.
        """
        retries = (self.cache or default_cache()).retries
        if self.urls is None:
            return SequentialShards({}, {}, retries)
        named = named_shards(self.urls, self.cache, allow_pipe=self.allow_pipe)
        shards = named.addresses
        unknown = [shard for shard in shards if shard not in named.indexed]
        given = {} if self.counts is None else read_counts(self.counts, self.cache)
        stored = counts_by_folder(unknown, {**named.counts, **given}, self.cache)
        if lost := lost_shards(self.urls, shards, stored):
            raise ShardError("; ".join(reason for _, reason in lost))
        by_name = known_counts(unknown, given, named.counts, stored)
        counts = {str(shard): by_name[shard.name] for shard in unknown if shard.name in by_name}
        counts |= {str(address): shard.num_samples for address, shard in named.indexed.items()}
        return SequentialShards({str(shard): shard for shard in shards}, counts, retries)


@final
@dataclass(frozen=True, slots=True)
class SequentialShards:
    """Shards without an index.

    Args:
        addresses: Address of each shard, by URL.
        counts: Number of samples of a shard by URL, where a file lists it.
        retries: Retries of remote reads.
    """

    addresses: Mapping[str, Address]
    counts: Mapping[str, int]
    retries: Retries

    def read(self, url: str) -> Iterator[RawSample]:
        """Yield the samples of a shard.

        Raises:
            ShardError: If it cannot be read completely, after the samples before that.
        """
        with open_stream(self.addresses[url], self.retries) as stream:
            yield from read_samples(stream, url, self.counts.get(url))

    def local_samples(self) -> Iterator[RawSample]:
        """Yield the samples of the local shards at the start, as far as they can be read."""
        for url, address in self.addresses.items():
            if not address.is_local:
                return
            with suppress(ShardError):
                yield from self.read(url)
