"""Moments of a run, and schedules: formulas, ends, and runs that are too short."""

from __future__ import annotations

import math

import pytest

from clipkit.data import Stage
from clipkit.errors import ConfigError
from clipkit.schedules import (
    CosineSchedule,
    LinearSchedule,
    StepSchedule,
    WarmupCosine,
    WarmupStableDecay,
)
from clipkit.when import START, Progress, When, as_when


def value(schedule, step, num_steps):
    return schedule.at(Progress(step, num_steps))


@pytest.mark.parametrize("unit", ["step", "samples", "fraction"])
def test_a_moment_is_the_same_in_all_units(unit):
    when = {"step": When(step=30), "samples": When(samples=1920), "fraction": When(fraction=0.3)}
    runs = [Progress(step, 100, step_samples=64) for step in (29, 30, 31)]
    assert [when[unit].is_reached(run) for run in runs] == [False, True, True]
    assert when[unit].share(runs[1]) == pytest.approx(0.3)


def test_numbers_are_steps_or_fractions():
    assert as_when("option", 2) == When(step=2)
    assert as_when("option", 0.5) == When(fraction=0.5)
    for number in (-1, 1.5, -0.1):
        with pytest.raises(ConfigError, match="option: expected one of step, samples"):
            as_when("option", number)
    for options in ({}, {"step": 1, "fraction": 0.5}, {"samples": -1}):
        with pytest.raises(ConfigError, match="expected one of step"):
            When(**options)


def test_what_is_unknown_is_refused():
    with pytest.raises(ConfigError, match=r"fraction: 0.5: the length of the run is unknown"):
        When(fraction=0.5).is_reached(Progress(3))
    with pytest.raises(ConfigError, match=r"samples: 8: the number of samples of a step"):
        When(samples=8).is_reached(Progress(3, 100))
    assert When(fraction=0.5).is_reached(Progress(3, elapsed=0.6))


def test_linear_cosine_and_step_schedules():
    linear = LinearSchedule(1.0, 3.0, length=10, begin=5)
    assert [linear.at(Progress(step)) for step in (0, 5, 10, 15, 99)] == [1, 1, 2, 3, 3]
    cosine = CosineSchedule(1.0, 3.0, length=10)
    assert cosine.at(Progress(0)) == 1
    assert cosine.at(Progress(10)) == cosine.at(Progress(50)) == 3
    assert cosine.at(Progress(2)) == pytest.approx(2 - math.cos(0.2 * math.pi))
    steps = StepSchedule([1.0, 0.5, 0.0], [3, 7])
    assert [steps.at(Progress(step)) for step in (0, 2, 3, 6, 7, 100)] == [1, 1, 0.5, 0.5, 0, 0]


@pytest.mark.parametrize("make", [LinearSchedule, CosineSchedule])
def test_curves_are_the_same_in_all_units(make):
    by_steps = make(1.0, 3.0, length=40, begin=20)
    for length, begin in (
        (0.4, 0.2),
        (When(samples=320), When(samples=160)),
        (40, 0.2),
        (When(samples=320), 20),
    ):
        for step in range(100):
            run = Progress(step, 100, step_samples=8)
            expected = by_steps.at(run)
            assert make(1.0, 3.0, length, begin).at(run) == pytest.approx(expected)


def test_bad_curves_are_refused():
    for length in (0, 0.0, -1):
        with pytest.raises(ConfigError, match="length"):
            LinearSchedule(0.0, 1.0, length)
    with pytest.raises(ConfigError, match="one boundary fewer"):
        StepSchedule([1.0], [3])
    for boundaries in ([5, 5], [0.5, 3]):
        with pytest.raises(ConfigError, match="boundaries: expected ascending"):
            StepSchedule([1.0, 2.0, 3.0], boundaries)


def test_warmup_and_cosine_by_hand():
    schedule = WarmupCosine(warmup=10, final_factor=0.1)
    for step in range(100):
        if step < 10:
            expected = (step + 1) / 10
        else:
            expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        assert value(schedule, step, 100) == pytest.approx(expected)
    assert value(schedule, 100, 100) == pytest.approx(0.1)


def test_steps_and_fractions_say_the_same():
    for step in range(200):
        by_steps = value(WarmupCosine(warmup=20), step, 200)
        assert value(WarmupCosine(warmup=0.1), step, 200) == pytest.approx(by_steps)
        options = {"cooldown": 0.25, "shape": "linear"}
        by_steps = WarmupStableDecay(warmup=20, cooldown=50, shape="linear")
        by_fraction = WarmupStableDecay(warmup=0.1, **options)
        assert value(by_fraction, step, 200) == pytest.approx(value(by_steps, step, 200))


@pytest.mark.parametrize(
    ("shape", "halfway"), [("linear", 0.5), ("one_minus_sqrt", 1 - math.sqrt(0.5)), ("cosine", 0.5)]
)
def test_warmup_stable_decay(shape, halfway):
    schedule = WarmupStableDecay(warmup=10, cooldown=20, shape=shape)
    factors = [value(schedule, step, 100) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:81] == pytest.approx([1.0] * 71)
    assert factors[90] == pytest.approx(halfway)
    assert factors[100] == pytest.approx(0, abs=1e-9)
    assert factors[80:] == sorted(factors[80:], reverse=True)


def test_constant_after_a_warmup():
    schedule = WarmupStableDecay(warmup=4, cooldown=0)
    assert [value(schedule, step, 8) for step in (0, 3, 4, 7)] == [0.25, 1, 1, 1]


def test_no_warmup_starts_at_the_full_rate():
    assert value(WarmupCosine(warmup=0), 0, 10) == 1.0
    assert value(WarmupCosine(warmup=0.0), 0, 10) == 1.0


def test_run_of_the_clock_equals_a_run_of_steps_at_constant_speed():
    for schedule in (
        WarmupCosine(warmup=20),
        WarmupCosine(warmup=0.1),
        WarmupStableDecay(warmup=20, cooldown=50),
        WarmupStableDecay(),
    ):
        for step in range(1, 200):
            by_clock = schedule.at(Progress(step, elapsed=step / 200))
            assert by_clock == pytest.approx(value(schedule, step, 200))


def test_first_step_of_a_run_of_the_clock():
    for schedule in (WarmupCosine(warmup=20), WarmupStableDecay(warmup=20)):
        assert schedule.at(START) == pytest.approx(1 / 20)


def test_clock_that_ends_with_the_warmup():
    assert WarmupCosine(warmup=20).at(Progress(20, elapsed=1.0)) == 0.0
    assert WarmupCosine(warmup=20).at(Progress(19, elapsed=1.0)) == 1.0


@pytest.mark.parametrize(
    ("schedule", "num_steps"),
    [
        (WarmupCosine(warmup=100), 100),
        (WarmupCosine(warmup=101), 100),
        (WarmupStableDecay(warmup=60, cooldown=40), 100),
        (WarmupStableDecay(warmup=0.7, cooldown=0.5), 100),
        (WarmupCosine(warmup=When(samples=6400)), 100),
    ],
)
def test_warmup_as_long_as_the_run_is_refused(schedule, num_steps):
    with pytest.raises(ConfigError, match=r"warmup of \d+ steps.* must be shorter .* 100 steps"):
        schedule.check(Progress(0, num_steps, step_samples=64))


def test_runs_that_are_long_enough_pass():
    WarmupCosine(warmup=99).check(Progress(0, 100))
    WarmupCosine().check(Progress(0, 1))
    WarmupCosine(warmup=1000).check(Progress(0, math.inf))
    WarmupStableDecay(warmup=59, cooldown=40).check(Progress(0, 100))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WarmupCosine(warmup=-1), "warmup"),
        (lambda: WarmupCosine(warmup=1.5), "warmup"),
        (lambda: WarmupCosine(final_factor=2), "final_factor"),
        (lambda: WarmupStableDecay(cooldown=-0.1), "cooldown"),
        (lambda: WarmupStableDecay(shape="square"), "shape"),
    ],
)
def test_options_out_of_range_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_former_arguments_name_the_new_ones():
    with pytest.raises(ConfigError, match="WarmupCosine: warmup_steps is now called warmup"):
        WarmupCosine(warmup_steps=5)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="LinearSchedule: num_steps is now called length"):
        LinearSchedule(0.0, 1.0, num_steps=5)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="Stage: step is now called begin"):
        Stage(step=5, weights={})  # type: ignore[call-arg]
