"""Every term of the objective against its oracle, and what else a term has to keep."""

from __future__ import annotations

import pytest

from tests.helpers.loss_cases import CASES
from tests.helpers.loss_tester import LossTester


@pytest.mark.parametrize("name", CASES)
class TestTerms(LossTester):
    pass
