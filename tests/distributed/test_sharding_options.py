"""Replicas of sharded weights, and what a rank holds of them, against one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from clipkit.errors import ConfigError
from clipkit.evaluation import EmbedOptions, Retrieval
from clipkit.models.files.sharded import is_sharded, read_checkpoint
from clipkit.training import ShardedStrategy
from clipkit.training.callbacks import ExponentialMovingAverage, SaveCheckpoint, StepGuard
from clipkit.training.strategies.gathering import gather_to_first, own_rows
from clipkit.training.strategies.ranks import check_resharding, replicated_mesh
from clipkit.training.strategies.sharding import ShardingOptions, shard_encoder
from tests.helpers import tiny
from tests.helpers.bad_steps import Poison
from tests.helpers.factories import write_shards
from tests.helpers.ranks import run_ranks

STEPS, HALF = 4, 2
RANKS = 4
DEFAULT = ShardingOptions()
NUM_IMAGES = 5
"""Ranks make uneven numbers of passes over them."""


class Watch(Callback):
    """Losses, and the complete gradients of the first step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: dict[str, np.ndarray] = {}
        self.held: dict[str, Any] = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step:
            return
        named = list(pl_module.encoder.named_parameters())
        self.gradients = {
            name: whole(p.grad).numpy() for name, p in without_attention_biases(named)
        }
        sharded = [p for _, p in named if isinstance(p, DTensor)]
        self.held = {
            "share": sum(p.to_local().numel() for p in sharded) / sum(p.numel() for _, p in named),
            "placements": {p.placements for p in sharded},
        }

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def without_attention_biases(named: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The gradients of keys' biases are rounding."""
    return [(name, p) for name, p in named if not name.endswith("in_proj_bias")]


def whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value.clone()


def fit(folder: Path, run: Path, ranks: int = 1, ckpt: Path | None = None, **options: Any) -> Watch:
    """Eight pairs per step on any number of ranks; step 3 is bad on the last rank."""
    watch = Watch()
    trainer = tiny.trainer(
        run, Poison([3], rank=ranks - 1), StepGuard(), watch, ExponentialMovingAverage(),
        SaveCheckpoint(keep_every_n_steps=HALF), max_steps=STEPS, devices=ranks, num_nodes=1,
        gradient_clip_val=0.5, **options,
    )  # fmt: skip
    data = tiny.data(folder, 8 // ranks)
    trainer.fit(tiny.module(labels=True), datamodule=data, ckpt_path=ckpt)
    return watch


def resumed_runs(world_size: int, folder: Path, root: Path) -> list[Watch]:
    """Runs that continue from the middle of others, with every option."""

    def resume(name: str, source: str, strategy: Any) -> Watch:
        ckpt = root / source / f"step={HALF}.ckpt"
        return fit(folder, root / name, world_size, ckpt, strategy=strategy)

    parts = ShardedStrategy(checkpoint="sharded", shard_size=2, reshard_after_forward=False)
    return [
        resume("in_parts", "one", parts),
        resume("partly", "replicas", ShardedStrategy(reshard_after_forward=2, cpu_offload=True)),
        resume("ddp", "replicas", "ddp"),
    ]


def evaluate(folder: Path, mesh: Any = None, options: ShardingOptions = DEFAULT) -> Any:
    """Retrieval before and after a training pass, which must leave the options as they are."""
    encoder = tiny.encoder()
    if mesh is not None:
        shard_encoder(encoder, mesh, options)
    evaluator = Retrieval(str(folder), options=EmbedOptions(batch_size=2))
    before = evaluator.run(encoder)
    encoder(tiny.batch()).image.sum().backward()
    held = [type(p) is DTensor for p in encoder.image_tower.parameters()]
    return before, evaluator.run(encoder), all(held)


def gathered(world_size: int) -> list[Any]:
    """Rows that do not divide by the ranks, or are fewer, on both kinds of mesh."""
    results = []
    for shape, placements in (((4,), [Shard(0)]), ((2, 2), [Replicate(), Shard(0)])):
        mesh = init_device_mesh("cpu", shape)
        values = {
            str(rows): torch.arange(3.0 * rows).view(rows, 3).to(torch.bfloat16)
            for rows in (1, 5, 8)
        }
        spread = {name: distribute_tensor(v, mesh, placements) for name, v in values.items()}
        for name, value in values.items():
            cut = own_rows(value, spread[name])
            assert cut.placements == tuple(placements)
            assert torch.equal(cut.to_local(), spread[name].to_local())
        results.append(
            {
                name: value.float().numpy() if isinstance(value, torch.Tensor) else value
                for name, value in gather_to_first({**spread, "n": 2, "s": torch.ones(())}).items()
            }
        )
    return results


def on_four_ranks(rank: int, world_size: int, folder: Path, root: Path):
    first = fit(folder, root / "replicas", world_size, strategy=ShardedStrategy(shard_size=2))
    resumed = [watch.losses for watch in resumed_runs(world_size, folder, root)]
    in_parts = root / "in_parts" / f"step={STEPS}.ckpt"
    assert is_sharded(in_parts)
    ranks = init_device_mesh("cpu", (world_size,))
    replicas = replicated_mesh(ranks, 2)
    found = [
        evaluate(root / "images", replicas),
        evaluate(root / "images", ranks, ShardingOptions(reshard_after_forward=2)),
        evaluate(root / "images", replicas, ShardingOptions(reshard_after_forward=False)),
    ]
    return first.losses, first.gradients, first.held, resumed, found, gathered(world_size)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def one(root: Path) -> Watch:
    write_shards(root / "images", (NUM_IMAGES,))
    return fit(tiny.shards(root / "data", (60,)), root / "one")


@pytest.fixture(scope="module")
def four(root: Path, one: Watch) -> list[Any]:
    return run_ranks(on_four_ranks, RANKS, root / "data", root)


def test_replicas_train_like_one_process(one, four):
    assert np.isnan(one.losses[2])
    for losses, gradients, held, _, _, _ in four:
        np.testing.assert_allclose(losses, one.losses, rtol=1e-5)
        assert gradients.keys() == one.gradients.keys()
        for name, gradient in gradients.items():
            np.testing.assert_allclose(
                gradient, one.gradients[name], rtol=1e-4, atol=1e-7, err_msg=name
            )
        assert held["placements"] == {(Replicate(), Shard(0))}
        assert 0.45 < held["share"] < 0.55


def test_runs_continue_under_any_strategy_and_option(root, one, four):
    for _, _, _, resumed, _, _ in four:
        for losses in resumed:
            np.testing.assert_allclose(losses, one.losses[HALF:], rtol=1e-5)
    expected = tiny.comparable(read_checkpoint(root / "one" / "last.ckpt")["state_dict"])
    for run in ("replicas", "in_parts", "partly", "ddp"):
        weights = tiny.comparable(read_checkpoint(root / run / "last.ckpt")["state_dict"])
        assert weights.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5, msg=name)
    # replicas write their parts once
    sizes = [part.stat().st_size for part in (root / "in_parts" / "last.ckpt").glob("shard-*")]
    assert sum(sizes) < 1.1 * (root / "one" / "last.ckpt").stat().st_size


def test_evaluators_agree_with_one_process(root, one, four):
    expected = evaluate(root / "images")[0]
    for _, _, _, _, found, _ in four:
        for before, after, is_sharded_again in found:
            assert before == after == pytest.approx(expected)
            assert is_sharded_again


def test_tensors_are_gathered_on_the_first_rank_alone(four):
    first, *others = [results for *_, results in four]
    assert others == [[{}, {}]] * 3
    for values in first:
        assert list(values) == ["1", "5", "8", "n", "s"]
        assert values["n"] == 2
        for rows in (1, 5, 8):
            np.testing.assert_array_equal(values[str(rows)], np.arange(3.0 * rows).reshape(rows, 3))


@pytest.fixture
def many_ranks() -> Any:
    """A process group of 512 ranks of which this is one; nothing is exchanged."""
    dist.init_process_group("fake", rank=0, world_size=512, store=FakeStore())
    yield init_device_mesh("cpu", (512,))
    dist.destroy_process_group()


def test_replicas_of_large_clusters(many_ranks):
    mesh = replicated_mesh(many_ranks, 8)
    assert mesh.shape == (64, 8)
    assert mesh.get_group("shard").size() == 8
    assert dist.get_process_group_ranks(mesh.get_group("shard")) == list(range(8))
    assert dist.get_process_group_ranks(mesh.get_group("replica")) == list(range(0, 512, 8))
    check_resharding(4, mesh)
    encoder = tiny.encoder()
    shard_encoder(encoder, mesh, ShardingOptions(reshard_after_forward=4))
    weight = encoder.text_tower.text.token_embedding.weight
    assert weight.to_local().shape[0] == weight.shape[0] // 8
    encoder(tiny.batch()).image.sum().backward()
    assert replicated_mesh(many_ranks, None) is replicated_mesh(many_ranks, 512) is many_ranks
    with pytest.raises(ConfigError, match=r"shard_size: expected a divisor.*got 7 for 512 ranks"):
        replicated_mesh(many_ranks, 7)
    for wrong in (3, 8, 16):
        with pytest.raises(ConfigError, match=rf"_forward: .*divisor of 8.*got {wrong}"):
            check_resharding(wrong, mesh)


def test_numbers_of_ranks_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"shard_size: expected at least 2, got 1"):
        ShardedStrategy(shard_size=1)
    with pytest.raises(ConfigError, match=r"reshard_after_forward: expected at least 2, got 1"):
        ShardedStrategy(reshard_after_forward=1)
