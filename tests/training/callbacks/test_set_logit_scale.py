"""Scales of pairs of modalities: set by a callback, and logged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from clipkit.errors import ConfigError
from clipkit.losses import CombinedLoss, ContrastiveLoss, ModalityPairLoss, WeightedTerm
from clipkit.models import with_towers
from clipkit.training.callbacks import SetLogitScale
from tests.helpers import tiny
from tests.helpers.series import SeriesTower


@pytest.fixture
def module():
    made = tiny.module()
    made.encoder = with_towers(made.encoder, {"series": SeriesTower()}, pair_scales=["series:text"])
    made.encoder.set_logit_scale(5.0)
    return made


def test_the_scale_of_a_pair_is_set_and_frozen(module):
    encoder = module.encoder
    for order in ("series:text", "text:series"):
        SetLogitScale(20.0, pair=order).setup(None, module, "fit")
        assert encoder.pair_scales["series:text"].item() == pytest.approx(20.0)
        assert encoder.logit_scale.item() == pytest.approx(5.0)
        assert not encoder.log_pair_scales["series:text"].requires_grad
        assert encoder.log_logit_scale.requires_grad


def test_the_scale_of_all_others_is_set_alone(module):
    SetLogitScale(20.0).setup(None, module, "fit")
    assert module.encoder.logit_scale.item() == pytest.approx(20.0)
    assert not module.encoder.log_logit_scale.requires_grad
    assert module.encoder.log_pair_scales["series:text"].requires_grad


@pytest.mark.parametrize("pair", ["image:series", "series", "", "a:b:c"])
def test_a_pair_without_a_scale_is_refused(module, pair):
    with pytest.raises(ConfigError, match=r"a scale of its own \(series:text\), got"):
        SetLogitScale(20.0, pair).setup(None, module, "fit")
    with pytest.raises(ConfigError, match="expected no pair, as all of them have one scale"):
        SetLogitScale(20.0, pair).setup(None, SimpleNamespace(encoder=tiny.encoder()), "fit")


def test_all_scales_are_logged(module, monkeypatch):
    term = WeightedTerm(ModalityPairLoss(ContrastiveLoss(), "series", "text"), 1.0)
    module.loss = CombinedLoss(ContrastiveLoss(), terms={"series_text": term})
    module.encoder.set_logit_scale(20.0, "series:text")
    logged = {}
    monkeypatch.setattr(module, "log_dict", lambda values, batch_size: logged.update(values))
    module.training_step(module.encoder.example_batch(2, num_tokens=4), 0)
    assert logged["train/logit_scale"].item() == pytest.approx(5.0)
    assert logged["train/logit_scale_series_text"].item() == pytest.approx(20.0)
