"""Batches on their way to a GPU."""

from __future__ import annotations

from pathlib import Path

import torch

from clipkit.data import (
    DeviceDecodedTransform,
    DeviceDecoder,
    DevicePrefetcher,
    ShardIndex,
    TrainTransform,
)
from clipkit.training.datamodule.options import PairOptions
from clipkit.types import Batch
from tests.gpu.device import DEVICE, IS_CUDA, only_cuda
from tests.helpers import tiny
from tests.helpers.factories import write_shard, write_shards
from tests.helpers.images import encode, photo
from tests.helpers.streams import ids, make


def test_prefetched_batches_are_those_of_the_stream(tmp_path: Path) -> None:
    index = ShardIndex.from_urls([str(path) for path in write_shards(tmp_path, (200,))])
    expected = [batch.images.clone() for batch in make(index)]
    busy = torch.randn(*(2 * [4096 if IS_CUDA else 64]), device=DEVICE)
    found = []
    for batch in DevicePrefetcher(make(index), DEVICE):
        assert {tensor.device.type for tensor in batch.tensors()} == {DEVICE.type}
        for _ in range(4):
            busy = busy @ busy / 64  # the copies of this step must not overtake what it reads
        found.append(batch.images + 0)
        del batch
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))


@only_cuda
def test_one_batch_more_is_on_the_device() -> None:
    class Large:
        def __len__(self) -> int:
            return 8

        def __iter__(self):
            for _ in range(8):
                images = torch.zeros(512, 3, 224, 224, dtype=torch.uint8, pin_memory=True)
                yield Batch(images, None, torch.zeros(512, dtype=torch.int64), ("",) * 512)

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    size = 512 * 3 * 224 * 224
    for batch in DevicePrefetcher(Large(), "cuda"):
        batch.images.amax()
    assert torch.cuda.max_memory_allocated() < 4.5 * size, "this loop's own batch, the next two"


@only_cuda
def test_images_decoded_by_the_gpu_are_those_of_the_workers(tmp_path: Path) -> None:
    kinds = [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})]
    samples = []
    for i in range(32):
        kind, options = kinds[i % len(kinds)]
        image = photo(300 + 20 * i, 400, seed=i)
        samples.append((f"{i:02d}", {"jpg": encode(image, kind, **options), "txt": b"words"}))
    index = ShardIndex.from_urls([str(write_shard(tmp_path / "0.tar", samples))])
    crop = TrainTransform(64, scale=(0.4, 1.0), fast=False)
    expected = list(make(index, 8, image_transform=crop))
    stream = make(index, 8, image_transform=DeviceDecodedTransform(crop))
    decoder = DeviceDecoder("cuda", max_decoded_mib=2)
    for batch, other in zip(
        DevicePrefetcher(stream, "cuda", finish=decoder), expected, strict=True
    ):
        assert ids(batch) == ids(other)
        error = (batch.images.cpu().float() - other.images.float()).abs().mean((1, 2, 3))
        assert error.max() < 2


@only_cuda
def test_a_fit_with_images_decoded_by_the_gpu(tmp_path: Path) -> None:
    data = tiny.data(
        tiny.shards(tmp_path / "data"),
        samples=PairOptions(transform=DeviceDecodedTransform(TrainTransform(16))),
    )
    trainer = tiny.trainer(tmp_path, max_steps=4, accelerator="gpu")
    trainer.fit(tiny.module(), datamodule=data)
    assert trainer.global_step == 4
