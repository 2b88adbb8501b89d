"""Heads that score classes."""

import math

import pytest
import torch
import torch.nn.functional as F

from clipkit.errors import ConfigError
from clipkit.models import CosineLabelHead, LinearLabelHead


def test_linear_head_starts_without_preference():
    head = LinearLabelHead(8, 5)
    loss = F.cross_entropy(head(torch.randn(4, 8)), torch.tensor([0, 1, 2, 3]))
    assert loss.item() == pytest.approx(math.log(5))


def test_cosine_head_does_not_see_the_length_of_embeddings():
    head = CosineLabelHead(8, 5, scale=3.0)
    image = torch.randn(4, 8)
    torch.testing.assert_close(head(image), head(7 * image))
    with torch.no_grad():
        by_hand = [[3 * F.cosine_similarity(x, p, dim=0) for p in head.prototypes] for x in image]
        torch.testing.assert_close(head(image), torch.tensor(by_hand))


@pytest.mark.parametrize("head", [LinearLabelHead(8, 5), CosineLabelHead(8, 5, scale=3.0)])
def test_config_builds_the_same_head(head):
    again = type(head)(**head.config())
    again.load_state_dict(head.state_dict())
    image = torch.randn(2, 8)
    torch.testing.assert_close(again(image), head(image))
    assert again.config() == head.config()


@pytest.mark.parametrize("head", [LinearLabelHead, CosineLabelHead])
def test_no_classes_are_refused(head):
    with pytest.raises(ConfigError, match="num_classes"):
        head(8, 0)


def test_scale_must_be_positive():
    with pytest.raises(ConfigError, match="scale"):
        CosineLabelHead(8, 5, scale=0.0)
