"""Which classes apply to the images of a data set where an image may have several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Int64
from torch import Tensor

from clipkit.class_names import UNKNOWN
from clipkit.errors import DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.evaluators.class_match import ClassMatch
from clipkit.types import IGNORE_LABEL


@dataclass(frozen=True)
class ClassFields:
    """Where the classes of a sample are.

    Args:
        positives: Field of a JSON member that lists the classes of a sample, such as "json:labels",
            or a ``.npy`` member with a vector of zeros and ones ("npy").
        negatives: Field that lists the classes that do not apply, if the others are unknown; None
            if no other class applies.
    """

    positives: str = "json:labels"
    negatives: str | None = None

    @classmethod
    def of(cls, data: EvaluationDataset, positives: str | None, negatives: str | None) -> Self:
        """Return the fields of a data set: "npy" if it has CLIP_benchmark's type "multilabel"."""
        default = "npy" if data.task == "zero-shot-multi-label" else "json:labels"
        return cls(positives or default, negatives)


def multi_label_targets(
    data: EvaluationDataset,
    ids: Sequence[int],
    fields: ClassFields,
    num_classes: int,
    match: ClassMatch,
) -> Int64[Tensor, "B C"]:
    """Read which classes apply to some samples.

    Args:
        data: The data set.
        ids: Positions of the samples.
        fields: Where their classes are.
        num_classes: Number of the classifier's classes.
        match: Map from the class numbers of the data to those of the classifier.

    Returns:
        1 where a class applies, 0 where it does not, ``IGNORE_LABEL`` where it is unknown.

    Raises:
        DataError: If a sample has a class that the classifier does not know.
    """
    targets = torch.empty(len(ids), num_classes, dtype=torch.int64)
    for row, sample_id in enumerate(ids):
        positives = _classes(data, sample_id, fields.positives, num_classes, match)
        is_complete = positives is not None and fields.negatives is None
        targets[row] = 0 if is_complete else IGNORE_LABEL
        if fields.negatives is not None:
            negatives = _classes(data, sample_id, fields.negatives, num_classes, match)
            targets[row, negatives or []] = 0
        targets[row, positives or []] = 1
    return targets


def _classes(
    data: EvaluationDataset, sample_id: int, field: str, num_classes: int, match: ClassMatch
) -> list[int] | None:
    """Return the classes that a field lists, as numbers of the classifier."""
    numbers = data.classes(sample_id, field)
    if numbers is None:
        return None
    classes = [match.number(number) for number in numbers]
    if UNKNOWN in classes:
        match.refuse([n for n, to in zip(numbers, classes, strict=True) if to == UNKNOWN])
    if classes and max(classes) >= num_classes:
        raise DataError(
            f"{data.name}: sample {sample_id} has class {max(classes)}; expected 0 to "
            f"{num_classes - 1}"
        )
    return classes
