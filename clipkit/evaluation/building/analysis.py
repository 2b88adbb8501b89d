"""Decide which samples belong together, and which of them become test data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64

from clipkit.errors import ConfigError
from clipkit.evaluation.building.duplicates.caption_duplicates import (
    CaptionWords,
    DuplicateCaptions,
    duplicate_captions,
)
from clipkit.evaluation.building.duplicates.groups import Groups
from clipkit.evaluation.building.duplicates.image_duplicates import (
    DuplicateImages,
    duplicate_images,
)
from clipkit.evaluation.building.duplicates.pair_search import NearPairs
from clipkit.evaluation.building.options import (
    AUTO,
    CLASS,
    LANGUAGE,
    NONE,
    DuplicateOptions,
    SampleFields,
    SplitOptions,
)
from clipkit.evaluation.building.scan import ScannedPairs
from clipkit.evaluation.building.splits import split_samples
from clipkit.types import IGNORE_LABEL

GENERIC_IMAGES: Final = 10
"""A caption of more images is generic ("image", "a photo of a dog"): it does not join them."""


@dataclass(slots=True)
class Duplicates:
    """Everything that is alike.

    Args:
        images: Images by perceptual hash.
        captions: Captions by their words.
        joining: Whether each set of equal captions joins its samples: it is not generic.
        embeddings: Pairs of samples by embeddings of their images.
    """

    images: DuplicateImages
    captions: DuplicateCaptions
    joining: Bool[np.ndarray, " distinct"]
    embeddings: NearPairs


@dataclass(slots=True)
class Split:
    """The division of samples into training and test data.

    Args:
        groups: Number of the group of each sample; a group is never separated.
        strata: Number of the stratum of each sample.
        stratified_by: What the strata are: "class", "language", a field, or "none".
        is_test: Whether each sample belongs to the test split.
    """

    groups: Int64[np.ndarray, " N"]
    strata: Int64[np.ndarray, " N"]
    stratified_by: str
    is_test: Bool[np.ndarray, " N"]


def no_pairs() -> NearPairs:
    """Return an empty list of pairs."""
    empty = np.empty(0, np.int64)
    return NearPairs(empty, empty, np.empty(0))


def find_duplicates(
    pairs: ScannedPairs,
    options: DuplicateOptions,
    embeddings: NearPairs,
    class_names: tuple[str, ...],
) -> Duplicates:
    """Find near-duplicates of images and captions."""
    num_samples = len(pairs)
    if options.image_distance is None:
        each = np.arange(num_samples)
        images = DuplicateImages(each, no_pairs(), no_pairs(), each, 0)
    else:
        images = duplicate_images(pairs.signature_rows(), options.image_distance)
    # Equal captions are found also if they do not join samples: they are no negatives.
    captions = duplicate_captions(pairs.captions, options.caption_similarity or 1.0)
    if options.caption_similarity is None:
        joining = np.zeros(len(captions.representatives), dtype=bool)
    else:
        joining = ~generic_captions(pairs.captions, captions, class_names)
    return Duplicates(images, captions, joining, embeddings)


def generic_captions(
    words: CaptionWords, captions: DuplicateCaptions, class_names: tuple[str, ...]
) -> Bool[np.ndarray, " distinct"]:
    """Return which sets of captions do not identify an image: names of classes, frequent ones."""
    owners = np.asarray(words.owners)
    holders = np.unique(np.stack([captions.same, owners], 1), axis=0)[:, 0]
    counts = np.bincount(holders, minlength=len(captions.representatives))
    of_classes = names_of_classes(words, class_names)[captions.representatives]
    generic: Bool[np.ndarray, " distinct"] = (counts > GENERIC_IMAGES) | of_classes
    return generic


def names_of_classes(
    words: CaptionWords, class_names: tuple[str, ...]
) -> Bool[np.ndarray, " texts"]:
    """Return which captions are the name of a class, without case and punctuation."""
    of_classes = CaptionWords()
    for name in filter(None, class_names):
        of_classes.append(0, name)
    return np.isin(words.sequences(), of_classes.sequences())


def group_samples(
    pairs: ScannedPairs, duplicates: Duplicates, fields: tuple[str, ...]
) -> Int64[np.ndarray, " N"]:
    """Return the group of each sample: duplicates, and equal values of fields, stay together."""
    groups = Groups(len(pairs))
    images, captions = duplicates.images, duplicates.captions
    groups.join_equal(images.same)
    groups.join(
        images.representatives[images.pairs.first], images.representatives[images.pairs.second]
    )
    groups.join(duplicates.embeddings.first, duplicates.embeddings.second)
    if len(pairs.captions):
        owners = np.asarray(pairs.captions.owners)
        firsts = owners[captions.representatives]
        joined = np.nonzero(duplicates.joining[captions.same])[0]
        groups.join(owners[joined], firsts[captions.same[joined]])
        near = duplicates.joining[captions.pairs.first] & duplicates.joining[captions.pairs.second]
        groups.join(firsts[captions.pairs.first[near]], firsts[captions.pairs.second[near]])
    for name in fields:
        groups.join_equal(pairs.values[name].array())
    return groups.numbers()


def split_pairs(
    pairs: ScannedPairs,
    groups: Int64[np.ndarray, " N"],
    fields: SampleFields,
    options: SplitOptions,
) -> Split:
    """Divide the samples."""
    by = stratified_by(pairs, fields, options.stratify)
    if by == NONE:
        values = np.zeros(len(pairs), np.int64)
    elif by == CLASS:
        values = np.asarray(pairs.labels)
    else:
        values = pairs.values[field_of(by, fields)].array()
    strata = np.unique(values, return_inverse=True)[1].reshape(-1)
    digests = np.asarray(pairs.digests)
    is_test = split_samples(groups, strata, digests, options.test_size, options.seed)
    return Split(groups, strata, by, is_test)


def stratified_by(pairs: ScannedPairs, fields: SampleFields, wanted: str) -> str:
    """Resolve "auto", and check that there are values to stratify by."""
    has_classes = any(label != IGNORE_LABEL for label in pairs.labels)
    if wanted == AUTO:
        return CLASS if has_classes else LANGUAGE if fields.language else NONE
    if wanted == CLASS and not has_classes:
        raise ConfigError(
            f"stratify: 'class' expects samples with a class, and {fields.label} has none; name "
            f"the field of the class (label_field), or another field, such as json:category"
        )
    if wanted == LANGUAGE and fields.language is None:
        raise ConfigError("stratify: 'language' expects the field of the language, such as "
                          "json:language, as language_field")  # fmt: skip
    return wanted


def field_of(name: str, fields: SampleFields) -> str:
    """Return the member or field that a word of the option ``stratify`` stands for."""
    return (fields.language or "") if name == LANGUAGE else name


def generic_in_both(pairs: ScannedPairs, duplicates: Duplicates, split: Split) -> int:
    """Count the generic captions that occur in both splits."""
    if not len(pairs.captions) or split.is_test.all():
        return 0
    owners = np.asarray(pairs.captions.owners)
    in_test = split.is_test[owners]
    same = duplicates.captions.same
    in_both = np.intersect1d(same[in_test], same[~in_test])
    return int((~duplicates.joining[in_both]).sum())


def largest_groups(groups: Int64[np.ndarray, " N"]) -> list[int]:
    """Return the sizes of all groups with several samples, the largest first."""
    sizes = Counter(groups.tolist()).values()
    return sorted((size for size in sizes if size > 1), reverse=True)
