"""Options that would stop a run in its midst."""

from __future__ import annotations

import pytest
from torch import nn

from clipkit.errors import ConfigError
from clipkit.losses import CombinedLoss, ContrastiveLoss, ModalityPairLoss, WeightedTerm
from clipkit.models import with_towers
from clipkit.models.towers.freezing import lock
from clipkit.training.checks.options import check_norms
from tests.helpers import tiny
from tests.helpers.series import SeriesTower


def test_norms_over_ranks_need_samples_on_all_ranks():
    encoder = with_towers(tiny.encoder(), {"series": SeriesTower(norm=True)})
    check_norms(encoder, 2)
    encoder.image_tower.norm = nn.BatchNorm2d(3)
    nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
    assert isinstance(encoder.get_submodule("series_tower.normed"), nn.SyncBatchNorm)
    check_norms(encoder, 1)
    with pytest.raises(ConfigError, match=r"trainer.sync_batchnorm: .* in its series_tower"):
        check_norms(encoder, 2)
    lock(encoder.towers["series"])
    check_norms(encoder, 2)


def test_a_fit_refuses_norms_over_ranks_before_its_first_step(shards, tmp_path, monkeypatch):
    """As rank 0 of two, which would wait for the other without end."""
    module = tiny.module()
    module.encoder = with_towers(tiny.encoder(), {"series": SeriesTower(norm=True)})
    nn.SyncBatchNorm.convert_sync_batchnorm(module.encoder)
    term = ModalityPairLoss(ContrastiveLoss(), "image", "series")  # or its tower is locked
    module.loss = CombinedLoss(terms={"series": WeightedTerm(term)})
    trainer = tiny.trainer(tmp_path, max_steps=1)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    with pytest.raises(ConfigError, match=r"trainer.sync_batchnorm: .* in its series_tower"):
        trainer.fit(module, datamodule=tiny.data(shards))
    assert trainer.global_step == 0
