"""Collect the numbers of a data card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

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
from clipkit.evaluation.building.facts import (
    UNKNOWN,
    Description,
    LeakageFacts,
    NearMiss,
    SetFacts,
    SplitFacts,
    Spread,
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
        leakage=leakage_facts(pairs, duplicates, split, options[0].groups),
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


def leakage_facts(
    pairs: ScannedPairs, duplicates: Duplicates, split: Split, group_fields: Sequence[str]
) -> LeakageFacts:
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
        num_without_field={
            name: int((pairs.values[name].array() < 0).sum()) for name in group_fields
        },
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
