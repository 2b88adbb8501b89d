"""Options that would stop a run in its midst."""

from __future__ import annotations

import pytest
from torch import nn

from clipkit.errors import ConfigError
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
