"""The heat map is where the emoji is that the text names."""

from __future__ import annotations

import pytest

from clipkit.models import DualEncoder, TimmImageTower
from tests.helpers import planted
from tests.helpers.tiny_models import TEXT, VIT, encoder

TEXT_OF_CLIP = {**TEXT, "vocab_size": 49408}
CHANCE = 0.5


def class_token():
    return encoder(VIT, TEXT_OF_CLIP)


def mean_of_patches():
    return encoder({**VIT, "pool_type": "avg"}, TEXT_OF_CLIP)


def convolutions():
    text_tower = encoder(VIT, TEXT_OF_CLIP).text_tower
    return DualEncoder(TimmImageTower("test_convnext", 24, image_size=64), text_tower)


@pytest.mark.parametrize(
    ("make", "method", "steps"),
    [
        (class_token, "attention", 160),
        (mean_of_patches, "attention", 130),
        (convolutions, "grad_cam", 100),
    ],
)
def test_the_named_half_is_relevant(make, method, steps):
    untrained = planted.hit_rate(make().eval(), "auto", planted.PAIRS)
    model = planted.trained(make(), steps)
    rate = planted.hit_rate(model, "auto")
    assert model.explain(planted.image((0, 1)), "a sun").method == method
    assert rate >= 0.85
    assert rate > untrained + 0.2
    assert abs(untrained - CHANCE) <= 0.15
    assert planted.hit_rate(model, "occlusion") >= 0.6
