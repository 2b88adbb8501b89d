"""Every term of the objective against its oracle, and what else a term has to keep."""

from __future__ import annotations

import inspect

import pytest

from clipkit import losses
from tests.helpers.loss_cases import CASES
from tests.helpers.loss_tester import LossTester


@pytest.mark.parametrize("name", CASES)
class TestTerms(LossTester):
    pass


def test_every_term_has_an_oracle():
    terms = {
        name
        for name in losses.__all__
        if inspect.isclass(term := getattr(losses, name))
        and issubclass(term, losses.LossTerm)
        and not inspect.isabstract(term)
        and not term.reads_fused  # tests/losses/joint/test_fused_terms.py
    }
    tested = {type(case.make(None)).__name__ for case in CASES.values()}
    assert terms == tested
