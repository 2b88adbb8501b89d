"""NaN, infinity and spikes in a run: left out, written down, rolled back from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from clipkit.errors import ConfigError, NonFiniteError
from clipkit.training.callbacks import ExponentialMovingAverage, KeyLog, SaveCheckpoint, StepGuard
from clipkit.training.callbacks.step_guard import _Arriving
from clipkit.training.health.step_health import StepHealth, skip_if, skips_on_device
from tests.helpers.bad_steps import INF, NAN, Poison, Watch, fit, lines


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_bad_steps_change_nothing_and_are_written_down(shards, tmp_path, fused):
    watch = Watch()
    log = KeyLog(str(tmp_path / "keys.txt"))
    trainer, trained = fit(
        shards, tmp_path, Poison([3, 4, 6]), StepGuard(), watch, log, fused=fused
    )
    assert [watch.moved(step) for step in range(2, 9)] == [
        True, False, False, True, False, True, True,
    ]  # fmt: skip
    assert all(value.isfinite().all() for value in trained.encoder.state_dict().values())
    steps = {float(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert steps == {5.0}  # the moments have seen five steps of eight
    assert [line["step"] for line in lines(tmp_path)] == [3, 4, 6]
    keys = [line.split()[2] for line in (tmp_path / "keys.txt").read_text().splitlines()]
    assert lines(tmp_path)[0]["keys"] == keys[8:12]
    assert lines(tmp_path)[0]["loss"] == "nan"


def test_windows_of_accumulated_gradients_are_left_out_whole(shards, tmp_path):
    fit(shards, tmp_path, Poison([2]), StepGuard(), accumulate_grad_batches=2, max_steps=3)
    (line,) = lines(tmp_path)
    assert line["step"] == 2
    assert len(line["keys"]) == 8


def test_spike_is_left_out(shards, tmp_path):
    """Embeddings turned around and stretched: every number is finite."""
    fit(shards, tmp_path, Poison([28], factor=-50.0), StepGuard(sigmas=8.0), max_steps=30)
    assert [line["step"] for line in lines(tmp_path)] == [28]
    assert isinstance(lines(tmp_path)[0]["loss"], float)


def test_weights_go_back_while_the_data_go_on(shards, tmp_path, caplog):
    watch, log = Watch(), KeyLog(str(tmp_path / "keys.txt"))
    saver = SaveCheckpoint(every_n_steps=2)
    average = ExponentialMovingAverage(decay=0.5)
    poison = Poison([4, 5, 6])
    guard = StepGuard(max_in_a_row=3)
    fit(shards, tmp_path, poison, guard, watch, saver, log, average, max_steps=7)
    assert "from step 2" in caplog.text  # the write at step 4 was put off
    for name, value in watch.after[5].items():
        assert torch.equal(value, watch.after[1][name]), name
    assert watch.moved(7)
    undisturbed = tmp_path / "undisturbed"
    fit(shards, undisturbed, KeyLog(str(undisturbed / "keys.txt")), max_steps=7)
    keys = [(run / "keys.txt").read_text() for run in (tmp_path, undisturbed)]
    assert keys[0] == keys[1]


def test_run_that_stays_bad_ends_with_a_clear_error(shards, tmp_path):
    callbacks = (
        Poison(list(range(3, 99))),
        StepGuard(max_in_a_row=2, max_rollbacks=1),
        SaveCheckpoint(every_n_steps=1),
    )
    with pytest.raises(NonFiniteError, match=r"step 6: 2 bad steps in a row.*1 times did not help"):
        fit(shards, tmp_path, *callbacks, max_steps=50)
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == 2  # the last of the good ones


def test_nothing_to_go_back_to_is_said(shards, tmp_path):
    with pytest.raises(NonFiniteError, match="no checkpoint to restore"):
        fit(shards, tmp_path, Poison([1, 2]), StepGuard(max_in_a_row=2))


@pytest.mark.parametrize(
    "options", [{"window": 3}, {"max_in_a_row": 0}, {"max_rollbacks": -1}, {"sigmas": 0.0}]
)
def test_numbers_are_checked(options):
    with pytest.raises(ConfigError, match=f"StepGuard.{next(iter(options))}"):
        StepGuard(**options)


class TestStepHealth:
    def verdicts(self, health: StepHealth, values: list[float]) -> list[int]:
        return [int(health.verdict(torch.tensor(v), torch.tensor(1.0 + v))) for v in values]

    def test_what_is_not_finite_is_bad(self):
        assert self.verdicts(StepHealth(torch.device("cpu")), [1.0, NAN, INF, -INF, 2.0]) == [
            0, 1, 1, 1, 0,
        ]  # fmt: skip

    def test_spikes_are_told_from_noise_by_the_good_steps_alone(self):
        torch.manual_seed(0)
        noise = (3 + 0.1 * torch.randn(200)).tolist()
        health = StepHealth(torch.device("cpu"), sigmas=6.0, window=32)
        assert sum(self.verdicts(health, noise)) == 0
        # Each of these would hide the next one if it entered the history.
        assert self.verdicts(health, [30.0, 30.0, 300.0, NAN, 30.0]) == [1, 1, 1, 1, 1]
        assert self.verdicts(health, [3.05, 0.5]) == [0, 0]  # lower is no spike

    def test_history_is_the_window_as_numpy_would_keep_it(self):
        torch.manual_seed(1)
        values = torch.rand(90).tolist()
        health = StepHealth(torch.device("cpu"), sigmas=1.5, window=24)
        good: list[float] = []
        for value, got in zip(values, self.verdicts(health, values), strict=True):
            past = torch.tensor(good[-24:])
            limit = past.mean() + 1.5 * past.std(correction=0) if len(good) >= 20 else INF
            assert got == (value > limit)
            if not got:
                good.append(value)


def test_optimizers_that_can_skip_by_themselves():
    parameter = torch.nn.Parameter(torch.ones(2))
    assert not skips_on_device(torch.optim.AdamW([parameter]), has_scaler=False)
    fused = torch.optim.AdamW([parameter], fused=True)
    assert skips_on_device(fused, has_scaler=False)
    assert not skips_on_device(fused, has_scaler=True)


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_step_leaves_no_trace(fused):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5, fused=fused)
    for bad in (0.0, 1.0):
        parameter.grad = torch.full((2,), NAN if bad else 1.0)
        before = parameter.detach().clone()
        skip_if(torch.tensor(bad), optimizer, skips_on_device(optimizer, has_scaler=False))
        optimizer.step()
    assert torch.equal(parameter, before)
    assert float(optimizer.state[parameter]["step"]) == 1


@pytest.mark.parametrize("is_complete", [True, False])
def test_only_a_verdict_on_its_way_is_waited_for(is_complete):
    waits = []
    arriving = _Arriving(torch.tensor([0.0, 2.5]))
    event = SimpleNamespace(query=lambda: is_complete, synchronize=lambda: waits.append(1))
    vars(arriving)["_event"] = event
    assert arriving.values() == [0.0, 2.5]
    assert len(waits) == (0 if is_complete else 1)
