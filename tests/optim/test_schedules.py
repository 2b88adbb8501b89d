"""Schedules: the formulas, the ends, and runs that are too short."""

import math
from dataclasses import dataclass

import pytest

from clipkit.errors import ConfigError
from clipkit.optim import WarmupCosine, WarmupStableDecay


@dataclass
class Clock:
    """Progress of a run that ends after a time: its number of steps is not known."""

    step: int
    fraction: float
    num_steps: float = math.inf


def test_warmup_and_cosine_by_hand():
    schedule = WarmupCosine(warmup_steps=10, final_factor=0.1)
    for step in range(100):
        if step < 10:
            expected = (step + 1) / 10
        else:
            expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        assert schedule.at(step, 100) == pytest.approx(expected)
    assert schedule.at(100, 100) == pytest.approx(0.1)


def test_steps_and_fractions_say_the_same():
    for step in range(200):
        by_steps = WarmupCosine(warmup_steps=20).at(step, 200)
        assert WarmupCosine(warmup_fraction=0.1).at(step, 200) == pytest.approx(by_steps)
        options = {"cooldown_fraction": 0.25, "shape": "linear"}
        by_steps = WarmupStableDecay(warmup_steps=20, cooldown_steps=50, shape="linear")
        by_fraction = WarmupStableDecay(warmup_fraction=0.1, **options)
        assert by_fraction.at(step, 200) == pytest.approx(by_steps.at(step, 200))


@pytest.mark.parametrize(
    ("shape", "halfway"), [("linear", 0.5), ("one_minus_sqrt", 1 - math.sqrt(0.5)), ("cosine", 0.5)]
)
def test_warmup_stable_decay(shape, halfway):
    schedule = WarmupStableDecay(warmup_steps=10, cooldown_steps=20, shape=shape)
    factors = [schedule.at(step, 100) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:81] == pytest.approx([1.0] * 71)
    assert factors[90] == pytest.approx(halfway)
    assert factors[100] == pytest.approx(0, abs=1e-9)
    assert factors[80:] == sorted(factors[80:], reverse=True)


def test_constant_after_a_warmup():
    schedule = WarmupStableDecay(warmup_steps=4, cooldown_fraction=0)
    assert [schedule.at(step, 8) for step in (0, 3, 4, 7)] == [0.25, 1, 1, 1]


def test_no_warmup_starts_at_the_full_rate():
    assert WarmupCosine(warmup_steps=0).at(0, 10) == 1.0
    assert WarmupCosine(warmup_fraction=0).at(0, 10) == 1.0


def test_run_of_the_clock_equals_a_run_of_steps_at_constant_speed():
    for schedule in (
        WarmupCosine(warmup_steps=20),
        WarmupCosine(warmup_fraction=0.1),
        WarmupStableDecay(warmup_steps=20, cooldown_steps=50),
        WarmupStableDecay(),
    ):
        for step in range(1, 200):
            by_clock = schedule.factor(Clock(step, step / 200))
            assert by_clock == pytest.approx(schedule.at(step, 200))


def test_first_step_of_a_run_of_the_clock():
    for schedule in (WarmupCosine(warmup_steps=20), WarmupStableDecay(warmup_steps=20)):
        assert schedule.factor(Clock(0, 0.0)) == pytest.approx(1 / 20)


def test_clock_that_ends_with_the_warmup():
    assert WarmupCosine(warmup_steps=20).factor(Clock(20, 1.0)) == 0.0
    assert WarmupCosine(warmup_steps=20).factor(Clock(19, 1.0)) == 1.0


@pytest.mark.parametrize(
    ("schedule", "num_steps"),
    [
        (WarmupCosine(warmup_steps=100), 100),
        (WarmupCosine(warmup_steps=101), 100),
        (WarmupStableDecay(warmup_steps=60, cooldown_steps=40), 100),
    ],
)
def test_warmup_as_long_as_the_run_is_refused(schedule, num_steps):
    with pytest.raises(ConfigError, match=r"warmup of \d+ steps.* must be shorter .* 100 steps"):
        schedule.check(num_steps)


def test_runs_that_are_long_enough_pass():
    WarmupCosine(warmup_steps=99).check(100)
    WarmupCosine().check(1)
    WarmupCosine(warmup_steps=1000).check(math.inf)
    WarmupStableDecay(warmup_steps=59, cooldown_steps=40).check(100)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WarmupCosine(warmup_steps=-1), "warmup_steps"),
        (lambda: WarmupCosine(warmup_fraction=1.0), "warmup_fraction"),
        (lambda: WarmupCosine(final_factor=2), "final_factor"),
        (lambda: WarmupStableDecay(cooldown_fraction=-0.1), "cooldown_fraction"),
        (lambda: WarmupStableDecay(shape="square"), "shape"),
    ],
)
def test_options_out_of_range_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
