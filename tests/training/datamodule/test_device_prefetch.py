"""Batches that are copied by a stream of their own under Lightning: the same run and resumes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clipkit.data import DevicePrefetcher
from clipkit.data.device.prefetcher import CopyStream, Finish
from clipkit.training import PairDataModule
from clipkit.training.callbacks import KeyLog, SaveCheckpoint
from clipkit.types import Batch
from tests.helpers import tiny


class HostStream(CopyStream):
    """Copies within host memory."""

    def __init__(self) -> None:
        self.count = 0

    def copy(self, batch: Batch, finish: Finish) -> Batch:
        self.count += 1
        return finish(replace(batch, images=batch.images.clone()))


def fit(source, run, ckpt=None, **options):
    trainer = tiny.trainer(
        run, KeyLog(str(run / "keys.txt")), SaveCheckpoint(keep_every_n_steps=2), **options
    )
    module = tiny.module()
    trainer.fit(module, datamodule=tiny.data(source), ckpt_path=ckpt)
    return (run / "keys.txt").read_text().splitlines(), module.state_dict()


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"max_steps": 8}, 4),
        ({"max_steps": -1, "max_epochs": 2, "accumulate_grad_batches": 2}, 4),
        ({"max_steps": 6, "limit_train_batches": 3}, 2),
    ],
    ids=["steps", "accumulation", "short epochs"],
)
def test_a_run_and_its_resume_are_those_without_prefetching(tmp_path, monkeypatch, options, step):
    source = tiny.shards(tmp_path / "data")
    plain, weights = fit(source, tmp_path / "plain", **options)
    streams: list[HostStream] = []

    def prefetched(self: PairDataModule) -> DevicePrefetcher:
        streams.append(HostStream())
        return DevicePrefetcher(self.train_stream, "cuda", stream=streams[-1])

    monkeypatch.setattr(PairDataModule, "train_dataloader", prefetched)
    run = tmp_path / "run"
    for ckpt in (None, run / f"step={step}.ckpt"):
        keys, found = fit(source, run, ckpt, **options)
        assert keys == plain
        assert all(torch.equal(found[name], weights[name]) for name in weights)
        assert streams[-1].count > 0


def test_the_data_module_prefetches_on_cuda_alone_and_checks_on_the_host(tmp_path, monkeypatch):
    data = tiny.data(tiny.shards(tmp_path / "data"))
    trainer = tiny.trainer(tmp_path, max_steps=1)
    trainer.fit(tiny.module(), datamodule=data)
    assert data.train_dataloader() is data.train_stream
    cuda = property(lambda strategy: torch.device("cuda"))
    monkeypatch.setattr(type(trainer.strategy), "root_device", cuda)
    assert isinstance(data.train_dataloader(), DevicePrefetcher)
    checked: list[Batch] = []
    data.check_batch = checked.append
    one = next(iter(DevicePrefetcher(data.train_stream, "meta", data.check_batch)))
    assert len(checked) == 1
    data.on_before_batch_transfer(one, 0)
    assert len(checked) == 1, "a check on the device would wait for it"
    data.on_before_batch_transfer(next(iter(data.train_stream)), 0)
    assert len(checked) == 2
