"""Filters by a function of the user."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters import PredicateFilter
from clipkit.errors import ConfigError, DataError
from tests.helpers.given_collections import at_angles, collection_of

RULES = """
import numpy as np
SEEN = []

def keep(row):
    SEEN.append(row)
    return row["row"] != 1

def wide(row):
    return np.bool_(row["width_pixels"] > 5)

def scored(row):
    return row["score"] > 0.5

def number(row):
    return 1

NOT_A_FUNCTION = 3
"""


@pytest.fixture
def rules(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(RULES)
    (tmp_path / "broken_rules.py").write_text("import nowhere_to_be_found")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield
    assert sys.path == before
    for name in ("my_rules", "broken_rules"):
        sys.modules.pop(name, None)


@pytest.fixture
def candidates(tmp_path):
    collection = collection_of(
        tmp_path / "c", [2, 2], texts=[at_angles(each) for each in ([0], [90], [], [10, 20])],
        width_pixels=[5, 6, None, 7], author=["Ann", "</script>", None, "Bob"],
    )  # fmt: skip
    return Candidates(collection, np.arange(1, 4))


def test_a_function_decides(rules, candidates):
    decision = PredicateFilter("my_rules:keep").decide(candidates)
    assert decision.removed.tolist() == [True, False, False]
    seen = sys.modules["my_rules"].SEEN
    assert [each["row"] for each in seen] == [1, 2, 3]
    assert [each["key"] for each in seen] == ["1", "2", "3"]
    assert [each["author"] for each in seen] == ["</script>", None, "Bob"]
    assert seen[2]["captions"] == ["caption 0", "caption 1"]
    assert math.isnan(seen[1]["score"])
    assert seen[2]["score"] == pytest.approx(0.962, abs=2e-3)
    assert PredicateFilter("my_rules:scored").decide(candidates).removed.tolist() == [
        True, True, False,
    ]  # fmt: skip


def test_errors_of_the_function_name_the_row(rules, candidates):
    with pytest.raises(DataError, match=r"my_rules:wide: row 2 \(key '2'\): TypeError: '>' not"):
        PredicateFilter("my_rules:wide").decide(candidates)
    with pytest.raises(DataError, match=r"row 1 \(key '1'\): expected True or False, got int"):
        PredicateFilter("my_rules:number").decide(candidates)


@pytest.mark.parametrize(("function", "message"), [
    ("nowhere_at_all:keep", "cannot import nowhere_at_all: No module"),
    ("broken_rules:keep", "cannot import broken_rules: No module named 'nowhere_to_be_found'"),
    ("my_rules:kept", "my_rules has no function 'kept'; did you mean 'keep'"),
    ("my_rules:NOT_A_FUNCTION", "my_rules has no function 'NOT_A_FUNCTION'"),
    ("..:keep", "cannot import ..:"),
])  # fmt: skip
def test_functions_that_cannot_be_imported(rules, candidates, function, message):
    with pytest.raises(ConfigError, match=message):
        PredicateFilter(function).decide(candidates)


@pytest.mark.parametrize("function", ["", "rules", ":keep", "rules:", "rules:a b", "rules:a:b"])
def test_the_form_is_checked(function):
    with pytest.raises(ConfigError, match="predicate: expected MODULE:FUNCTION"):
        PredicateFilter(function)


def test_without_texts_there_is_no_score(rules, tmp_path):
    candidates = Candidates(collection_of(tmp_path / "d", [1]))
    with pytest.raises(DataError, match=r"row 0 .*KeyError: 'score'"):
        PredicateFilter("my_rules:scored").decide(candidates)
