"""VQA accuracy against the definition over all sets that leave one person out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from clipkit.errors import MetricError
from clipkit.metrics import vqa_accuracy


@pytest.mark.parametrize("size", [4, 5, 10])
def test_is_the_mean_over_the_sets_without_one_person(size):
    for equal in range(size + 1):
        answers = ["a"] * equal + ["b"] * (size - equal)
        sets = [answers[:i] + answers[i + 1 :] for i in range(size)]
        expected = np.mean([min(1, one.count("a") / 3) for one in sets])
        assert vqa_accuracy("a", answers) == pytest.approx(expected)
    assert vqa_accuracy("c", answers) == 0


@pytest.mark.parametrize("size", [1, 2, 3])
def test_of_few_people_is_their_share(size):
    for answers in product("ab", repeat=size):
        assert vqa_accuracy("a", answers) == pytest.approx(answers.count("a") / size)


def test_needs_an_answer():
    with pytest.raises(MetricError, match="expected at least one, got none"):
        vqa_accuracy("a", [])
