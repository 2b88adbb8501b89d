"""Mapping of the class numbers of data to those of a model, by the names of the classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, final

import torch
from jaxtyping import Int64
from torch import Tensor

from clipkit.class_names import UNKNOWN, listed_names, map_classes, shown_names
from clipkit.errors import DataError
from clipkit.models.heads.label_head import LabelHead

_LOG: Final = logging.getLogger(__name__)
_SHOWN: Final = 8


@final
class ClassMatch:
    """Map from the class numbers of data to those of a classifier.

    If only one of them has names, numbers are kept, and a warning is logged.

    Args:
        names: Names of the data's classes, in the order of their numbers.
        classifier_names: Names of the classifier's classes.
        data_name: Name of the data in messages.
        classifier: Name of the classifier in messages.

    Examples:
        >>> ClassMatch(["a", "c"], ["a", "b", "c"], "val", "the model").labels(torch.tensor([1]))
        tensor([2])
    """

    def __init__(
        self,
        names: Sequence[str],
        classifier_names: Sequence[str],
        data_name: str,
        classifier: str = "the model",
    ) -> None:
        self._names, self._classifier_names = tuple(names), tuple(classifier_names)
        self._data_name, self._classifier = data_name, classifier
        self._has_names = any(names) and any(classifier_names)
        self._numbers = map_classes(names, classifier_names) if self._has_names else []
        self._is_same = all(to in (n, UNKNOWN) for n, to in enumerate(self._numbers))
        if not self._has_names and (any(names) or any(classifier_names)):
            nameless, named = data_name, classifier
            if any(names):
                nameless, named = named, nameless
            _LOG.warning(
                "%s: no class names; its class numbers are used as those of %s", nameless, named
            )

    def number(self, label: int) -> int:
        """Return the classifier's number of a class; ``UNKNOWN`` if it does not know the class."""
        if label < 0 or not self._has_names:
            return label
        if label < len(self._numbers):
            return self._numbers[label]
        return label if self._is_same else UNKNOWN

    def labels(self, labels: Int64[Tensor, " N"]) -> Int64[Tensor, " N"]:
        """Return the classifier's number of the class of every sample."""
        numbers = {label: self.number(label) for label in set(labels.tolist())}
        if unknown := sorted(n for n, to in numbers.items() if to == UNKNOWN and n >= 0):
            self.refuse(unknown)
        return torch.tensor([numbers[label] for label in labels.tolist()]).to(labels)

    def refuse(self, unknown: Sequence[int]) -> None:
        """Refuse classes that the classifier does not know."""
        names = shown_names(self._names, max(len(self._names), 1))
        listed = [repr(names[n]) if n < len(names) else f"class {n}" for n in unknown[:_SHOWN]]
        raise DataError(
            f"{self._data_name}: {self._classifier} does not know {len(unknown)} of the classes "
            f"that occur: {', '.join(listed)}{', ...' if len(unknown) > _SHOWN else ''}; it knows "
            f"{listed_names(self._classifier_names)}; classes are matched by name: rename them in "
            f"the data, or remove those samples"
        )


def match_head(names: Sequence[str], head: LabelHead, data_name: str) -> ClassMatch:
    """Match the classes of data with those of a label head."""
    return ClassMatch(names, head.class_names, data_name, "the model's label head")


def head_names(names: Sequence[str], head: LabelHead) -> tuple[str, ...]:
    """Return the names of a label head's classes: its own ones, else those of the data."""
    return shown_names(head.class_names if any(head.class_names) else names, head.num_classes)
