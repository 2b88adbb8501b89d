"""The numbers of a data card."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool

from clipkit import __version__
from clipkit.class_names import shown_names
from clipkit.evaluation.building.analysis import (
    Duplicates,
    Split,
    generic_in_both,
    largest_groups,
)
from clipkit.evaluation.building.options import (
    DuplicateOptions,
    SampleFields,
    SplitOptions,
    WriteOptions,
)
from clipkit.evaluation.building.scan import ScannedPairs
from clipkit.types import IGNORE_LABEL

_LISTED: Final = 20
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, middle and largest of some integers."""

    least: int
    median: int
    greatest: int


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """Numbers of a split.

    Args:
        num_samples: Number of images.
        num_captions: Number of captions.
        num_bytes: Size of the image files of the source, in bytes.
        widths: Widths of the images in pixels.
        heights: Heights of the images in pixels.
        caption_words: Numbers of distinct words of the captions; None without captions.
        classes: Number of images by class; empty without classes.
        languages: Number of images by language; empty if no field has it.
        licenses: Number of images by licence; empty if no field has it.
    """

    num_samples: int
    num_captions: int
    num_bytes: int
    widths: Spread
    heights: Spread
    caption_words: Spread | None
    classes: Mapping[str, int]
    languages: Mapping[str, int]
    licenses: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A training and a test image that are nearly as alike as duplicates.

    Args:
        distance: Number of bits that differ, of 128.
        train: Key of the training sample.
        test: Key of the test sample.
        samples: Numbers of both samples in the source.
    """

    distance: int
    train: str
    test: str
    samples: tuple[int, int]


@dataclass(frozen=True, slots=True)
class LeakageFacts:
    """How leakage was prevented, and what was left in.

    Args:
        num_groups: Number of groups, of which each is in one split.
        largest_groups: Sizes of the largest groups with several samples.
        num_equal_images: Number of images with the hash of an earlier image.
        num_image_pairs: Number of pairs of further images that are near-duplicates.
        num_embedding_pairs: Number of pairs that are near-duplicates by their embeddings.
        num_equal_captions: Number of captions with the words of an earlier caption.
        num_caption_pairs: Number of pairs of further captions that are near-duplicates.
        num_generic_captions_in_both: Number of captions in both splits, because they are names of
            classes or belong to many images.
        num_near_misses: Number of pairs across the splits just above the limit of images.
        near_misses: The nearest of them.
        num_rows_cut: Number of rows that were compared with their next neighbours only.
    """

    num_groups: int
    largest_groups: Sequence[int]
    num_equal_images: int
    num_image_pairs: int
    num_embedding_pairs: int
    num_equal_captions: int
    num_caption_pairs: int
    num_generic_captions_in_both: int
    num_near_misses: int
    near_misses: Sequence[NearMiss]
    num_rows_cut: int


@dataclass(frozen=True, slots=True)
class Description:
    """What the set is, and what was added to its samples.

    Args:
        source: Name of the source.
        type: "retrieval" or "classification".
        has_model: Whether embeddings were used.
        num_with_negatives: Number of test samples with hard negative captions.
        num_with_positives: Number of captions with further matching images.
        num_with_cut_positives: Number of captions whose list of further images is not complete.
    """

    source: str
    type: str
    has_model: bool
    num_with_negatives: int
    num_with_positives: int
    num_with_cut_positives: int


@dataclass(frozen=True, slots=True)
class SetFacts:
    """All numbers of a data card.

    Args:
        description: What the set is.
        splits: Numbers of each split by its name.
        stratified_by: What has equal shares in both splits.
        only_in_train: Strata without test samples.
        leakage: How leakage was prevented.
        scripts: Number of captions by script of writing: a hint at languages.
        faults: ``(sample, reason)`` of the first samples that were left out.
        num_faults: Number of samples that were left out.
        split_options: Options of the split.
        duplicate_options: What counts as a duplicate.
        write_options: How the set is written.
        clipkit: Version of clipkit.
        test_samples: Numbers of the test samples in the source, in random order.
    """

    description: Description
    splits: Mapping[str, SplitFacts]
    stratified_by: str
    only_in_train: Sequence[str]
    leakage: LeakageFacts
    scripts: Mapping[str, int]
    faults: Sequence[tuple[str, str]]
    num_faults: int
    split_options: SplitOptions
    duplicate_options: DuplicateOptions
    write_options: WriteOptions
    clipkit: str
    test_samples: Sequence[int]

    def as_json(self) -> dict[str, Any]:
        """Return the numbers in JSON types, without those that only the page needs."""
        content = dataclasses.asdict(self)
        del content["test_samples"]
        del content["write_options"]["overwrite"]
        for pair in content["leakage"]["near_misses"]:
            del pair["samples"]
        return content


def collect_facts(
    pairs: ScannedPairs,
    duplicates: Duplicates,
    split: Split,
    description: Description,
    class_names: Sequence[str],
    fields: SampleFields,
    options: tuple[SplitOptions, DuplicateOptions, WriteOptions],
) -> SetFacts:
    """Collect the numbers of a data card."""
    parts = {"train": ~split.is_test, "test": split.is_test}
    digests = np.asarray(pairs.digests)
    tests = np.nonzero(split.is_test)[0]
    strata = stratum_names(pairs, split, class_names, fields)
    lacking = set(range(len(strata))) - set(split.strata[split.is_test].tolist())
    return SetFacts(
        description=description,
        splits={
            name: split_facts(pairs, chosen, class_names, fields)
            for name, chosen in parts.items()
            if chosen.any()
        },
        stratified_by=split.stratified_by,
        only_in_train=[strata[number] for number in sorted(lacking)],
        leakage=leakage_facts(pairs, duplicates, split),
        scripts=dict(sorted(pairs.scripts.items())),
        faults=pairs.faults[:_LISTED],
        num_faults=len(pairs.faults),
        split_options=options[0],
        duplicate_options=options[1],
        write_options=options[2],
        clipkit=__version__,
        test_samples=tests[np.argsort(digests[tests], kind="stable")].tolist(),
    )


def split_facts(
    pairs: ScannedPairs,
    chosen: Bool[np.ndarray, " N"],
    class_names: Sequence[str],
    fields: SampleFields,
) -> SplitFacts:
    """Collect the numbers of a split."""
    sizes = np.asarray(pairs.sizes).reshape(-1, 2)[chosen]
    labels = np.asarray(pairs.labels)[chosen]
    names = named_classes(pairs, class_names)
    counts = Counter(labels.tolist())
    lengths = pairs.captions.lengths(chosen)
    return SplitFacts(
        num_samples=int(chosen.sum()),
        num_captions=len(lengths),
        num_bytes=int(np.asarray(pairs.num_bytes)[chosen].sum()),
        widths=_spread(sizes[:, 0]),
        heights=_spread(sizes[:, 1]),
        caption_words=_spread(lengths) if len(lengths) else None,
        classes={names[n]: counts[n] for n in sorted(counts) if n != IGNORE_LABEL},
        languages=_values(pairs, fields.language, chosen),
        licenses=_values(pairs, fields.license, chosen),
    )


def leakage_facts(pairs: ScannedPairs, duplicates: Duplicates, split: Split) -> LeakageFacts:
    """Count what was kept together, and what was nearly alike across the splits."""
    images, captions = duplicates.images, duplicates.captions
    misses = near_misses(pairs, duplicates, split)
    return LeakageFacts(
        num_groups=len(np.unique(split.groups)),
        largest_groups=largest_groups(split.groups)[:_LISTED],
        num_equal_images=len(pairs) - len(images.representatives),
        num_image_pairs=len(images.pairs),
        num_embedding_pairs=len(duplicates.embeddings),
        num_equal_captions=len(pairs.captions) - len(captions.representatives),
        num_caption_pairs=len(captions.pairs),
        num_generic_captions_in_both=generic_in_both(pairs, duplicates, split),
        num_near_misses=len(misses),
        near_misses=misses[:_LISTED],
        num_rows_cut=images.num_cut + captions.num_cut,
    )


def near_misses(pairs: ScannedPairs, duplicates: Duplicates, split: Split) -> list[NearMiss]:
    """List pairs of images across the splits just above the limit, the nearest first."""
    images = duplicates.images
    firsts = images.representatives
    first, second = firsts[images.near_misses.first], firsts[images.near_misses.second]
    across = split.is_test[first] != split.is_test[second]
    misses = []
    for a, b, distance in zip(
        first[across].tolist(),
        second[across].tolist(),
        images.near_misses.values[across].tolist(),
        strict=True,
    ):
        train, test = (b, a) if split.is_test[a] else (a, b)
        misses.append(NearMiss(int(distance), pairs.keys[train], pairs.keys[test], (train, test)))
    return sorted(misses, key=lambda miss: (miss.distance, miss.samples))


def named_classes(pairs: ScannedPairs, class_names: Sequence[str]) -> dict[int, str]:
    """Return the name of each class that occurs; its number where it has no name."""
    numbers = sorted(set(pairs.labels))
    shown = shown_names(class_names, len(class_names))
    return {n: shown[n] if 0 <= n < len(shown) else str(n) for n in numbers}


def stratum_names(
    pairs: ScannedPairs, split: Split, class_names: Sequence[str], fields: SampleFields
) -> list[str]:
    """Return the name of each stratum."""
    if split.stratified_by == "none":
        return ["all"]
    if split.stratified_by == "class":
        names = named_classes(pairs, class_names)
        return ["no class" if n == IGNORE_LABEL else names[n] for n in sorted(names)]
    field = fields.language if split.stratified_by == "language" else split.stratified_by
    values = pairs.values[field or ""]
    texts = {number: text or UNKNOWN for text, number in values.texts.items()}
    return [texts[number] for number in np.unique(values.array()).tolist()]


def _values(
    pairs: ScannedPairs, field: str | None, chosen: Bool[np.ndarray, " N"]
) -> dict[str, int]:
    """Count the values of a field, the most frequent first."""
    if field is None:
        return {}
    counts = pairs.values[field].counts(chosen)
    named = {text or UNKNOWN: count for text, count in counts.items()}
    return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))


def _spread(values: np.ndarray) -> Spread:
    ordered = np.sort(values)
    return Spread(int(ordered[0]), int(ordered[len(ordered) // 2]), int(ordered[-1]))
