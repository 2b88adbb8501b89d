"""Locked towers."""

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.models import DualEncoder, OpenClipImageTower, lock
from tests.helpers.tiny_models import RESNET, VIT, batch, encoder


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_locked_tower_does_not_learn():
    model = encoder().train()
    lock(model.image_tower)
    assert trained(model.image_tower) == set()
    out = model(batch())
    (out.logit_scale * out.image @ out.text.T).square().sum().backward()
    assert all(p.grad is None for p in model.image_tower.parameters())
    assert all(p.grad is not None for p in model.text_tower.parameters())


def test_last_groups_go_on_learning():
    model = encoder()
    groups = model.image_tower.layer_groups()
    lock(model.image_tower, unlocked_groups=2)
    assert trained(model.image_tower) == {name for group in groups[-2:] for name in group}
    lock(model.text_tower, unlocked_groups=4)
    assert trained(model.text_tower) == {n for n, _ in model.text_tower.named_parameters()}


@pytest.mark.parametrize("count", [-1, 5])
def test_more_groups_than_there_are_are_refused(count):
    with pytest.raises(ConfigError, match=f"has 4 layer groups, got {count}"):
        lock(encoder().image_tower, unlocked_groups=count)


def test_parameters_that_are_constants_stay_constants():
    vision = {**VIT, "pos_embed_type": "sin_cos_2d"}
    tower = OpenClipImageTower({"embed_dim": 24, "vision_cfg": vision})
    lock(tower, unlocked_groups=4)
    assert "visual.positional_embedding" not in trained(tower)


@pytest.mark.parametrize("unlocked_groups", [0, 2])
def test_batch_norms_of_locked_layers_keep_their_statistics(unlocked_groups):
    model = encoder(RESNET)
    lock(model.image_tower, unlocked_groups)
    model.train()
    before = {name: value.clone() for name, value in model.image_tower.state_dict().items()}
    model(batch())
    after = model.image_tower.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert bool(changed) == bool(unlocked_groups)
    assert all(name.startswith("visual.layer4.") for name in changed)


def test_without_a_lock_batch_norms_learn_their_statistics():
    model = encoder(RESNET).train()
    before = model.image_tower.visual.bn1.running_mean.clone()
    model(batch())
    assert not torch.equal(before, model.image_tower.visual.bn1.running_mean)


def test_dropout_of_a_locked_tower_is_off_while_training():
    image = OpenClipImageTower({"embed_dim": 24, "vision_cfg": {**VIT, "patch_dropout": 0.5}})
    model = DualEncoder(image, encoder().text_tower).train()
    assert not torch.equal(model(batch()).image, model(batch()).image)
    lock(model.image_tower)
    model.train()
    assert torch.equal(model(batch()).image, model(batch()).image)
    assert model.text_tower.training
