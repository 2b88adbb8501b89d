"""Labels are looked at before they are on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    LabelLoss,
    ModalityLabelLoss,
    MultiLabelLoss,
    WeightedTerm,
)
from clipkit.types import Batch
from tests.helpers import tiny


def batch(**options: torch.Tensor) -> Batch:
    labels = options.pop("labels", torch.zeros(2, dtype=torch.int64))
    return Batch(torch.zeros(2, 3, 4, 4), None, labels, ("a", "b"), **options)


def test_a_label_without_a_class_is_named_before_the_transfer(tmp_path: Path) -> None:
    data = tiny.data(tiny.shards(tmp_path))
    module, trainer = tiny.module(labels=True), tiny.trainer(tmp_path, max_steps=1)
    trainer.fit(module, datamodule=data)
    with pytest.raises(ConfigError, match=r"labels: expected 0 to 3 .* got 4"):
        data.on_before_batch_transfer(batch(labels=torch.tensor([0, 4])), 0)


def test_every_term_is_asked() -> None:
    loss = CombinedLoss(ContrastiveLoss(), MultiLabelLoss(), 1.0, 1.0)
    loss.check_batch(batch(), 3)
    loss.check_batch(batch(multi_labels=torch.tensor([[0, 1, -100]] * 2)), None)
    with pytest.raises(ConfigError, match=r"multi_labels: expected 0, 1 or -100"):
        loss.check_batch(batch(multi_labels=torch.tensor([[0, 1, 2]] * 2)), 3)
    with pytest.raises(ConfigError, match=r"expected \[2, 4\]"):
        loss.check_batch(batch(multi_labels=torch.tensor([[0, 1, 0]] * 2)), 4)


def test_no_class_and_no_head_pass() -> None:
    loss = CombinedLoss(ContrastiveLoss(), LabelLoss(), 0.0, 1.0)
    loss.check_batch(batch(labels=torch.tensor([-100, 2])), 3)
    loss.check_batch(batch(labels=torch.tensor([7, 2])), None)


def test_each_term_has_the_width_of_its_own_head() -> None:
    own = WeightedTerm(ModalityLabelLoss(LabelLoss(), "series"))
    loss = CombinedLoss(ContrastiveLoss(), terms={"own": own})
    sizes = {"image": 2, "series": 5}
    loss.check_batch(batch(labels=torch.tensor([0, 4])), sizes)
    with pytest.raises(ConfigError, match=r"labels: expected 0 to 4 .* got 5"):
        loss.check_batch(batch(labels=torch.tensor([0, 5])), sizes)
    both = CombinedLoss(ContrastiveLoss(), LabelLoss(), 1.0, 1.0, terms={"own": own})
    with pytest.raises(ConfigError, match=r"labels: expected 0 to 1 .* got 4"):
        both.check_batch(batch(labels=torch.tensor([0, 4])), sizes)
