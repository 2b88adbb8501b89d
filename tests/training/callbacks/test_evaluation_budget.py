"""Evaluators within a budget of seconds, and at intervals other than steps."""

from __future__ import annotations

import logging

import pytest
import torch

from clipkit.cli.main import main
from clipkit.errors import ConfigError
from clipkit.evaluation import Evaluator
from clipkit.training.callbacks import SaveCheckpoint, ZeroShotEvaluation
from clipkit.training.callbacks.evaluation_budget import EvaluationBudget
from clipkit.training.callbacks.zero_shot_evaluation import intervals
from clipkit.when import Progress, When
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

CPU = torch.device("cpu")


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def rounds(seconds, took, number=4, always=(), rank_factor=1.0):
    """Which evaluators run in each evaluation, if each takes the seconds of ``took``."""
    clock = Clock()
    budget = EvaluationBudget(seconds, clock)
    ran = []
    for step in range(number):
        ran.append([])
        for name in budget.turns(list(took), always, step, CPU):
            ran[-1].append(name)
            clock.now += took[name] * rank_factor
    return ran


def test_without_a_budget_all_run_in_order():
    assert rounds(None, {"a": 5, "b": 1e9, "c": 2}, number=2) == [["a", "b", "c"]] * 2


def test_what_is_left_out_comes_first_next_time():
    # All times are unknown at first; c and then a, b do not fit any more.
    assert rounds(10, {"a": 4, "b": 4, "c": 4}) == [
        ["a", "b", "c"], ["a", "b"], ["c", "a"], ["b", "c"],
    ]  # fmt: skip


def test_an_unknown_time_is_tried_only_before_the_budget_is_spent():
    assert rounds(3, {"a": 4, "b": 1, "c": 1}) == [["a"], ["b", "c"], ["b", "c"], ["b", "c"]]


def test_monitored_evaluators_run_always_and_first():
    assert rounds(5, {"a": 4, "b": 9, "c": 1}, always={"b"}) == [["b"]] * 4


def test_what_was_left_out_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        rounds(3, {"a": 4, "b": 1}, number=2)
    assert [record.getMessage() for record in caplog.records] == [
        "evaluation after step 0: left out b: its time is unknown, and 4 s of budget_seconds=3 had "
        "passed; it comes first next time",
        "evaluation after step 1: left out a: it took 4 s, and 1 s of budget_seconds=3 had passed; "
        "it never fits, and runs at the end of the fit only",
    ]


def slow_on_one_rank(rank, world_size):
    return rounds(10, {"a": 2, "b": 2, "c": 2}, rank_factor=1 + rank)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_decide_by_the_slowest(world_size):
    expected = rounds(10, {"a": 2, "b": 2, "c": 2}, rank_factor=world_size)
    assert expected != rounds(10, {"a": 2, "b": 2, "c": 2})
    assert run_ranks(slow_on_one_rank, world_size) == [expected] * world_size


@pytest.mark.parametrize(
    ("interval", "progress", "number"),
    [
        (When(step=10), Progress(step=29.5), 2),
        (When(samples=100), Progress(step=30, step_samples=10), 3),
        (When(fraction=0.1), Progress(step=3, num_steps=10), 3),
        (When(fraction=0.25), Progress(step=0, num_steps=10, elapsed=0.8), 3),
    ],
)
def test_intervals(interval, progress, number):
    assert intervals(progress, interval) == number


class Steps(Evaluator):
    """The steps at which it ran."""

    primary_metric = "value"

    def __init__(self):
        self.steps = []
        self.trainer = None

    def run(self, encoder):
        self.steps.append(self.trainer.global_step)
        return {"value": 0.0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny.shards(tmp_path_factory.mktemp("shards"))


def fitted(shards, run, make, val=False, ckpt=None, others=(), **options):
    evaluators = {"first": Steps(), "second": Steps()}
    trainer = tiny.trainer(run, make(evaluators), *others, **{"max_steps": 6, **options})
    for evaluator in evaluators.values():
        evaluator.trainer = trainer
    trainer.fit(tiny.module(), datamodule=tiny.data(shards, val=val), ckpt_path=ckpt)
    return [evaluator.steps for evaluator in evaluators.values()]


@pytest.mark.parametrize(
    ("interval", "steps"),
    [(When(samples=8), [2, 4, 6]), (When(fraction=0.5), [3, 6]), (When(step=4), [4, 6])],
)
def test_they_run_at_intervals_of_samples_and_fractions(shards, tmp_path, interval, steps):
    ran = fitted(shards, tmp_path, lambda e: ZeroShotEvaluation(e, every_n_steps=interval))
    assert ran == [steps] * 2


def test_a_resumed_run_keeps_the_intervals(shards, tmp_path):
    def callback(evaluators):
        return ZeroShotEvaluation(evaluators, every_n_steps=When(samples=8))

    fitted(shards, tmp_path, callback, others=[SaveCheckpoint()], max_steps=3)
    last = str(tmp_path / "last.ckpt")
    assert fitted(shards, tmp_path / "b", callback, ckpt=last) == [[4, 6]] * 2


def test_the_end_of_a_fit_and_a_test_have_no_budget(shards, tmp_path):
    def callback(evaluators):
        return ZeroShotEvaluation(evaluators, every_n_steps=2, budget_seconds=1e-9)

    assert fitted(shards, tmp_path, callback, max_steps=5) == [[5], [5]]


def test_a_monitored_evaluator_is_never_left_out(shards, tmp_path):
    save = SaveCheckpoint(monitor="second")
    first, second = fitted(
        shards, tmp_path, lambda e: ZeroShotEvaluation(e, budget_seconds=1e-9), val=True,
        others=[save], val_check_interval=2, max_steps=4,
    )  # fmt: skip
    assert second == [2, 4]
    assert first == [4]  # at the end of the fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps: expected at least 1, got 0"),
        ({"every_n_steps": When(step=0)}, "every_n_steps: expected more than 0, got step: 0"),
        ({"budget_seconds": 0}, "budget_seconds: expected more than 0, got 0"),
    ],
)
def test_numbers_of_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ZeroShotEvaluation({"steps": Steps()}, **options)


@pytest.mark.parametrize(
    ("interval", "status"), [("{samples: 8}", 0), ("1", 0), ("{samples: 0}", 2), ("0.5", 2)]
)
def test_yaml_takes_an_interval_and_a_budget(shards, tmp_path, capsys, interval, status):
    text = f"""
trainer:
  callbacks:
    - class_path: clipkit.training.callbacks.ZeroShotEvaluation
      init_args:
        every_n_steps: {interval}
        budget_seconds: 60
        evaluators:
          pairs: {{class_path: clipkit.evaluation.Retrieval, init_args: {{data: {shards}/val}}}}
"""
    (tmp_path / "evaluate.yaml").write_text(text)
    words = tiny.words(shards, tmp_path / "run", "-c", str(tmp_path / "evaluate.yaml"))
    assert main(["fit", *words, "--trainer.max_steps", "2"]) == status
    assert ("every_n_steps" in capsys.readouterr().err) == bool(status)
