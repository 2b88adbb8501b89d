"""A batch that grows during a run: steps, learning rates, checkpoints and the plan."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback

from clipkit.data import BatchSizeStage, OrderOptions
from clipkit.data.order.partition import EpochPartition
from clipkit.errors import ConfigError
from clipkit.training.callbacks import KeyLog, SaveCheckpoint
from clipkit.training.preflight.plan import make_plan
from clipkit.training.preflight.screen import lines
from clipkit.training.progress.epoch_steps import steps_for
from clipkit.training.progress.run_progress import run_progress
from clipkit.when import Progress, When
from tests.helpers import tiny

# 40 samples an epoch: 5 steps of 2, 5 of 4, one of 8; 2 samples are left over. Then 5 of 8 each.
STAGES = [BatchSizeStage(2, When(samples=10)), BatchSizeStage(4, When(samples=30))]
FIRST_EPOCH = [2] * 5 + [4] * 5 + [8]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny.shards(tmp_path_factory.mktemp("shards"), (40,))


class Watch(Callback):
    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.rates: list[float] = []
        self.fractions: list[float] = []
        self.validated_after: list[int] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.sizes.append(len(batch))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.fractions.append(run_progress(trainer).fraction)

    def on_validation_end(self, trainer, pl_module):
        self.validated_after.append(trainer.global_step)


def fit(shards, run, ckpt=None, micro_batch_size=None, num_workers=0, val=False, **options):
    watch, module = Watch(), tiny.module(micro_batch_size=micro_batch_size)
    trainer = tiny.trainer(
        run,
        watch,
        KeyLog(str(run / "keys.txt")),
        SaveCheckpoint(keep_every_n_steps=1),
        **(options or {"max_steps": 10}),
    )
    data = tiny.data(
        shards,
        8,
        val=val,
        order=OrderOptions(batch_size_stages=STAGES),
        num_workers=num_workers,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    return watch, module.state_dict(), (run / "keys.txt").read_text()


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_max_steps_counts_full_steps_and_rates_follow_samples(shards, tmp_path):
    """10 steps of 8 are 80 samples: 38 in the first epoch, 40 in the second, 8 in the third."""
    watch, _, _ = fit(shards, tmp_path)
    assert watch.sizes == FIRST_EPOCH + [8] * 5 + [8]
    behind, expected = 0, []
    schedule = tiny.module().schedule
    for size in watch.sizes:
        expected.append(1e-3 * schedule.at(Progress(behind / 8, 10)))
        behind += size
    assert watch.rates == pytest.approx(expected, rel=1e-9)
    assert watch.fractions[0] == 2 / 80
    assert watch.fractions[-1] == 1.0


def test_resumed_before_and_after_every_change(shards, tmp_path):
    whole, weights, keys = fit(shards, tmp_path)
    for step in (1, 4, 5, 6, 10, 11, 12, 16):
        again, mine, lines_ = fit(shards, tmp_path, tmp_path / f"step={step}.ckpt")
        assert again.sizes == whole.sizes[step:], f"after step {step}"
        assert again.rates == whole.rates[step:]
        assert lines_ == keys
        assert same(weights, mine)


def test_with_micro_batches_and_workers(shards, tmp_path):
    whole, weights, keys = fit(shards, tmp_path, micro_batch_size=3, num_workers=1)
    assert keys == fit(shards, tmp_path / "plain")[2]
    assert whole.sizes == FIRST_EPOCH + [8] * 6
    for step in (5, 9):
        ckpt = tmp_path / f"step={step}.ckpt"
        _, mine, lines_ = fit(shards, tmp_path, ckpt, micro_batch_size=3, num_workers=1)
        assert lines_ == keys
        assert same(weights, mine)


def test_epochs_end_and_are_validated_where_they_should(shards, tmp_path):
    options = {"max_epochs": 3, "val": True}
    watch, weights, _ = fit(shards, tmp_path, **options)
    assert watch.sizes == FIRST_EPOCH + [8] * 10
    assert watch.validated_after == [11, 16, 21]
    assert watch.fractions[10] == pytest.approx(38 / 118)
    assert watch.fractions[-1] == 1.0
    for step in (8, 11, 13):
        again, mine, _ = fit(shards, tmp_path, tmp_path / f"step={step}.ckpt", **options)
        assert again.sizes == watch.sizes[step:]
        assert same(weights, mine)


def test_short_epochs(shards, tmp_path):
    """Batches of an epoch are limit_batches, positions of its stages are not."""
    watch, _, _ = fit(shards, tmp_path, max_epochs=3, limit_train_batches=7)
    assert watch.sizes == FIRST_EPOCH[:7] + [8] * 10
    assert watch.fractions[-1] == 1.0


def test_the_plan_counts_the_steps(shards, tmp_path):
    plans = []

    class Plan(Callback):
        def on_train_start(self, trainer, pl_module):
            plans.append(make_plan(trainer, pl_module, trainer.datamodule, 8))

    for options in ({"max_steps": 10}, {"max_epochs": 2}):
        trainer = tiny.trainer(tmp_path, Plan(), **options)
        data = tiny.data(shards, 8, order=OrderOptions(batch_size_stages=STAGES))
        trainer.fit(tiny.module(), datamodule=data)
        assert plans[-1].length.optimizer_steps == trainer.global_step
    text = dict(lines(plans[0]))
    assert text["batch"] == (
        "2 until 10 samples, then 4 until 30 samples, then 8 pairs per rank x 1 rank = 8 per step"
    )
    assert text["length"] == (
        "5 steps per epoch; 10 steps = 80 samples = 2 epochs (max_steps 10), "
        "taken in 17 optimizer steps, smaller ones at first"
    )


def test_accumulated_gradients_are_refused(shards, tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size_stages.*micro_batch_size"):
        fit(shards, tmp_path, max_steps=4, accumulate_grad_batches=2)


def test_a_run_that_trains_on_nothing_has_no_steps():
    partition = EpochPartition(40, 8, 0, 1, "drop", tuple(STAGES))
    assert steps_for(partition, 80, limit=0) == 0
    assert steps_for(partition, 80, limit=1.0) == len(FIRST_EPOCH) + 5 + 1
