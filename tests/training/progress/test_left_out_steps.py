"""A step that is left out changes nothing that is learned, and counts for every schedule."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch.distributed.tensor import DTensor

from clipkit.errors import NonFiniteError
from clipkit.losses import CombinedLoss, GlobalContrastiveLoss, LabelLoss, LinearSchedule
from clipkit.models import PrototypeLabelHead, from_open_clip
from clipkit.training import ContrastiveModule, ShardedStrategy
from clipkit.training.callbacks import (
    ExponentialMovingAverage,
    SaveCheckpoint,
    StepGuard,
    step_guard,
)
from tests.helpers import tiny
from tests.helpers.bad_steps import INF, NAN, Poison, fit, lines
from tests.helpers.ranks import run_ranks


class PoisonPixels(Callback):
    """NaN in the pixels, so that batch norms see it; of one rank alone on request."""

    def __init__(self, steps: list[int], rank: int | None = None) -> None:
        self.steps, self.rank = steps, rank

    def on_fit_start(self, trainer, pl_module):
        def poison(tower, inputs):
            here = self.rank is None or trainer.global_rank == self.rank
            if pl_module.training and trainer.global_step + 1 in self.steps and here:
                return (inputs[0] * NAN,)
            return None

        pl_module.encoder.image_tower.register_forward_pre_hook(poison, prepend=True)


def remembering(fused: bool = False, refresh_every: int = 2) -> ContrastiveModule:
    """A batch norm, prototypes that are refreshed, a loss with averages, and schedules."""
    torch.manual_seed(0)
    head = PrototypeLabelHead(16, ["red", "green", "blue", "grey"], refresh_every=refresh_every)
    loss = CombinedLoss(
        GlobalContrastiveLoss(60, LinearSchedule(1.0, 0.5, 8)),
        LabelLoss(),
        label_weight=LinearSchedule(0.0, 1.0, 8),
    )
    encoder = from_open_clip(tiny.CONFIG, label_head=head)
    tower = encoder.image_tower
    tower.input_norm = torch.nn.BatchNorm2d(3, affine=False)
    tower.register_forward_pre_hook(lambda tower, inputs: (tower.input_norm(inputs[0]),))
    return ContrastiveModule(
        encoder,
        loss,
        lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=fused),
        tiny.module().schedule,
    )


def whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def learned(pl_module, average: ExponentialMovingAverage) -> dict[str, torch.Tensor]:
    """All that a step may change, whole and copied."""
    state = {
        name: value
        for name, value in pl_module.state_dict().items()
        if isinstance(value, torch.Tensor) and not name.endswith("_extra_state")
    }
    state |= {f"ema.{name}": value for name, value in average._average.weights.items()}
    state = {name: whole(value).detach().clone() for name, value in state.items()}
    terms = pl_module.loss.modules()
    memories = [term for term in terms if isinstance(term, GlobalContrastiveLoss)]
    return {**state, "averages": torch.stack([term.log_averages for term in memories])}


class States(Callback):
    """What is learned after every step, and what the schedules count."""

    def __init__(self, average: ExponentialMovingAverage) -> None:
        self.average = average
        self.after: list[dict[str, torch.Tensor]] = []
        self.counts: list[tuple[int, int, int, float]] = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.after.append(learned(pl_module, self.average))
        loss = pl_module.loss
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        steps = (trainer.global_step, loss.num_steps, loss.contrastive.num_steps)
        self.counts.append((*steps, rate))

    def changed(self, step: int) -> set[str]:
        before, after = self.after[step - 2], self.after[step - 1]
        return {name for name in after if not torch.equal(before[name], after[name])}


def fit_remembering(shards, run, *callbacks, steps=8, fused=False, **options) -> States:
    average = ExponentialMovingAverage(decay=0.5)
    states = States(average)
    trainer = tiny.trainer(run, *callbacks, average, states, max_steps=steps, **options)
    ranks = options.get("devices", 1)
    data = tiny.data(shards, 4 // ranks)
    trainer.fit(remembering(fused), datamodule=data)
    return states


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_bad_steps_change_nothing_else_either(shards, tmp_path, fused):
    """Running statistics, prototypes, averages of a loss and of the weights; schedules go on."""
    states = fit_remembering(shards, tmp_path, PoisonPixels([3, 4, 6]), StepGuard(), fused=fused)
    plain = fit_remembering(shards, tmp_path / "plain", fused=fused)
    for step in (3, 4, 6):
        assert not states.changed(step)
    for step in (2, 5, 7, 8):
        changed = states.changed(step)
        assert "averages" in changed
        for part in ("running_var", "num_batches_tracked", "ema.log_logit_scale"):
            assert any(part in name for name in changed), part
    assert all(v.isfinite().all() for n, v in states.after[-1].items() if n != "averages")
    assert not states.after[-1]["averages"].isnan().any()
    assert states.counts == plain.counts
    assert len(states.counts) == 8


def test_all_batches_of_a_window_are_left_out(shards, tmp_path):
    """The first batch of the second window has changed buffers and averages by then."""
    poison, guard = PoisonPixels([2]), StepGuard()
    window = {"accumulate_grad_batches": 2}
    states = fit_remembering(shards, tmp_path, poison, guard, steps=2, **window)
    assert len(states.after) == 4
    assert states.changed(3)
    for name, value in states.after[3].items():
        assert torch.equal(value, states.after[1][name]), name


def test_schedules_do_not_go_back_with_the_weights(shards, tmp_path):
    saver = SaveCheckpoint(every_n_steps=2)
    poison, guard = PoisonPixels([4, 5, 6]), StepGuard(max_in_a_row=3)
    states = fit_remembering(shards, tmp_path, poison, guard, saver)
    plain = fit_remembering(shards, tmp_path / "plain")
    assert states.counts == plain.counts
    for name, value in states.after[5].items():
        assert torch.equal(value, states.after[1][name]), name
    assert states.changed(7)


def test_undisturbed_run_is_the_same_with_a_guard(shards, tmp_path):
    plain = fit_remembering(shards, tmp_path / "plain", steps=4)
    guarded = fit_remembering(shards, tmp_path / "guarded", StepGuard(sigmas=6.0), steps=4)
    for name, expected in plain.after[-1].items():
        assert torch.equal(expected, guarded.after[-1][name]), name
    assert not (tmp_path / "guarded" / "bad_steps.jsonl").exists()


class Prototypes(Callback):
    """Steps whose prototypes differ from those before, and their age after every step.

    It asks for no ``state_dict``, after which a head reads its age again.
    """

    def __init__(self) -> None:
        self.changed: list[int] = []
        self.ages: list[int] = []
        self._before = torch.zeros(4, 16)

    def on_train_batch_end(self, trainer, pl_module, *_):
        head = pl_module.encoder.label_head
        if not torch.equal(head.prototypes, self._before):
            self.changed.append(trainer.global_step)
        self._before = head.prototypes.clone()
        self.ages.append(int(head.num_steps))


@pytest.mark.parametrize(
    ("averaged", "lag", "bad", "refresh_every", "changed", "ages"),
    [
        # the age after a bad step is that of the step before: 0 and 2 are due again
        (False, 0, [1, 3, 4, 6], 2, [2, 7], [0, 1, 1, 1, 2, 2, 3, 4]),
        (True, 0, [1, 3, 4, 6], 2, [2, 7], [0, 1, 1, 1, 2, 2, 3, 4]),
        (False, 0, [3], 100, [1], [1, 2, 2, 3, 4, 5, 6, 7]),
        # verdicts are read two steps late, as from a GPU; until then the age stands still
        (False, 2, [1], 100, [4], [0, 0, 0, 1, 2, 3, 4, 5]),
        (False, 2, [1, 4], 100, [7], [0, 0, 0, 0, 0, 0, 1, 2]),
        (True, 2, [1, 4], 100, [7], [0, 0, 0, 0, 0, 0, 1, 2]),
        (True, 2, [3], 100, [1], [1, 2, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_prototypes_that_were_left_out_are_computed_again(
    shards, tmp_path, monkeypatch, averaged, lag, bad, refresh_every, changed, ages
):
    monkeypatch.setattr(step_guard, "_lag_on", lambda device: lag)
    seen, average = Prototypes(), [ExponentialMovingAverage()] if averaged else []
    trainer = tiny.trainer(tmp_path, PoisonPixels(bad), StepGuard(), *average, seen, max_steps=8)
    trainer.fit(remembering(refresh_every=refresh_every), datamodule=tiny.data(shards))
    assert seen.changed == changed
    assert seen.ages == ages


def test_a_killed_run_repeats_a_refresh_that_was_left_out(shards, tmp_path, monkeypatch):
    """The checkpoint of step 2 is older than the verdict on step 1."""
    monkeypatch.setattr(step_guard, "_lag_on", lambda device: 2)
    saved, seen = tmp_path / "saved.ckpt", [Prototypes(), Prototypes()]

    class SaveSecond(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                trainer.save_checkpoint(saved)

    for run, path, callback in zip(seen, (None, saved), (SaveSecond(), Callback()), strict=True):
        trainer = tiny.trainer(tmp_path, PoisonPixels([1]), StepGuard(), run, callback, max_steps=4)
        trainer.fit(remembering(refresh_every=100), datamodule=tiny.data(shards), ckpt_path=path)
    assert [run.changed for run in seen] == [[3], [3]]  # saving tells the head, too
    assert [run.ages for run in seen] == [[0, 0, 1, 2], [1, 2]]


def guarded_rank(
    rank: int, world_size: int, shards: Path, root: Path
) -> dict[str, list[tuple[str, str]]]:
    """One rank's NaN under each strategy: skipped, rolled back, and the end of the run."""
    strategies = {
        "ddp": lambda: "ddp",
        "sharded": ShardedStrategy,
        "parts": lambda: ShardedStrategy(checkpoint="sharded"),
    }
    digests = {}
    for name, make in strategies.items():
        average = ExponentialMovingAverage(decay=0.5)
        states = Digests(average)
        options = {"devices": world_size, "num_nodes": 1, "strategy": make()}
        guarded = (
            PoisonPixels([3, 4, 5], rank=1), StepGuard(sigmas=9.0, max_in_a_row=2), average,
            states, SaveCheckpoint(every_n_steps=1),
        )  # fmt: skip
        trainer = tiny.trainer(root / name, *guarded, max_steps=6, **options)
        trainer.fit(remembering(), datamodule=tiny.data(shards))
        digests[name] = states.after
    callbacks = (
        Poison(list(range(3, 99)), factor=INF, rank=0),
        StepGuard(max_in_a_row=2, max_rollbacks=1),
        SaveCheckpoint(every_n_steps=1),
    )
    options = {"devices": world_size, "num_nodes": 1, "strategy": strategies["parts"]()}
    with pytest.raises(NonFiniteError, match="step 6: 2 bad steps in a row"):
        fit(shards, root / "ended", *callbacks, max_steps=50, **options)
    return digests


class Digests(Callback):
    """After every step, digests of what ranks share and of all that this one has learned.

    Ranks share everything but the statistics of batch norms, and their parts of the averages.
    """

    def __init__(self, average: ExponentialMovingAverage) -> None:
        self.average = average
        self.after: list[tuple[str, str]] = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        state = learned(pl_module, self.average)
        own = {name for name in state if "running_" in name or name == "averages"}
        contents = (
            b"".join(value.numpy().tobytes() for name, value in state.items() if name not in left)
            for left in (own, ())
        )
        shared, everything = (hashlib.sha256(content).hexdigest() for content in contents)
        self.after.append((shared, everything))


def test_ranks_agree_when_one_of_them_is_bad(shards, tmp_path):
    first, second = run_ranks(guarded_rank, 2, shards, tmp_path)
    for name in first:
        shared = [[digest for digest, _ in rank[name]] for rank in (first, second)]
        assert shared[0] == shared[1]
        for digests in (first[name], second[name]):
            one, two, three, four, five, six = digests
            assert one != two
            assert two == three  # left out
            assert four == five  # rolled back, left out
            assert six != five
        assert shared[0][2] == shared[0][3]  # a checkpoint holds the statistics of one rank
        found = sorted((line["step"], line["rank"]) for line in lines(tmp_path / name))
        assert found == [(step, rank) for step in (3, 4, 5) for rank in (0, 1)], name
