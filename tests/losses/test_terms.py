"""Every term of the objective against its oracle, and what else a term has to keep."""

from __future__ import annotations

import pytest

from tests.helpers.loss_cases import CASES, term_names
from tests.helpers.loss_tester import LossTester


@pytest.mark.parametrize("name", CASES)
class TestTerms(LossTester):
    pass


def test_every_term_has_an_oracle():
    """Those over a fusion have theirs in tests/losses/joint/test_fused_terms.py."""
    tested = {type(case.make(None)).__name__ for case in CASES.values()}
    assert tested == term_names(over_fusion=False)
