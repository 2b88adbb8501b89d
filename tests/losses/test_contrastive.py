"""What the contrastive losses refuse, and the use of labels."""

from __future__ import annotations

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import ContrastiveLoss, LabelAwareContrastiveLoss, SigmoidLoss
from clipkit.types import IGNORE_LABEL, Embeddings
from tests.helpers.oracles import make_batch, unit_rows


def pairs(size):
    return unit_rows(size, 8, 0), unit_rows(size, 8, 1), torch.tensor(14.3).double()


def test_labels_change_the_task():
    labels = torch.tensor([4, IGNORE_LABEL, 4, 2, IGNORE_LABEL, 2, 2])
    embeddings = Embeddings(*pairs(7))
    by_label = LabelAwareContrastiveLoss(3)(embeddings, make_batch(7, labels))
    assert abs(float(by_label - ContrastiveLoss()(embeddings))) > 1e-3
    none = LabelAwareContrastiveLoss(3)(embeddings, make_batch(7))
    torch.testing.assert_close(none, ContrastiveLoss(3)(embeddings))


def test_the_wrong_bias_is_refused():
    image, text, scale = pairs(3)
    with pytest.raises(ConfigError, match=r"logit_bias.*SigmoidLoss"):
        ContrastiveLoss()(Embeddings(image, text, scale, torch.tensor(-10.0)))
    with pytest.raises(ConfigError, match="logit_bias -10"):
        SigmoidLoss()(Embeddings(image, text, scale))
    with pytest.raises(ConfigError, match="as many texts as images"):
        ContrastiveLoss()(Embeddings(image, text[:2], scale))
    with pytest.raises(ConfigError, match=r"tile_size.*got 0"):
        ContrastiveLoss(0)
