"""Which ranks are slower than the others, and why."""

from clipkit.training.health.stragglers import OwnTime, describe_stragglers


def said(*times: tuple[float, float], ratio: float = 1.2) -> list[str]:
    hosts = [f"host{rank}" for rank in range(len(times))]
    return describe_stragglers([OwnTime(*t) for t in times], hosts, ratio, 0.01)


def test_equal_ranks_are_not_named():
    assert said((0.0, 0.5), (0.001, 0.5), (0.0, 0.505)) == []


def test_slow_towers_are_named_with_their_excess():
    (line,) = said((0.01, 0.5), (0.01, 0.5), (0.01, 0.8))
    assert line.startswith(
        "rank 2 (host2): 0.810 s per step, 1.59 times the median, mostly 0.300 s"
    )
    assert line.endswith("the forward pass of the towers")


def test_the_slowest_comes_first():
    first, second = said((0.0, 0.5), (0.3, 0.5), (0.0, 0.5), (0.9, 0.5), (0.0, 0.5))
    assert first.startswith("rank 3")
    assert second.startswith("rank 1")
    assert second.endswith("waiting for its data")


def test_small_differences_of_small_steps_are_noise():
    assert said((0.0, 0.002), (0.0, 0.002), (0.0, 0.006)) == []


def test_without_any_time_there_is_no_ratio():
    (line,) = said((0.0, 0.0), (0.5, 0.0), (0.0, 0.0))
    assert "median" not in line
