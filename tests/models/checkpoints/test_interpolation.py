"""Weights between two models, and training on from a checkpoint's."""

from __future__ import annotations

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models import (
    LinearLabelHead,
    from_checkpoint,
    from_open_clip,
    interpolate,
    save_encoder,
)
from tests.helpers.tiny import CONFIG


def encoder(seed: int, classes: int = 0):
    torch.manual_seed(seed)
    built = from_open_clip(CONFIG, label_head=LinearLabelHead(16, classes) if classes else None)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return built


def test_both_ends_are_exact_and_the_middle_is_the_mean():
    start, end = encoder(0), encoder(1)
    for alpha, expected in ((0.0, start), (1.0, end)):
        for name, value in interpolate(start, end, alpha).state_dict().items():
            assert torch.equal(value, expected.state_dict()[name]), name
    half = interpolate(start, end, 0.5)
    for name, value in half.state_dict().items():
        mean = (start.state_dict()[name].double() + end.state_dict()[name].double()) / 2
        torch.testing.assert_close(value.double(), mean, atol=1e-7, rtol=1e-5)
    assert not half.training


def test_a_head_that_came_with_fine_tuning_is_kept():
    start, end = encoder(0), encoder(1, classes=3)
    mixed = interpolate(start, end, 0.25)
    assert torch.equal(mixed.label_head.linear.weight, end.label_head.linear.weight)


def test_other_architectures_and_alphas_are_refused():
    other = from_open_clip({**CONFIG, "embed_dim": 8})
    with pytest.raises(CheckpointError, match="start and end differ"):
        interpolate(other, encoder(0), 0.5)
    with pytest.raises(ConfigError, match="alpha: expected 0 to 1"):
        interpolate(encoder(0), encoder(1), 1.5)


def test_training_on_from_a_checkpoint_with_another_head(tmp_path):
    before = encoder(0, classes=5)
    save_encoder(before, tmp_path / "model")
    same = from_checkpoint(tmp_path / "model")
    assert same.training
    assert same.label_head.num_classes == 5
    other = from_checkpoint(tmp_path / "model", LinearLabelHead(16, 2))
    assert other.label_head.num_classes == 2
    for name, value in other.state_dict().items():
        if not name.startswith("label_head"):
            assert torch.equal(value, before.state_dict()[name])
    with pytest.raises(ConfigError, match="expected the towers' 16"):
        from_checkpoint(tmp_path / "model", LinearLabelHead(17, 2))


def test_heads_of_other_classes_are_not_mixed():
    start, end = encoder(0, classes=2), encoder(1, classes=2)
    end.label_head.class_names = ("cat", "dog")
    assert interpolate(start, end, 0.5).label_head.class_names == ("cat", "dog")
    start.label_head.class_names = ("dog", "cat")
    with pytest.raises(CheckpointError, match="class 0 is 'dog' for the label head of start"):
        interpolate(start, end, 0.5)
