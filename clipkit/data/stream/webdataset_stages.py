"""Pipelines of webdataset that end in samples of bytes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby
from operator import itemgetter
from typing import Any, Final, final

import webdataset

from clipkit.data.rng import generator
from clipkit.data.samples.faults import WHOLE_SHARD, Fault
from clipkit.data.shards.reader import RawSample
from clipkit.data.shards.sequential import read_samples
from clipkit.data.shards.shard_table import name_as_text
from clipkit.data.storage.cache import default_cache
from clipkit.data.storage.remote import SYSTEM_ERRNOS
from clipkit.data.storage.streams import open_stream
from clipkit.data.storage.urls import parse_address
from clipkit.data.stream.webdataset_shards import (
    Handler,
    SequentialShards,
    UserPipeline,
    WebSample,
)
from clipkit.distributed.world import World
from clipkit.errors import ConfigError, DataError, ShardError

_BAD_SHARDS_IN_A_ROW: Final = 16
_MOST_ERRORS_IN_A_ROW: Final = 1000
"""More than a shuffle buffer of a pipeline hides until its first sample."""
_SEED_LIMIT: Final = 2**31
_HIDDEN: Final = "__"
_PASS: Final = "__pass__"  # noqa: S105


def draw_seed(*key: int) -> int:
    """Return a seed for webdataset."""
    return int(generator(*key).integers(_SEED_LIMIT))


@final
@dataclass(frozen=True, slots=True)
class ShardPipeline:
    """An endless pipeline that reads shards one after the other, in each worker other ones.

    Args:
        shards: Shards.
        resampled: Whether every worker draws its shards with replacement; otherwise all ranks and
            workers share endless shuffled passes over the shards.
        buffer: Number of samples in a worker's shuffle buffer.
        max_bad_shards: Number of bad shards after which this worker reads no further.
    """

    shards: SequentialShards
    resampled: bool
    buffer: int
    max_bad_shards: int

    def __call__(self, seed: int, faults: list[Fault]) -> Iterable[WebSample]:
        """Return the samples of this worker; ``faults`` receives shards that cannot be read."""
        rank, _, worker, _ = webdataset.utils.pytorch_worker_info()
        urls = list(self.shards.addresses)
        shards = (
            [webdataset.ResampledShards(urls, seed=seed, deterministic=True)]
            if self.resampled
            else [
                partial(shard_passes, urls, seed),
                webdataset.split_by_node,
                webdataset.split_by_worker,
            ]
        )
        pipeline: Iterable[WebSample] = webdataset.DataPipeline(
            *shards, partial(self._read, faults), partial(self._shuffle, (seed, rank, worker))
        )
        return pipeline

    def _read(
        self, faults: list[Fault], shards: Iterable[Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Read shards: where webdataset's reader ends silently, this reports a fault."""
        bad: set[str] = set()
        in_a_row = 0
        for shard in shards:
            url = shard["url"]
            try:
                for sample in self.shards.read(url):
                    in_a_row = 0
                    yield {**as_web_sample(sample), _PASS: shard.get(_PASS, 0)}
            except ShardError as error:
                faults.append(Fault(url, WHOLE_SHARD, "", str(error)))
                bad.add(url)
                in_a_row += 1
                if len(bad) > self.max_bad_shards or in_a_row >= _BAD_SHARDS_IN_A_ROW:
                    raise DataError(
                        f"{len(bad)} bad shards, {in_a_row} without a sample between them; the "
                        f"last one: {error}"
                    ) from error

    def _shuffle(self, key: tuple[int, ...], samples: Iterable[WebSample]) -> Iterator[WebSample]:
        """Shuffle each pass through a buffer, so that none begins before the last one ends."""
        initial = max(1, self.buffer // 5)  # before the first sample, as in open_clip
        for number, of_pass in groupby(samples, key=itemgetter(_PASS)):
            seed = draw_seed(*key, number)
            yield from webdataset.shuffle(self.buffer, initial=initial, seed=seed)(of_pass)


@final
@dataclass(frozen=True, slots=True)
class OwnPipeline:
    """A pipeline that the user wrote.

    Args:
        function: Returns the pipeline.
        urls: URLs of the shards, which may be none.
    """

    function: UserPipeline
    urls: Sequence[str]

    def __call__(self, seed: int, faults: list[Fault]) -> Iterable[WebSample]:
        """Return the samples of this worker; ``faults`` receives the errors of its handler."""
        num_errors = 0  # since the last sample

        def handler(error: Exception) -> bool:
            nonlocal num_errors
            is_of_machine = getattr(error, "errno", None) in SYSTEM_ERRNOS
            if is_of_machine or isinstance(error, MemoryError) or type(error) is DataError:
                raise error  # no fault of a sample or shard, or that of an inner stage from below
            faults.append(self._fault(error))
            num_errors += 1
            if num_errors == _MOST_ERRORS_IN_A_ROW:
                raise DataError(
                    f"webdataset pipeline: {num_errors} errors without a sample between them; the "
                    f"last one: {faults[-1].reason}"
                ) from error
            return True

        def counted(samples: Iterable[WebSample]) -> Iterator[WebSample]:
            nonlocal num_errors
            for sample in samples:
                num_errors = 0
                yield sample

        return counted(self.function(list(self.urls), seed, handler))

    def _fault(self, error: Exception) -> Fault:
        named = [*getattr(error, "__notes__", ()), *reversed(error.args)]
        texts = [text for text in named if isinstance(text, str)]
        url = next((text for text in texts if text in self.urls), "")
        reason = f"{type(error).__name__}: {error}"
        if url:
            return Fault(url, WHOLE_SHARD, "", reason)
        # webdataset names no sample: every error counts as another one.
        return Fault("", 0, "", reason, uuid.uuid4().int >> 65)


@final
@dataclass(frozen=True, slots=True)
class TarSamples:
    """Stage of a webdataset pipeline that reads tars and misses no damage.

    It replaces ``webdataset.tarfile_to_samples``, which ends a damaged shard without an error in
    most cases. Samples are those of a ``WebDatasetSource`` without a pipeline of its own.

    Args:
        handler: Called with a ``ShardError`` after the complete samples of a damaged shard; True to
            continue with the next shard, False to end.
        allow_pipe: Whether a URL ``pipe:COMMAND`` may run a command on this machine.

    Examples:
        >>> import webdataset
        >>> pipeline = webdataset.DataPipeline(
        ...     webdataset.SimpleShardList(["data/train/00000.tar"]),
        ...     TarSamples(webdataset.reraise_exception),
        ... )
        >>> sorted(name for name in next(iter(pipeline)) if not name.startswith("__"))
        ['cls', 'jpg', 'json', 'txt']
    """

    handler: Handler
    allow_pipe: bool = False

    def __call__(self, shards: Iterable[Mapping[str, Any]]) -> Iterator[WebSample]:
        """Yield the samples of shards, mappings with ``url``.

        Raises:
            DataError: If a URL is a pipe, which is not allowed.
            OSError: If this machine is out of files, memory or disk.
        """
        retries = default_cache().retries
        for shard in shards:
            url = str(shard["url"])
            address = parse_address(url, allow_pipe=self.allow_pipe)
            try:
                with open_stream(address, retries) as stream:
                    yield from map(as_web_sample, read_samples(stream, url))
            except ShardError as error:
                error.add_note(url)  # read by the handler of OwnPipeline
                if not self.handler(error):
                    return


def shard_passes(urls: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Yield all URLs in a new random order, again and again.

    Examples:
        >>> passes = shard_passes(["a", "b"], seed=1)
        >>> [next(passes)["url"] for _ in range(4)]
        ['b', 'a', 'b', 'a']
    """
    for number in count():
        for place in generator(seed, number).permutation(len(urls)).tolist():
            yield {"url": urls[place], _PASS: number}


def as_web_sample(sample: RawSample) -> dict[str, Any]:
    """Return a sample in webdataset's form."""
    hidden = {"__key__": sample.key, "__url__": sample.shard, "__index__": sample.index}
    return {**sample.members, **hidden}


def as_raw_sample(sample: WebSample) -> RawSample:
    """Return a sample of webdataset in clipkit's form.

    Raises:
        ConfigError: If its members are not bytes.
    """
    key = sample.get("__key__") if isinstance(sample, Mapping) else None
    if not isinstance(key, str):
        raise ConfigError(
            f"webdataset pipeline: expected samples, mappings with __key__ and bytes by "
            f"extension, got {sample!r:.80}; leave out to_tuple() and batched()"
        )
    members = {name: data for name, data in sample.items() if not name.startswith(_HIDDEN)}
    for name, data in members.items():
        if not isinstance(data, bytes):
            raise ConfigError(
                f"webdataset pipeline: sample {key}: member {name}: expected bytes, got "
                f"{type(data).__name__}; leave out decode(), clipkit decodes images and text itself"
            )
    text = name_as_text(key.encode("utf-8", "surrogateescape"))
    return RawSample(text, members, str(sample.get("__url__", "")), sample.get("__index__", 0))


@contextmanager
def launched_as(world: World) -> Iterator[None]:
    """Let webdataset's splitters see this rank: they read the variables of torchrun."""
    names = {"RANK": str(world.rank), "WORLD_SIZE": str(world.size)}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
