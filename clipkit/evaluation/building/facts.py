"""The numbers of a data card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clipkit.evaluation.building.options import DuplicateOptions, SplitOptions, WriteOptions

UNKNOWN: Final = "unknown"
"""Name of a language or licence that a sample lacks."""


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
        num_without_field: Number of samples without a value, by the fields that keep samples
            together.
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
    num_without_field: Mapping[str, int]


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
