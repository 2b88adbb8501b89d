"""Encoders whose weights the first rank alone has built, sharded, against those of every rank."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from clipkit.cli.main import main
from clipkit.errors import ClipkitError
from clipkit.models import (
    DualEncoder,
    PrototypeLabelHead,
    from_open_clip,
    load_encoder,
    save_encoder,
    structure_only,
)
from clipkit.models.lora import add_lora
from clipkit.training import ContrastiveModule, ShardedStrategy
from clipkit.training.strategies.first_rank import shard_from_first_rank
from clipkit.training.strategies.ranks import replicated_mesh
from clipkit.training.strategies.sharding import ShardingOptions
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

RANKS = 4
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}  # channels last, batch norms
Build = Callable[[], DualEncoder]


def resnet() -> DualEncoder:
    torch.manual_seed(5)
    head = PrototypeLabelHead(16, ["red", "blue"])
    head.read_texts(lambda texts: torch.arange(3 * len(texts)).view(len(texts), 3))
    return from_open_clip({**tiny.CONFIG, "vision_cfg": RESNET}, label_head=head)


def adapted() -> DualEncoder:
    encoder = tiny.encoder()
    add_lora(encoder.text_tower, rank=2)
    return encoder


def whole(encoder: DualEncoder) -> dict[str, torch.Tensor]:
    """All parameters and buffers, also those that no checkpoint holds."""
    tensors = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    full = {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in tensors.items()}
    return {name: tensor.detach().clone() for name, tensor in full.items()}


def same_weights(build: Build, rank: int, shard_size: int, options: ShardingOptions) -> None:
    expected = build()
    with structure_only() if rank else nullcontext():
        encoder = build()
    device = torch.device("cpu")
    mesh = replicated_mesh(init_device_mesh("cpu", (dist.get_world_size(),)), shard_size)
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    shard_from_first_rank(encoder, mesh, options, device)
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == trained
    found, wanted = whole(encoder), whole(expected)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    shard_from_first_rank(expected, mesh, options, device)  # complete on every rank
    images = torch.ones(2, 3, *[expected.image_tower.image_size] * 2, dtype=torch.uint8)
    for some in (encoder, expected):
        some.encode_image(images).square().sum().backward()
    for parameter, other in zip(encoder.parameters(), expected.parameters(), strict=True):
        assert getattr(parameter, "placements", None) == getattr(other, "placements", None)
        assert (parameter.grad is None) == (other.grad is None)
        if parameter.grad is not None:
            assert torch.equal(*(p.grad.full_tensor() for p in (parameter, other)))


def refused(build: Build) -> str:
    mesh = init_device_mesh("cpu", (RANKS,))
    try:
        shard_from_first_rank(build(), mesh, ShardingOptions(), torch.device("cpu"))
    except ClipkitError as error:
        return str(error)
    return ""


def refusals(rank: int) -> list[str]:
    def without() -> DualEncoder:
        with structure_only():
            return tiny.encoder()

    def other() -> DualEncoder:
        with structure_only() if rank else nullcontext():
            return tiny.encoder(labels=rank == 2)

    def tied() -> DualEncoder:
        encoder = other()
        encoder.text_tower.second = encoder.text_tower.text.ln_final
        return encoder

    return [refused(build) for build in (without, other, tied)]


def words(folder: Path, run: Path, *more: str) -> list[str]:
    return ["fit", *tiny.words(folder, run, "--trainer.max_steps=1", *more)]


def record(seen: list[dict[str, torch.Tensor]]) -> None:
    """Keep the weights of a run once they are on their ranks."""

    def on_fit_start(module: ContrastiveModule) -> None:
        seen.append(whole(module.encoder))

    ContrastiveModule.on_fit_start = on_fit_start  # type: ignore[method-assign, assignment]


def command_line(rank: int, world_size: int, folder: Path, run: Path, pretrained: str) -> list[Any]:
    """Weights of runs of the command line, and whether this rank built them."""
    same_weights(adapted, rank, world_size, ShardingOptions(cpu_offload=True))
    seen: list[Any] = []
    record(seen)
    shard = ShardedStrategy.shard

    def watch(strategy: ShardedStrategy, encoder: DualEncoder, precision: str) -> None:
        seen.append(all(p.is_meta for p in encoder.parameters()))
        shard(strategy, encoder, precision)

    ShardedStrategy.shard = watch  # type: ignore[method-assign, assignment]
    name = "--trainer.strategy.class_path=clipkit.training.ShardedStrategy"
    strategy = (name, f"--trainer.devices={world_size}")
    for name, more in (("random", ()), ("pretrained", (pretrained,))):
        assert main(words(folder, run / name, *strategy, *more)) == 0
    return [{n: t.numpy() for n, t in e.items()} if isinstance(e, dict) else e for e in seen]


def on_ranks(rank: int, world_size: int) -> list[str]:
    kept = ShardingOptions(reshard_after_forward=False)
    same_weights(resnet, rank, RANKS, ShardingOptions())
    same_weights(partial(tiny.encoder, labels=True), rank, 2, kept)
    return refusals(rank)


def test_shards_are_those_of_weights_on_every_rank():
    for no_weights, other, tied in run_ranks(on_ranks, RANKS):
        assert "expected weights on the first rank" in no_weights
        assert "label_head.linear.weight differs" in other
        assert "shares its weight" in tied


def test_runs_of_the_command_line_have_the_weights_of_one_process(tmp_path, monkeypatch):
    folder = tiny.shards(tmp_path / "data", (40,))
    torch.manual_seed(9)
    save_encoder(from_open_clip(tiny.CONFIG), tmp_path / "export")
    source = {"path": str(tmp_path / "export")}
    entry = {"class_path": "clipkit.models.from_checkpoint", "init_args": source}
    start = f"--model.encoder={json.dumps(entry)}"
    results = run_ranks(command_line, 2, folder, tmp_path / "ranks", start)

    expected: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(ContrastiveModule, "on_fit_start", lambda _: None)
    record(expected)
    assert main(words(folder, tmp_path / "one", "--data.batch_size=8")) == 0
    expected.append(whole(load_encoder(tmp_path / "export")))
    for rank, runs in enumerate(results):
        was_meta, found = runs[::2], runs[1::2]
        assert was_meta == [rank > 0] * 2
        for weights, wanted in zip(found, expected, strict=True):
            assert weights.keys() == wanted.keys()
            assert all(torch.equal(torch.as_tensor(weights[n]), t) for n, t in wanted.items())
