"""Select samples of a source: k per class, or one class."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

import numpy as np

from clipkit.data.packing.items import Item
from clipkit.data.packing.sources import Source
from clipkit.data.shards.members import read_label
from clipkit.errors import ConfigError, DataError
from clipkit.types import IGNORE_LABEL

_LOG: Final = logging.getLogger(__name__)


def split_by_class(source: Source) -> dict[int, Source]:
    """Group samples by class, in their order; those without a class are left out."""
    items: dict[int, list[Item]] = {}
    for item in source.items:
        label = read_label(item.texts(), "cls")
        if label != IGNORE_LABEL:
            items.setdefault(label, []).append(item)
    if not items:
        raise DataError(
            "the data have no classes: expected a folder for each class, or a table with a column "
            "label or class_name"
        )
    return {label: replace(source, items=items[label]) for label in sorted(items)}


def sample_per_class(source: Source, num_samples: int, seed: int = 0) -> Source:
    """Select ``num_samples`` of each class randomly, in the order of the source.

    The selection in a class depends only on the seed, the class number and its number of samples,
    and a smaller selection is part of a larger one. A class with fewer samples is used completely.
    """
    if num_samples < 1:
        raise ConfigError(f"samples_per_class: expected at least 1, got {num_samples}")
    chosen: set[int] = set()
    for label, part in split_by_class(source).items():
        order = np.random.default_rng([seed, label]).permutation(len(part.items))
        chosen |= {id(part.items[number]) for number in order[:num_samples].tolist()}
        if len(part.items) < num_samples:
            _LOG.warning("class %d has %d samples of %d", label, len(part.items), num_samples)
    return replace(source, items=[item for item in source.items if id(item) in chosen])
