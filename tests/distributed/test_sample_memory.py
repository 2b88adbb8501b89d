"""The memory of the global loss, divided among ranks: that of one process, in any checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from clipkit.losses import CombinedLoss, GlobalContrastiveLoss, complete_state_dict
from clipkit.losses.kernels import sample_table
from clipkit.training import ShardedStrategy
from clipkit.training.callbacks import SaveCheckpoint, StepGuard
from clipkit.types import Batch, Embeddings
from tests.helpers import tiny
from tests.helpers.oracles import make_batch, naive_global, unit_rows
from tests.helpers.ranks import run_ranks

NUM_SAMPLES, GAMMA, STEPS = 21, 0.4, 6
FIT_STEPS, HALF = 5, 3
LEFT_OUT = 3
SHARES = {1: (12,), 2: (7, 5), 4: (5, 0, 4, 3)}


def step(number: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Image and text of all ranks, the mask, and ids; from step 4 on some appear twice."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randperm(NUM_SAMPLES, generator=generator)[:12]
    if number >= 4:
        ids[9:] = ids[:3]
    mask = torch.rand(12, generator=generator) > 0.2
    return [unit_rows(12, 6, 10 * number + k) for k in (0, 1)], mask, ids


def gradients_of(*towers: torch.Tensor) -> np.ndarray:
    return np.stack([tower.grad.numpy() for tower in towers if tower.grad is not None])


def rank_step(loss, number, rows, world_size):
    """Loss and gradients of this rank in a step."""
    towers, mask, ids = step(number)
    image, text = (tower[rows].clone().requires_grad_() for tower in towers)
    batch = make_batch(len(image), sample_ids=ids[rows], pair_mask=mask[rows])
    loss.begin_step()
    value = loss(Embeddings(image, text, torch.tensor(6.0).double()), batch)
    value.backward()
    loss.end_step(torch.tensor(number == LEFT_OUT))
    return value.item(), gradients_of(image, text) / world_size


def run(number, world_size, steps, state=None):
    """Some steps on a rank, from a state of any number of ranks."""
    start = sum(SHARES[world_size][:number])
    rows = slice(start, start + SHARES[world_size][number])
    loss = GlobalContrastiveLoss(NUM_SAMPLES, GAMMA, 1e-300)
    if state is not None:
        loss.load_state_dict({"_extra_state": {k: torch.tensor(v) for k, v in state.items()}})
    results = [rank_step(loss, k, rows, world_size) for k in steps]
    own = loss.state_dict()
    again = GlobalContrastiveLoss(NUM_SAMPLES, GAMMA, 1e-300)
    again.load_state_dict(own)  # the part of this rank
    assert torch.equal(again.log_averages, loss.log_averages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_table, "_PIECE", 8)  # gathered in several pieces
        complete = complete_state_dict(loss).get("_extra_state", {})
    return {
        "values": [value for value, _ in results],
        "gradients": [gradient for _, gradient in results],
        "own": loss.log_averages.numpy(),
        "complete": {name: value.numpy() for name, value in complete.items()},
    }


def oracle():
    """Values and gradients until samples appear twice, from a loop in fp64."""
    averages = {}
    values, gradients = [], []
    for number in range(4):
        (image, text), mask, ids = step(number)
        image.requires_grad_(), text.requires_grad_()
        before = dict(averages)
        scale = torch.tensor(6.0).double()
        kept = ids[mask].tolist()
        value = naive_global(image[mask], text[mask], scale, kept, averages, GAMMA)
        value.backward()
        averages = before if number == LEFT_OUT else averages
        values.append(value.item())
        gradients.append(gradients_of(image, text))
    return values, gradients


def joined(ranks: list[dict[str, Any]], name: str, axis: int) -> np.ndarray:
    return np.concatenate([rank[name] for rank in ranks], axis=axis)


@pytest.mark.parametrize("world_size", SHARES)
def test_ranks_share_the_memory_of_one_process(world_size: int) -> None:
    one = run(0, 1, range(STEPS))
    values, gradients = oracle()
    np.testing.assert_allclose(one["values"][:4], values, atol=1e-5)
    np.testing.assert_allclose(one["gradients"][:4], gradients, atol=1e-5)
    ranks = run_ranks(run, world_size, range(STEPS))
    per_rank = -(-NUM_SAMPLES // world_size)
    assert [rank["own"].shape[1] for rank in ranks] == [
        min(per_rank, NUM_SAMPLES - per_rank * k) for k in range(world_size)
    ]
    for rank in ranks:
        np.testing.assert_allclose(rank["values"], one["values"], atol=1e-5)
        assert rank["values"] == ranks[0]["values"]
    for number in range(STEPS):
        got = np.concatenate([rank["gradients"][number] for rank in ranks], axis=1)
        np.testing.assert_allclose(got, one["gradients"][number], atol=1e-5)
    np.testing.assert_allclose(joined(ranks, "own", 1), one["own"], atol=1e-5)
    complete = ranks[0]["complete"]
    np.testing.assert_array_equal(complete["log_averages"], joined(ranks, "own", 1))
    assert complete["num_steps"] == STEPS
    assert not any(rank["complete"] for rank in ranks[1:])


@pytest.mark.parametrize(("before", "after"), [(1, 4), (2, 1), (4, 2), (2, 2)])
def test_another_number_of_ranks_continues(before: int, after: int) -> None:
    undisturbed = run(0, 1, range(STEPS))
    first = run_ranks(run, before, range(3))
    ranks = run_ranks(run, after, range(3, STEPS), first[0]["complete"])
    np.testing.assert_allclose(ranks[0]["values"], undisturbed["values"][3:], atol=1e-5)
    np.testing.assert_allclose(joined(ranks, "own", 1), undisturbed["own"], atol=1e-5)
    if before == after:  # nothing is rounded on the way
        whole = run_ranks(run, after, range(STEPS))
        assert ranks[0]["values"] == whole[0]["values"][3:]
        np.testing.assert_array_equal(joined(ranks, "own", 1), joined(whole, "own", 1))


class Values(Callback):
    """The loss of each step; that of the second is NaN."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step == 1:
            batch.images = torch.full(batch.images.shape, torch.nan)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(float(outputs["loss"]))


def fit(folder: Path, run: Path, ranks: int, ckpt: Any = None, **options: Any) -> list[float]:
    values, save = Values(), SaveCheckpoint(keep_every_n_steps=HALF)
    callbacks = [values, save, StepGuard(path=str(run / f"bad{ranks}.jsonl"))]
    options = {"devices": ranks, "num_nodes": 1, "log_every_n_steps": 50, **options}
    trainer = tiny.trainer(run, *callbacks, max_steps=FIT_STEPS, **options)
    module = tiny.module(retrieval_pairs=0)
    module.loss = CombinedLoss(GlobalContrastiveLoss(23, 0.5))
    trainer.fit(module, datamodule=tiny.data(folder, 8 // ranks), ckpt_path=ckpt)
    return values.values


def fits(rank: int, world_size: int, folder: Path, root: Path) -> dict[str, list[float]]:
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", LOCAL_WORLD_SIZE=str(world_size))
    strategies = {
        "ddp": lambda: "ddp",
        "full": ShardedStrategy,
        "sharded": lambda: ShardedStrategy("sharded"),
    }
    found = {}
    for name, strategy in strategies.items():
        whole = fit(folder, root / name, 2, strategy=strategy())
        ckpt = root / name / f"step={HALF}.ckpt"
        rest = fit(folder, root / f"{name}_rest", 2, ckpt, strategy=strategy())
        np.testing.assert_equal(rest, whole[HALF:])
        found[name] = whole
    return found


def test_checkpoints_of_every_strategy_continue_on_any_number_of_ranks(tmp_path: Path) -> None:
    folder = tiny.shards(tmp_path / "shards")
    one = fit(folder, tmp_path / "one", 1)
    assert np.isnan(one[1])
    assert np.isfinite(one).sum() == FIT_STEPS - 1
    for losses in run_ranks(fits, 2, folder, tmp_path):
        for name, values in losses.items():
            np.testing.assert_allclose(values, one, rtol=1e-4, err_msg=name)
    for name in ("ddp", "full", "sharded"):
        ckpt = tmp_path / name / f"step={HALF}.ckpt"
        rest = fit(folder, tmp_path / f"{name}_one", 1, str(ckpt))
        np.testing.assert_allclose(rest, one[HALF:], rtol=1e-4, err_msg=name)
