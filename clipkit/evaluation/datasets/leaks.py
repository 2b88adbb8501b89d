"""Images and groups that occur in more than one split of a data set."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Final

from clipkit.distributed.agreement import same_errors
from clipkit.distributed.collectives import exchange_device
from clipkit.errors import DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import ids_of_rank, texts_in_data_order
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.memory import recall

_LOG: Final = logging.getLogger(__name__)
_SHOWN: Final = 5
_DIGITS: Final = 32


def image_digests(data: EvaluationDataset, options: EmbedOptions) -> tuple[str, ...]:
    """Return a hash of the image file of each sample; each rank reads its share of the files.

    Args:
        data: The samples.
        options: The limit on their number.
    """
    key = "digests", data.identity, options.limit
    return recall(key, data, lambda: _image_digests(data, options))


def _image_digests(data: EvaluationDataset, options: EmbedOptions) -> tuple[str, ...]:
    with same_errors():
        images = (data.sample(number).image for number in ids_of_rank(data, options))
        digests = [hashlib.sha256(image).hexdigest()[:_DIGITS] for image in images]
    return texts_in_data_order(digests, exchange_device())


def groups_of(data: EvaluationDataset, field: str, keys: Sequence[str]) -> tuple[str, ...]:
    """Return the group of each of the first samples.

    Args:
        data: The samples.
        field: Where the group is, such as "json:patient_id".
        keys: Name of each sample, for messages; their number is the number of samples.

    Raises:
        DataError: If a sample has no group.
    """
    with same_errors():
        groups = [data.value(number, field) for number in range(len(keys))]
    missing = [key for key, group in zip(keys, groups, strict=True) if not group]
    if missing:
        raise DataError(
            f"{data.name}: {len(missing)} of {len(keys)} samples have no group in {field} (first: "
            f"{missing[0]}); expected one in every sample"
        )
    return tuple(group or "" for group in groups)


def refuse_overlap(
    name: str,
    what: str,
    first: tuple[str, Sequence[str], Sequence[str]],
    second: tuple[str, Sequence[str], Sequence[str]],
    is_allowed: bool = False,
) -> None:
    """Refuse values that occur in two splits.

    Args:
        name: Name of the data in messages.
        what: What the values are, in the plural, such as "images".
        first: Name of a split, and value and key of each of its samples.
        second: The same of the other split.
        is_allowed: Whether to log a warning instead.

    Raises:
        DataError: If there are any; the message names the keys.

    Examples:
        >>> refuse_overlap("cats", "images", ("train", ["x"], ["a"]), ("test", ["y"], ["b"]))
    """
    (split, values, keys), (other_split, other_values, other_keys) = first, second
    where = dict(zip(values, keys, strict=True))
    shared = [
        (where[value], key)
        for value, key in zip(other_values, other_keys, strict=True)
        if value in where
    ]
    if not shared:
        return
    count = len({value for value in other_values if value in where})
    pairs = ", ".join(f"{key} of {other_split} = {own} of {split}" for own, key in shared[:_SHOWN])
    message = (
        f"{name}: {count} {what} are in both splits {split} and {other_split}, in {len(shared)} "
        f"samples of {other_split}: {pairs}{', ...' if len(shared) > _SHOWN else ''}"
    )
    if not is_allowed:
        raise DataError(
            f"{message}; what was fitted on them is not tested by them: remove them from one of "
            f"the splits; probes measure in spite of it with --allow-overlap (allow_overlap=True)"
        )
    _LOG.warning("%s", message)


def refuse_leaks(
    calibration: tuple[EvaluationDataset, Sequence[str]],
    test: tuple[EvaluationDataset, Sequence[str]],
    options: EmbedOptions,
    hold_out_by: str | None = None,
) -> None:
    """Refuse a calibration split with image files or groups of the test split.

    Args:
        calibration: Data that a temperature or threshold is fitted on, and the key of each sample.
        test: Data that are measured, and the key of each sample.
        options: The limit on the number of samples.
        hold_out_by: Field with the group of a sample, such as "json:patient_id"; None for none.

    Raises:
        DataError: If there are any; the message names the keys.
    """
    parts = (("calibration", *calibration), ("test", *test))
    first, second = ((role, image_digests(data, options), keys) for role, data, keys in parts)
    refuse_overlap(test[0].name, test[0].modality.plural, first, second)
    if hold_out_by is not None:
        first, second = (
            (role, groups_of(data, hold_out_by, keys), keys) for role, data, keys in parts
        )
        refuse_overlap(test[0].name, f"groups of {hold_out_by}", first, second)
