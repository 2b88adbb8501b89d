"""Looking at every sample of some shards: what is broken, and what there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

from clipkit.data.images.formats import (
    DEFAULT_MAX_PIXELS,
    IMAGE_EXTENSIONS,
    open_image,
    to_rgb,
)
from clipkit.data.samples.faults import WHOLE_SHARD, Fault
from clipkit.data.shards.counts import counts_by_folder, named_shards
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.lost_shards import lost_shards
from clipkit.data.shards.members import parsed_json, read_label, read_text
from clipkit.data.shards.reader import RawSample, ShardReader
from clipkit.data.shards.shard_table import scan_shard
from clipkit.data.storage.urls import Address
from clipkit.data.text.captions import TextField
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import SampleError, ShardError
from clipkit.types import IGNORE_LABEL

OnSample = Callable[[int, int], None]
"""Called with the numbers of samples done and in all known so far."""

T = TypeVar("T")

_MANY_KEYS: Final = 20
_SAMPLES_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify_shards` found.

    Args:
        num_shards: Shards that were looked at.
        num_samples: Samples that were read.
        faults: Everything that is broken.
    """

    num_shards: int
    num_samples: int
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class ShardStats:
    """What `collect_stats` found. Lists have one entry for each picture, caption or label.

    Args:
        num_shards: Shards that were looked at.
        num_samples: Samples in them.
        num_bytes: Bytes of all members.
        widths: Of the pictures, in pixels.
        heights: Of the pictures, in pixels.
        caption_lengths: In tokens, start and end included, before anything is cut off.
        labels: Number of samples of each class.
        duplicate_keys: Keys that several samples share, and how many; the first few.
        num_duplicate_keys: Samples whose key another sample had before.
        faults: Pictures and texts that could not be read.
    """

    num_shards: int = 0
    num_samples: int = 0
    num_bytes: int = 0
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    caption_lengths: list[int] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    duplicate_keys: dict[str, int] = field(default_factory=dict)
    num_duplicate_keys: int = 0
    faults: list[Fault] = field(default_factory=list)


def verify_shards(
    urls: str | Sequence[str], num_workers: int = 1, on_sample: OnSample | None = None
) -> VerifyReport:
    """Read every member of every shard and decode every picture.

    Args:
        urls: What `ShardIndex.from_urls` takes.
        num_workers: Threads.
        on_sample: Called after each sample, for a progress bar.

    Raises:
        ShardError: No shards match.
    """
    names, _ = named_shards(urls)
    faults = _lost(urls, names)
    num_samples = 0
    for raw, reasons in _visit(names, sample_faults, num_workers, faults, on_sample):
        num_samples += 1
        faults.extend(Fault(raw.shard, raw.index, raw.key, reason) for reason in reasons)
    return VerifyReport(len(names), num_samples, tuple(faults))


def sample_faults(raw: RawSample) -> list[str]:
    """Everything that is wrong with one sample, each with the name of the member."""
    reasons = []
    for extension in raw.members:
        try:
            _check_member(raw.members, extension)
        except SampleError as error:
            reasons.append(f"{extension}: {error.reason}")
    if not any(extension in IMAGE_EXTENSIONS for extension in raw.members):
        reasons.append(f"no image, only {', '.join(raw.members)}")
    if not any(extension in raw.members for extension in ("txt", "json", "cls")):
        reasons.append(f"no caption, only {', '.join(raw.members)}")
    return reasons


def collect_stats(
    urls: str | Sequence[str],
    tokenizer: Tokenizer,
    num_workers: int = 1,
    on_sample: OnSample | None = None,
) -> ShardStats:
    """Count samples, sizes, captions and labels; of pictures only the headers are read.

    Args:
        urls: What `ShardIndex.from_urls` takes.
        tokenizer: Counts the tokens of captions; its context_length cuts the counts off.
        num_workers: Threads.
        on_sample: Called after each sample, for a progress bar.

    Raises:
        ShardError: No shards match.
    """
    names, _ = named_shards(urls)
    stats = ShardStats(num_shards=len(names), faults=_lost(urls, names))
    keys: Counter[str] = Counter()
    visits = _visit(
        names, lambda raw: _look_at(raw, tokenizer), num_workers, stats.faults, on_sample
    )
    for raw, facts in visits:
        stats.num_samples += 1
        stats.num_bytes += sum(map(len, raw.members.values()))
        keys[raw.key] += 1
        stats.widths.extend(width for width, _ in facts.sizes)
        stats.heights.extend(height for _, height in facts.sizes)
        stats.caption_lengths.extend(facts.caption_lengths)
        if facts.label != IGNORE_LABEL:
            stats.labels[facts.label] += 1
        stats.faults.extend(Fault(raw.shard, raw.index, raw.key, why) for why in facts.reasons)
    shared = {key: count for key, count in keys.items() if count > 1}
    stats.num_duplicate_keys = sum(shared.values()) - len(shared)
    stats.duplicate_keys = dict(list(shared.items())[:_MANY_KEYS])
    return stats


def _lost(urls: str | Sequence[str], names: Sequence[Address]) -> list[Fault]:
    """Return shards that their folder's own counts name and that are not there."""
    lost = lost_shards(urls, names, counts_by_folder(names))
    return [Fault(url, WHOLE_SHARD, "", reason) for url, reason in lost]


@dataclass(slots=True)
class _Facts:
    sizes: list[tuple[int, int]] = field(default_factory=list)
    caption_lengths: list[int] = field(default_factory=list)
    label: int = IGNORE_LABEL
    reasons: list[str] = field(default_factory=list)


def _look_at(raw: RawSample, tokenizer: Tokenizer) -> _Facts:
    facts = _Facts()
    for extension, data in raw.members.items():
        try:
            if extension in IMAGE_EXTENSIONS:
                facts.sizes.append(open_image(data, DEFAULT_MAX_PIXELS).size)
            elif extension == "txt":
                captions = TextField(one_per_line=True).candidates(raw.members)
                facts.caption_lengths.extend(len(tokenizer.encode(text)) for text, _ in captions)
            elif extension == "cls":
                facts.label = read_label(raw.members, "cls")
        except SampleError as error:
            facts.reasons.append(f"{extension}: {error.reason}")
    return facts


def _visit(
    names: Sequence[Address],
    look: Callable[[RawSample], T],
    num_workers: int,
    faults: list[Fault],
    on_sample: OnSample | None,
) -> Iterator[tuple[RawSample, T]]:
    """Every sample with what ``look`` says of it; shards that cannot be read go to ``faults``."""
    done = total = 0
    with ThreadPoolExecutor(num_workers) as pool:
        for address in names:
            try:
                # The headers themselves: an index file could hide what happened to them since.
                if address.is_local:
                    scan_shard(address.path, str(address))
                index = ShardIndex.from_urls(address, write_sidecars=False)
                reader = ShardReader(index)
                total += index.num_samples
                samples = map(reader.read, range(index.num_samples))
                for batch in _batches(samples, _SAMPLES_AT_ONCE):
                    for raw, result in zip(batch, pool.map(look, batch), strict=True):
                        done += 1
                        if on_sample is not None:
                            on_sample(done, total)
                        yield raw, result
            except ShardError as error:
                faults.append(Fault(str(address), WHOLE_SHARD, "", str(error)))


def _batches(samples: Iterator[RawSample], size: int) -> Iterator[list[RawSample]]:
    """Lists of ``size`` samples: no more than these are in memory at once."""
    while batch := list(islice(samples, size)):
        yield batch


def _check_member(members: Mapping[str, bytes], extension: str) -> None:
    if extension in IMAGE_EXTENSIONS:
        to_rgb(open_image(members[extension], DEFAULT_MAX_PIXELS), None)
    elif extension == "txt" and not read_text(members, "txt"):
        raise SampleError("caption is empty")
    elif extension == "cls":
        read_label(members, "cls")
    elif extension == "json":
        parsed_json(members["json"], "json")
