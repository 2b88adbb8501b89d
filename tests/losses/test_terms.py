"""Every term of the objective against its oracle, and what else a term has to keep."""

from __future__ import annotations

import pytest

from tests.helpers.loss_cases import CASES
from tests.helpers.loss_tester import SIZES, LossTester, check_ranks


@pytest.mark.parametrize("name", CASES)
class TestTerms(LossTester):
    pass


@pytest.mark.parametrize("world_size", SIZES)
def test_ranks_equal_one_process(world_size):
    check_ranks(world_size)
