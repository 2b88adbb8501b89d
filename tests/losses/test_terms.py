"""Every term of the objective against its oracle, and what else a term has to keep."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from clipkit import losses
from tests.helpers.loss_cases import CASES
from tests.helpers.loss_tester import LossTester

OF_A_FUSION = {
    "CandidateLoss": "test_candidates.py",
    "FusedLabelLoss": "test_fused_labels.py",
    "FusedStateDistillationLoss": "test_distillation.py",
    "MaskedWordDistillationLoss": "test_distillation.py",
    "MaskedWordLoss": "test_joint_terms.py",
    "MatchingDistillationLoss": "test_distillation.py",
    "MatchingLoss": "test_joint_terms.py",
}
"""Terms that call a fusion, which ``LossTester`` has none of, and their tests."""


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
    }
    tested = {type(case.make(None)).__name__ for case in CASES.values()}
    for name, file in OF_A_FUSION.items():
        text = (Path(__file__).parent / "joint" / file).read_text("utf-8")
        assert name in text, name
    assert terms == tested | set(OF_A_FUSION)
