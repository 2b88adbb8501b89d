"""Count the samples of shards, and the sizes of their images, captions and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from clipkit.data.audio.decode import SoundInfo, sound_info
from clipkit.data.audio.formats import SOUND_EXTENSIONS
from clipkit.data.images.formats import DEFAULT_MAX_PIXELS, IMAGE_EXTENSIONS, open_image
from clipkit.data.packing.verify import (
    OnSample,
    lost_shard_faults,
    unread_sounds,
    visit_samples,
    warn_of_unread_sounds,
)
from clipkit.data.samples.faults import Fault
from clipkit.data.shards.members import read_label
from clipkit.data.shards.named import named_shards
from clipkit.data.shards.reader import RawSample
from clipkit.data.text.captions import TextField
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import SampleError
from clipkit.types import IGNORE_LABEL

_SHOWN_KEYS: Final = 20
_LONG_CONTEXT: Final = 77


@dataclass(slots=True)
class ShardStats:
    """Statistics of shards. The lists have one entry per image, sound or caption.

    Args:
        num_shards: Number of shards.
        num_samples: Number of samples.
        num_bytes: Size of all members in bytes.
        widths: Width of each image in pixels.
        heights: Height of each image in pixels.
        seconds: Duration of each sound whose header has one.
        sample_rates: Number of sounds per sample rate, in samples per second.
        channels: Number of sounds per number of channels.
        caption_lengths: Length of each caption in tokens before truncation, including start and end
            tokens.
        labels: Number of samples per class.
        duplicate_keys: The first keys that several samples share, with the number of samples.
        num_duplicate_keys: Number of samples with the key of an earlier sample.
        faults: Images, texts and shards that cannot be read.
    """

    num_shards: int = 0
    num_samples: int = 0
    num_bytes: int = 0
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    sample_rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    caption_lengths: list[int] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    duplicate_keys: dict[str, int] = field(default_factory=dict)
    num_duplicate_keys: int = 0
    faults: list[Fault] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return totals, and minimum, median, mean and maximum of each list, in JSON types."""
        lengths = self.caption_lengths
        num_long = sum(length > _LONG_CONTEXT for length in lengths)
        return {
            "num_shards": self.num_shards,
            "num_samples": self.num_samples,
            "num_bytes": self.num_bytes,
            "image_width_pixels": _spread(self.widths),
            "image_height_pixels": _spread(self.heights),
            "sound_seconds": _spread(self.seconds),
            "sound_sample_rates": _counts(self.sample_rates),
            "sound_channels": _counts(self.channels),
            "caption_tokens": _spread(lengths),
            "captions_above_77_tokens_share": num_long / max(1, len(lengths)),
            "labelled_share": self.labels.total() / max(1, self.num_samples),
            "num_classes": len(self.labels),
            "labels": _counts(self.labels),
            "num_duplicate_keys": self.num_duplicate_keys,
            "duplicate_keys": self.duplicate_keys,
            "num_faults": len(self.faults),
        }


def collect_stats(
    urls: str | Sequence[str],
    tokenizer: Tokenizer,
    num_workers: int = 1,
    on_sample: OnSample | None = None,
) -> ShardStats:
    """Count samples, sizes of images and sounds, lengths of captions, and classes.

    Images and sounds are not decoded.

    Args:
        urls: URLs or patterns of shards, as for ``ShardIndex.from_urls``.
        tokenizer: Tokenizer that counts the tokens of captions up to its context length.
        num_workers: Number of threads.
        on_sample: Called after each sample with the numbers of completed samples and of all samples
            known so far; None for no call.

    Raises:
        ConfigError: If ``num_workers`` is less than 1, or there are sounds without images and the
            packages that decode them are not installed.
        ShardError: If no shards match.

    Examples:
        >>> tokenizer = OpenClipTokenizer(context_length=100)
        >>> stats = collect_stats("data/train", tokenizer)
        >>> stats.num_samples, stats.summary()["caption_tokens"]["max"]
        (9, 7)
    """
    addresses = named_shards(urls).addresses
    stats = ShardStats(num_shards=len(addresses), faults=lost_shard_faults(urls, addresses))
    keys: Counter[str] = Counter()
    num_unread = 0

    def inspect(raw: RawSample) -> _SampleFacts:
        return _inspect(raw, tokenizer)

    for raw, facts in visit_samples(addresses, inspect, num_workers, stats.faults, on_sample):
        stats.num_samples += 1
        stats.num_bytes += sum(map(len, raw.members.values()))
        keys[raw.key] += 1
        num_unread += facts.num_unread
        stats.widths.extend(width for width, _ in facts.sizes)
        stats.heights.extend(height for _, height in facts.sizes)
        stats.seconds.extend(info.seconds for info in facts.sounds if info.seconds is not None)
        stats.sample_rates.update(info.sample_rate for info in facts.sounds)
        stats.channels.update(info.num_channels for info in facts.sounds)
        stats.caption_lengths.extend(facts.caption_lengths)
        if facts.label != IGNORE_LABEL:
            stats.labels[facts.label] += 1
        stats.faults.extend(Fault(raw.shard, raw.index, raw.key, why) for why in facts.reasons)
    warn_of_unread_sounds(num_unread)
    shared = {key: count for key, count in keys.items() if count > 1}
    stats.num_duplicate_keys = sum(shared.values()) - len(shared)
    stats.duplicate_keys = dict(list(shared.items())[:_SHOWN_KEYS])
    return stats


@dataclass(slots=True)
class _SampleFacts:
    sizes: list[tuple[int, int]] = field(default_factory=list)
    sounds: list[SoundInfo] = field(default_factory=list)
    caption_lengths: list[int] = field(default_factory=list)
    label: int = IGNORE_LABEL
    reasons: list[str] = field(default_factory=list)
    num_unread: int = 0


def _inspect(raw: RawSample, tokenizer: Tokenizer) -> _SampleFacts:
    unread = unread_sounds(raw.members)
    facts = _SampleFacts(num_unread=len(unread))
    for extension, data in raw.members.items():
        if extension in unread:
            continue
        try:
            if extension in IMAGE_EXTENSIONS:
                facts.sizes.append(open_image(data, DEFAULT_MAX_PIXELS).size)
            elif extension in SOUND_EXTENSIONS:
                facts.sounds.append(sound_info(data))
            elif extension == "txt":
                captions = TextField(one_per_line=True).candidates(raw.members)
                facts.caption_lengths.extend(len(tokenizer.encode(c.text)) for c in captions)
            elif extension == "cls":
                facts.label = read_label(raw.members, "cls")
        except SampleError as error:
            facts.reasons.append(f"{extension}: {error.reason}")
    return facts


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Return minimum, median, mean and maximum; nothing of no values."""
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "min": ordered[0],
        "median": ordered[len(ordered) // 2],
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
        "mean": sum(ordered) / len(ordered),
    }


def _counts(counts: Counter[int]) -> dict[str, int]:
    """Return counts with their numbers as text, as JSON has them, in order."""
    return {str(number): count for number, count in sorted(counts.items())}
