"""Smaller pictures and shorter captions for a part of the run."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback

from clipkit.errors import ConfigError
from clipkit.models.open_clip.positions import resize_positions
from clipkit.training.callbacks import SaveCheckpoint, TokenSchedule, TokenStage
from clipkit.training.callbacks.towers.token_schedule import shrink
from tests.helpers import tiny

END_OF_TEXT = 49407


class Sizes(Callback):
    """Listed before the schedule: sees images as they arrive, and as they are trained on."""

    def __init__(self) -> None:
        self.arrived: list[int] = []
        self.seen: list[tuple[int, int]] = []
        self.ends: list[bool] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.arrived.append(batch.images.shape[-1])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((batch.images.shape[-1], batch.tokens.shape[-1]))
        self.ends.append(bool((batch.tokens.max(dim=1).values == END_OF_TEXT).all()))


def fit(folder, run, ckpt=None, data=None, **options):
    sizes, module = Sizes(), tiny.module()
    schedule = TokenSchedule(
        [
            TokenStage(0.3, image_size=8, text_length=4),
            TokenStage(0.5, text_length=6),
            TokenStage(0.7, image_size=8),
        ]
    )
    saved = SaveCheckpoint(keep_every_n_steps=1)
    trainer = tiny.trainer(run, sizes, schedule, saved, **{"max_steps": 8, **options})
    trainer.fit(module, datamodule=tiny.data(folder, **(data or {})), ckpt_path=ckpt)
    return sizes, module.state_dict()


def test_sizes_and_lengths_follow_the_run_and_resume_exactly(tmp_path):
    folder = tiny.shards(tmp_path / "data", (40,))
    sizes, weights = fit(folder, tmp_path)
    whole = sizes.seen[-1][1]
    assert whole > 6, "the captions must be longer than what they are cut to"
    assert sizes.seen == [(8, 4)] * 3 + [(16, 6)] + [(8, whole)] * 2 + [(16, whole)] * 2
    assert all(sizes.ends)
    assert sizes.arrived == [size for size, _ in sizes.seen], "decoded at the size of the stage"
    for step in (2, 6):  # before and after a change of size
        again, same = fit(folder, tmp_path, tmp_path / f"step={step}.ckpt")
        assert again.seen == sizes.seen[step:]
        assert again.arrived == sizes.arrived[step:]
        assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_workers_decode_at_the_size_of_the_step_over_epochs_and_windows(tmp_path):
    folder = tiny.shards(tmp_path / "data", (23,))
    options = {"accumulate_grad_batches": 2, "data": {"num_workers": 2}}
    sizes, weights = fit(folder, tmp_path, **options)
    # 5 batches an epoch are 3 steps, the last one of one batch
    assert sizes.arrived == [8] * 5 + [16] * 2 + [8] * 2 + [8] + [16] * 4
    assert sizes.arrived == [size for size, _ in sizes.seen]
    again, same = fit(folder, tmp_path, tmp_path / "step=4.ckpt", **options)
    assert again.arrived == sizes.arrived[-len(again.arrived) :]
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_time_limit_leaves_the_sizes_to_the_device(tmp_path):
    folder = tiny.shards(tmp_path / "data", (40,))
    sizes, _ = fit(folder, tmp_path, max_time={"hours": 1})
    assert sizes.arrived == [16] * 8
    assert [size for size, _ in sizes.seen] == [8] * 3 + [16] + [8] * 2 + [16] * 2


def test_a_fit_without_a_schedule_has_complete_images(tmp_path):
    folder = tiny.shards(tmp_path / "data", (40,))
    data = tiny.data(folder)
    for schedule, size in (([TokenSchedule([TokenStage(0.5, image_size=8)])], 8), ([], 16)):
        sizes = Sizes()
        trainer = tiny.trainer(tmp_path, sizes, *schedule, max_steps=1)
        trainer.fit(tiny.module(), datamodule=data)
        assert sizes.arrived == [size]


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


def test_stages_that_cannot_be():
    for ends in ([0.5, 0.4], [0.0, 0.4], [2, 0.4]):
        with pytest.raises(ConfigError, match="expected ascending values above 0"):
            TokenSchedule([TokenStage(end, image_size=8) for end in ends])
    for ends in ([], [1.0]):
        with pytest.raises(ConfigError, match="stages that end before the run"):
            TokenSchedule([TokenStage(end, image_size=8) for end in ends])
    with pytest.raises(ConfigError, match="image_size, text_length or both"):
        TokenSchedule([TokenStage(0.5)])


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (TokenStage(0.5, image_size=32), "at most the tower's 16 pixels, got 32"),
        (TokenStage(0.5, text_length=2), "captions of 3 to 16 tokens, got text_length=2"),
        (TokenStage(0.5, text_length=17), "captions of 3 to 16 tokens, got text_length=17"),
    ],
)
def test_more_than_the_towers_take(tmp_path, stage, message):
    folder = tiny.shards(tmp_path / "data")
    trainer = tiny.trainer(tmp_path, TokenSchedule([stage]), max_steps=2)
    with pytest.raises(ConfigError, match=message):
        trainer.fit(tiny.module(), datamodule=tiny.data(folder))


def test_a_tower_that_fills_captions_up_gains_nothing(tmp_path):
    folder = tiny.shards(tmp_path / "data")
    module = tiny.module()
    module.encoder.text_tower.trims_exactly = False
    trainer = tiny.trainer(tmp_path, TokenSchedule([TokenStage(0.5, text_length=8)]), max_steps=2)
    with pytest.raises(ConfigError, match="save nothing"):
        trainer.fit(module, datamodule=tiny.data(folder))
