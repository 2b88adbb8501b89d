"""Answers of several people: their forms, the draw of one of them, and the most frequent."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from clipkit.data.samples.answers import (
    Answers,
    majority_answer,
    most_frequent_answers,
    read_answers,
)
from clipkit.data.samples.fields import SampleContext
from clipkit.errors import ConfigError, SampleError
from clipkit.types import IGNORE_LABEL, Sample

FORMS = {
    "text": ("Light  Blue", ["light blue"]),
    "semicolons": ("two; 2;;Two ", ["two", "2", "two"]),
    "list": (["a", "B"], ["a", "b"]),
    "json in a cell": ('["a", "B; c"]', ["a", "b; c"]),
    "annotations of VQA": ([{"answer": "yes", "answer_id": 1}, {"answer": "no"}], ["yes", "no"]),
    "no list": ("[a; b", ["[a; b"]),
    "nested too deeply": ("[" * 99_999, ["[" * 99_999]),
    "numbers": ([2, 2.0, 2.5], ["2", "2", "2.5"]),
    "number": (3, ["3"]),
    "nothing": (None, []),
    "empty": ("", []),
    "gaps of a table": ([float("nan"), "a"], ["a"]),
}


def members(value, name="answers"):
    return {"json": json.dumps({name: value}).encode()}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_answers(form):
    value, expected = FORMS[form]
    assert list(read_answers(members(value))) == expected
    assert list(read_answers(members(value, "answer"))) == expected
    assert list(read_answers(members(value, "other"), "json:other")) == expected


@pytest.mark.parametrize("value", [[["a"]], {"a": 1}, [True], [{"text": "a"}], [None]])
def test_other_values_are_refused(value):
    with pytest.raises(SampleError, match="expected an answer, or several as a list or a;b"):
        read_answers(members(value))


def labels_of(field, value, count=1):
    sample = Sample("k", torch.zeros(3, 1, 1, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        context = SampleContext(
            members(value), rng, rng, b"", lambda _: [], lambda *_: sample.image
        )
        found.append(field.add(sample, context).label)
    return found


def test_one_of_the_known_answers_is_drawn_by_its_share():
    field = Answers(["no", "Yes"])
    counts = Counter(labels_of(field, ["yes", "yes", "yes", "no", "unknown"], 2000))
    assert counts.keys() == {0, 1}
    assert counts[1] / 2000 == pytest.approx(0.75, abs=0.03)
    value = ["unknown", "unknown", "no"]
    assert labels_of(field, value) == [0]
    assert labels_of(field.for_evaluation(), value) == [IGNORE_LABEL]
    assert labels_of(field.for_evaluation(), ["no", "yes", "yes"], 3) == [1, 1, 1]
    assert labels_of(field, None) == [IGNORE_LABEL]


def test_most_frequent_answers():
    assert majority_answer(["b", "a", "a", "b"]) == "b"
    given = [["no"], ["yes", "yes", "no"], ["b"], [], ["yes"], ["a"]]
    assert most_frequent_answers(given, 3) == ["yes", "a", "b"]


def test_lists_of_answers_that_leave_no_choice_are_refused(tmp_path):
    (tmp_path / "answers.txt").write_text("yes\nno\n")
    assert Answers(str(tmp_path / "answers.txt")).class_names == ("yes", "no")
    for names, message in (
        (["yes"], "at least two different answers, got 1"),
        ([], "got 0"),
        (["Yes", "yes "], "got 'yes' twice"),
        (["yes", " "], "got an empty one"),
        (str(tmp_path / "absent.txt"), "cannot read"),
    ):
        with pytest.raises(ConfigError, match=message):
            Answers(names)
