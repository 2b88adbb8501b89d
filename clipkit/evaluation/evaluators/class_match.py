"""The class numbers of some data as those of a model, matched by the names of the classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, final

import torch
from jaxtyping import Int64
from torch import Tensor

from clipkit.class_names import UNKNOWN, map_classes, shown_names
from clipkit.errors import DataError
from clipkit.models.heads.label_head import LabelHead

_LOG: Final = logging.getLogger(__name__)
_SHOWN: Final = 8


@final
class ClassMatch:
    """Turns class numbers of data into those of a classifier.

    Where only one of them has names, numbers are taken as they are, which is logged.

    Args:
        given: Names of the data's classes, in the order of their numbers.
        wanted: Names of the classifier's classes.
        where: What messages call the data.
        who: What messages call the classifier.

    Examples:
        >>> ClassMatch(["a", "c"], ["a", "b", "c"], "val", "the model").labels(torch.tensor([1]))
        tensor([2])
    """

    def __init__(
        self, given: Sequence[str], wanted: Sequence[str], where: str, who: str = "the model"
    ) -> None:
        self._given, self._wanted = tuple(given), tuple(wanted)
        self._where, self._who = where, who
        self._has_names = any(given) and any(wanted)
        self._found = map_classes(given, wanted) if self._has_names else []
        self._is_same = all(to in (n, UNKNOWN) for n, to in enumerate(self._found))
        if not self._has_names and (any(given) or any(wanted)):
            nameless, named = (where, who) if any(wanted) else (who, where)
            _LOG.warning(
                "%s: no names of classes; its class numbers are taken for those of %s",
                nameless,
                named,
            )

    def number(self, label: int) -> int:
        """The classifier's number of a class; ``UNKNOWN`` where it does not know the class.

        Args:
            label: A number of the data; negative ones stand for no class and are kept.
        """
        if label < 0 or not self._has_names:
            return label
        if label < len(self._found):
            return self._found[label]
        return label if self._is_same else UNKNOWN

    def labels(self, labels: Int64[Tensor, " N"]) -> Int64[Tensor, " N"]:
        """The classifier's number of every sample's class.

        Args:
            labels: Numbers of the data.

        Raises:
            DataError: If the classifier does not know a class that occurs.
        """
        numbers = {label: self.number(label) for label in set(labels.tolist())}
        if unknown := sorted(n for n, to in numbers.items() if to == UNKNOWN and n >= 0):
            self.refuse(unknown)
        return torch.tensor(
            [numbers[label] for label in labels.tolist()], dtype=labels.dtype, device=labels.device
        )

    def refuse(self, unknown: Sequence[int]) -> None:
        """Refuse classes that the classifier does not know.

        Args:
            unknown: Their numbers in the data.

        Raises:
            DataError: Always.
        """
        names = shown_names(self._given, max(len(self._given), 1))
        told = [repr(names[n]) if n < len(names) else f"class {n}" for n in unknown[:_SHOWN]]
        known = [name for name in self._wanted if name]
        raise DataError(
            f"{self._where}: {self._who} does not know {len(unknown)} of the classes that occur: "
            f"{', '.join(told)}{', ...' if len(unknown) > _SHOWN else ''}; it knows "
            f"{', '.join(known[:_SHOWN])}{', ...' if len(known) > _SHOWN else ''}; classes are "
            f"matched by name: rename them in the data, or leave those samples out"
        )


def match_head(given: Sequence[str], head: LabelHead, where: str) -> ClassMatch:
    """Match the classes of data with those of a label head.

    Args:
        given: Names of the data's classes.
        head: The head.
        where: What messages call the data.
    """
    return ClassMatch(given, head.class_names, where, "the model's label head")


def head_names(given: Sequence[str], head: LabelHead) -> tuple[str, ...]:
    """What to call the classes of a label head: by its own names, else by those of the data.

    Args:
        given: Names of the data's classes.
        head: The head.
    """
    return shown_names(head.class_names if any(head.class_names) else given, head.num_classes)
