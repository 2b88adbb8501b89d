"""Smaller pictures for a part of the run."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback

from clipkit.errors import ConfigError
from clipkit.models.positions import resize_positions
from clipkit.training.callbacks import ImageSizeSchedule, ImageSizeStage, SaveCheckpoint
from clipkit.training.callbacks.image_size_schedule import shrink
from tests.training import tiny


class Sizes(Callback):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(batch.images.shape[-1])


def fit(folder, run, ckpt=None):
    sizes, module = Sizes(), tiny.module()
    schedule = ImageSizeSchedule([ImageSizeStage(8, until=0.5)])
    trainer = tiny.trainer(run, sizes, schedule, SaveCheckpoint(keep_every_n_steps=1), max_steps=6)
    trainer.fit(module, datamodule=tiny.data(folder), ckpt_path=ckpt)
    return sizes.seen, module.state_dict()


def test_sizes_follow_the_run_and_resume_exactly(tmp_path):
    folder = tiny.shards(tmp_path / "data", (40,))
    sizes, weights = fit(folder, tmp_path)
    assert sizes == [8, 8, 8, 16, 16, 16]
    for step in (2, 4):
        again, same = fit(folder, tmp_path, tmp_path / f"step={step}.ckpt")
        assert again == sizes[step:]
        assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_positions_keep_the_class_token_and_pass_gradients():
    positions = torch.randn(1 + 16, 4, requires_grad=True)
    assert resize_positions(positions, 4, 4) is positions
    small = resize_positions(positions, 2, 2)
    assert small.shape == (5, 4)
    torch.testing.assert_close(small[0], positions[0])
    small.sum().backward()
    assert positions.grad.abs().min() > 0
    flat = resize_positions(torch.ones(16, 4), 2, 2)  # no class token
    torch.testing.assert_close(flat, torch.ones(4, 4))


def test_shrinking_keeps_colours():
    images = torch.full((2, 3, 16, 16), 7, dtype=torch.uint8)
    assert torch.equal(shrink(images, 8), torch.full((2, 3, 8, 8), 7, dtype=torch.uint8))
    assert shrink(images, 16) is images


def test_stages_that_cannot_be(tmp_path):
    for stages in ([], [ImageSizeStage(8, 0.5), ImageSizeStage(8, 0.4)], [ImageSizeStage(8, 1.0)]):
        with pytest.raises(ConfigError, match="ends that grow"):
            ImageSizeSchedule(stages)
    folder = tiny.shards(tmp_path / "data")
    trainer = tiny.trainer(tmp_path, ImageSizeSchedule([ImageSizeStage(32, 0.5)]), max_steps=2)
    with pytest.raises(ConfigError, match="at most the tower's 16 pixels, got 32"):
        trainer.fit(tiny.module(), datamodule=tiny.data(folder))
