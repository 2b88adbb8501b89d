"""Agreement of an answer with those of several people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clipkit.errors import MetricError

_ENOUGH: Final = 3
"""Number of equal answers that make an answer completely correct."""


def vqa_accuracy(predicted: str, answers: Sequence[str]) -> float:
    """Compute the VQA accuracy of an answer (Antol et al. 2015, arXiv:1505.00468, section 3).

    It is min(1, n / 3), where n people gave this answer, as the mean over the sets that leave out
    one of the people. With fewer than four answers, of which such a set cannot have three, it is
    the share of people who gave this answer. Texts are compared as they are.

    Args:
        predicted: Answer of a model.
        answers: Answer of each person, at least one.

    Raises:
        MetricError: If there is no answer.

    Examples:
        >>> vqa_accuracy("red", ["red", "red"] + 8 * ["blue"])
        0.6
    """
    size = len(answers)
    if not size:
        raise MetricError("answers: expected at least one, got none")
    equal = sum(answer == predicted for answer in answers)
    if size <= _ENOUGH:
        return equal / size
    with_one_less = equal * min(equal - 1, _ENOUGH)
    with_all = (size - equal) * min(equal, _ENOUGH)
    return (with_one_less + with_all) / (_ENOUGH * size)
