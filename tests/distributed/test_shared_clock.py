"""The clocks of the ranks: the latest of them, one step late, and the same everywhere."""

import pytest

from clipkit.training.progress.shared_clock import SharedClock
from tests.helpers.ranks import run_ranks


def fractions(rank: int, world_size: int) -> list[float]:
    """Rank 1 is 0.05 of the limit ahead; each step is asked for twice."""
    clock = SharedClock(0, 0.1)
    return [clock.at(step, 0.1 * (step + 1) + 0.05 * rank) for step in range(4) for _ in range(2)]


def test_all_ranks_see_the_latest_clock_of_the_step_before() -> None:
    first, second = run_ranks(fractions, 2)
    assert first == second == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.25, 0.25, 0.35, 0.35])
