"""The outcome of each unit of a measurement, and the result of an evaluator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from clipkit.errors import MetricError


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a model did with each unit (an image, or a query) of a measurement.

    Every metric of the measurement follows from it, also with units drawn again or weighted:
    see ``outcome_metrics``.

    Args:
        kind: How metrics follow from the columns: a key of ``OUTCOME_KINDS``.
        keys: Name of each of the N units; distinct.
        groups: Name of the group of each unit. Units of one group depend on one another, such as
            the captions of an image or the images of a patient: intervals draw complete groups.
        columns: Values of the units by name; the first axis of each has N entries.
        prefix: Text before the name of each metric, such as "image_to_text/".
        class_names: Names of the C classes, in the order of their numbers; empty if the measurement
            has no classes.

    Raises:
        MetricError: If the lengths differ or a key occurs twice.

    Examples:
        >>> outcomes = Outcomes("means", ("a", "b"), ("a", "b"), {"acc": torch.tensor([1.0, 0.0])})
        >>> len(outcomes)
        2
    """

    kind: str
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    columns: Mapping[str, Tensor]
    prefix: str = ""
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = {name: len(values) for name, values in self.columns.items()}
        if {len(self.groups), *sizes.values()} - {len(self.keys)}:
            raise MetricError(
                f"outcomes: expected {len(self.keys)} groups and values, one per key; "
                f"got {len(self.groups)} groups and {sizes}"
            )
        if len(set(self.keys)) != len(self.keys):
            raise MetricError("outcomes: expected distinct keys, got one of them twice")

    def __len__(self) -> int:
        return len(self.keys)


def distinct_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the keys, with a number after each further occurrence of the same one.

    Examples:
        >>> distinct_keys(["a", "b", "a"])
        ('a', 'b', 'a#2')
    """
    seen: Counter[str] = Counter()
    distinct = []
    taken = set(keys)
    for key in keys:
        seen[key] += 1
        name = key
        while seen[key] > 1 and name in taken:
            name = f"{key}#{seen[key]}"
            seen[key] += name in taken
        taken.add(name)
        distinct.append(name)
    return tuple(distinct)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of an evaluator: its metrics, and the outcomes that they follow from.

    Args:
        metrics: Value of each metric by its key.
        outcomes: Outcomes of each part of the measurement, such as the two directions of retrieval;
            empty if the evaluator keeps none.
        details: Values that are no metrics, such as a fitted threshold.
    """

    metrics: dict[str, float]
    outcomes: tuple[Outcomes, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)
