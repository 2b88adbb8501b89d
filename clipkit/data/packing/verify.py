"""Verify shards: read every sample and report everything that is broken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

from clipkit.data.audio.decode import check_sound
from clipkit.data.audio.formats import SOUND_EXTENSIONS, require_package
from clipkit.data.images.formats import (
    DEFAULT_MAX_PIXELS,
    IMAGE_EXTENSIONS,
    open_image,
    to_rgb,
)
from clipkit.data.samples.content import IMAGES_AND_SOUNDS
from clipkit.data.samples.faults import WHOLE_SHARD, Fault
from clipkit.data.shards.counts import counts_by_folder
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.lost_shards import lost_shards
from clipkit.data.shards.members import parsed_json, read_label, read_text
from clipkit.data.shards.named import named_shards
from clipkit.data.shards.reader import RawSample, ShardReader
from clipkit.data.shards.shard_table import scan_shard
from clipkit.data.storage.urls import Address
from clipkit.errors import ConfigError, SampleError, ShardError

OnSample = Callable[[int, int], None]
"""Called with the numbers of completed samples and of all samples known so far."""

T = TypeVar("T")

_LOG: Final = logging.getLogger(__name__)
_SAMPLES_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Result of ``verify_shards``.

    Args:
        num_shards: Number of shards.
        num_samples: Number of samples that were read.
        faults: Everything that is broken.
    """

    num_shards: int
    num_samples: int
    faults: tuple[Fault, ...]


def verify_shards(
    urls: str | Sequence[str], num_workers: int = 1, on_sample: OnSample | None = None
) -> VerifyReport:
    """Read every member of every shard and decode every image and sound.

    Args:
        urls: URLs or patterns of shards, as for ``ShardIndex.from_urls``.
        num_workers: Number of threads.
        on_sample: Called after each sample with the numbers of completed samples and of all samples
            known so far; None for no call.

    Raises:
        ConfigError: If ``num_workers`` is less than 1, or there are sounds without images and the
            packages that decode them are not installed.
        ShardError: If no shards match.

    Examples:
        >>> report = verify_shards("data/train")
        >>> report.num_samples, report.faults
        (9, ())
    """
    addresses = named_shards(urls).addresses
    faults = lost_shard_faults(urls, addresses)
    num_samples = num_unread = 0
    for raw, reasons in visit_samples(addresses, sample_faults, num_workers, faults, on_sample):
        num_samples += 1
        num_unread += len(unread_sounds(raw.members))
        faults.extend(Fault(raw.shard, raw.index, raw.key, reason) for reason in reasons)
    warn_of_unread_sounds(num_unread)
    return VerifyReport(len(addresses), num_samples, tuple(faults))


def sample_faults(raw: RawSample) -> list[str]:
    """Return all faults of one sample, each with the name of the member."""
    reasons = []
    unread = unread_sounds(raw.members)
    for extension in raw.members:
        if extension in unread:
            continue
        try:
            _check_member(raw.members, extension)
        except SampleError as error:
            reasons.append(f"{extension}: {error.reason}")
    if not any(extension in IMAGES_AND_SOUNDS for extension in raw.members):
        reasons.append(f"no image or sound, only {', '.join(raw.members)}")
    if not any(extension in raw.members for extension in ("txt", "json", "cls")):
        reasons.append(f"no caption, only {', '.join(raw.members)}")
    return reasons


def unread_sounds(members: Mapping[str, bytes]) -> list[str]:
    """Return the sounds next to an image, if the packages that read sounds are not installed.

    Shards of images may have sounds that are not used; a sample of sounds alone is an error.
    """
    sounds = [name for name in members if name in SOUND_EXTENSIONS]
    if not sounds or not any(name in IMAGE_EXTENSIONS for name in members):
        return []
    try:
        require_package("soundfile")
    except ConfigError:
        return sounds
    return []


def warn_of_unread_sounds(count: int) -> None:
    """Say how many sounds next to images were not examined."""
    if count:
        _LOG.warning(
            "%d sounds next to images were not examined, because soundfile cannot be imported; pip "
            "install 'clipkit[audio]'",
            count,
        )


def lost_shard_faults(urls: str | Sequence[str], addresses: Sequence[Address]) -> list[Fault]:
    """Return a fault for each shard that the counts of its folder list and that does not exist."""
    lost = lost_shards(urls, addresses, counts_by_folder(addresses))
    return [Fault(url, WHOLE_SHARD, "", reason) for url, reason in lost]


def visit_samples(
    addresses: Sequence[Address],
    inspect: Callable[[RawSample], T],
    num_workers: int,
    faults: list[Fault],
    on_sample: OnSample | None,
) -> Iterator[tuple[RawSample, T]]:
    """Yield every sample with the result of ``inspect``, which runs in threads."""
    if num_workers < 1:
        raise ConfigError(f"num_workers: expected at least 1, got {num_workers}")
    done = total = 0
    with ThreadPoolExecutor(num_workers) as pool:
        for address in addresses:
            try:
                # Read the headers, because an index file may be older than the shard.
                if address.is_local:
                    scan_shard(address.path, str(address))
                index = ShardIndex.from_urls(address, write_sidecars=False)
                reader = ShardReader(index)
                total += index.num_samples
                samples = map(reader.read, range(index.num_samples))
                for batch in _batches(samples, _SAMPLES_AT_ONCE):
                    for raw, result in zip(batch, pool.map(inspect, batch), strict=True):
                        done += 1
                        if on_sample is not None:
                            on_sample(done, total)
                        yield raw, result
            except ShardError as error:
                faults.append(Fault(str(address), WHOLE_SHARD, "", str(error)))


def _batches(samples: Iterator[RawSample], size: int) -> Iterator[list[RawSample]]:
    """Yield lists of ``size`` samples, so that no more are in memory at once."""
    while batch := list(islice(samples, size)):
        yield batch


def _check_member(members: Mapping[str, bytes], extension: str) -> None:
    if extension in IMAGE_EXTENSIONS:
        to_rgb(open_image(members[extension], DEFAULT_MAX_PIXELS), None)
    elif extension in SOUND_EXTENSIONS:
        check_sound(members[extension])
    elif extension == "txt" and not read_text(members, "txt"):
        raise SampleError("caption is empty")
    elif extension == "cls":
        read_label(members, "cls")
    elif extension == "json":
        parsed_json(members["json"], "json")
