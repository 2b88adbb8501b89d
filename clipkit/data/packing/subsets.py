"""Select samples of a source: k per class, or one class."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from clipkit.data.packing.sources import Source
from clipkit.data.shards.members import read_label
from clipkit.errors import ConfigError, DataError, SampleError
from clipkit.types import IGNORE_LABEL

_LOG: Final = logging.getLogger(__name__)

LabelOf = Callable[[Mapping[str, bytes]], int]
"""Function that returns the class of a sample from its texts; ``IGNORE_LABEL`` if it has none."""


def class_of(texts: Mapping[str, bytes]) -> int:
    """Return the class that a sample has in the source."""
    return read_label(texts, "cls")


def split_by_class(source: Source, label_of: LabelOf = class_of) -> dict[int, Source]:
    """Group samples by class, in their order; those without a class are left out."""
    return {label: _part(source, numbers) for label, numbers in _by_class(source, label_of).items()}


def sample_per_class(
    source: Source, num_samples: int, seed: int = 0, label_of: LabelOf = class_of
) -> Source:
    """Select ``num_samples`` of each class randomly, in the order of the source.

    The selection in a class depends only on the seed, the class number and its number of samples,
    and a smaller selection is part of a larger one. A class with fewer samples is used completely.
    """
    if num_samples < 1:
        raise ConfigError(f"samples_per_class: expected at least 1, got {num_samples}")
    chosen: list[int] = []
    for label, numbers in _by_class(source, label_of).items():
        order = np.random.default_rng([seed, label]).permutation(len(numbers))
        chosen += [numbers[at] for at in order[:num_samples].tolist()]
        if len(numbers) < num_samples:
            _LOG.warning("class %d has %d samples of %d", label, len(numbers), num_samples)
    return _part(source, sorted(chosen))


def _by_class(source: Source, label_of: LabelOf) -> dict[int, list[int]]:
    """Return the positions of the samples of each class."""
    positions: dict[int, list[int]] = {}
    for position, item in enumerate(source.items):
        try:
            label = label_of(item.texts())
        except SampleError as error:
            raise DataError(f"sample {position + 1}: {error.reason}") from error
        if label != IGNORE_LABEL:
            positions.setdefault(label, []).append(position)
    if not positions:
        raise DataError(
            "the data have no classes: expected a folder for each class, or a table with a column "
            "label or class_name, or answers that are in the list of clipkit.data.Answers"
        )
    return dict(sorted(positions.items()))


def _part(source: Source, positions: Sequence[int]) -> Source:
    return replace(source, items=[source.items[position] for position in positions])
