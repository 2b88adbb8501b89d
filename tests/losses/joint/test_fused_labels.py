"""The label of a fused pair; values and gradients over ranks are those of ``test_joint_ranks``."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from clipkit.errors import ConfigError
from clipkit.losses import CombinedLoss, FusedLabelLoss, WeightedTerm
from clipkit.models import (
    CosineLabelHead,
    LinearLabelHead,
    MergedFusion,
    PrototypeLabelHead,
    TcnFusion,
    TcnTower,
    load_encoder,
    load_joint_encoder,
    save_encoder,
    with_fused_head,
    with_fusion,
    with_towers,
)
from clipkit.types import ModalityBatch
from tests.helpers import joint, tiny_models


def combined(**options):
    return CombinedLoss(terms={"answers": WeightedTerm(FusedLabelLoss(**options))})


def test_value_without_weights_and_without_a_contrastive_loss():
    model, batch = joint.encoder(), joint.batch()
    batch.pair_mask = None
    logits = model.classify_fused(model.fuse(model(batch).tokens).pooled)
    expected = F.cross_entropy(logits, batch.labels)
    values = combined()(model(batch), batch)
    assert values["loss"].item() == pytest.approx(expected.item())
    values["loss"].backward()
    assert all(p.grad is not None for p in model.label_heads.parameters())
    assert model.fusion.summary.grad.any()


def test_no_label_in_any_sample_is_zero():
    model, batch = joint.encoder(), joint.batch(3)
    batch = replace(batch, labels=torch.full((3,), -100))
    term = FusedLabelLoss().term(model(batch), batch)
    assert (term.value, term.num_samples) == (0, 0)
    term.value.backward()
    assert not model.fusion.summary.grad.any()


def test_what_is_fused_need_not_be_images_and_texts():
    torch.manual_seed(0)
    series = {
        name: TcnTower(24, input_shape=(4, 10), width=8, num_blocks=1, mean=0, std=1)
        for name in ("a", "b")
    }
    fusion = TcnFusion(16, num_blocks=1, modalities=("a", "b"))
    model = with_fusion(with_towers(tiny_models.encoder(), series), fusion)
    model = with_fused_head(model, CosineLabelHead(16, 2)).eval()
    present = torch.tensor([True, False, True])
    values = {name: torch.randn(3, 4, 10) for name in series}
    modalities = {
        "a": ModalityBatch(values["a"], torch.ones(3, dtype=torch.bool)),
        "b": ModalityBatch(values["b"], present),
    }
    batch = replace(tiny_models.batch(), modalities=modalities, labels=torch.tensor([0, 1, 1]))
    term = FusedLabelLoss().term(model(batch), batch)
    logits = model.classify_fused(model.fuse(model(batch).tokens).pooled)
    expected = F.cross_entropy(logits[present], batch.labels[present])
    assert term.num_samples == 2
    torch.testing.assert_close(term.value, expected)


def test_files_keep_the_head_and_its_names(tmp_path):
    model, batch = joint.encoder(), joint.batch(2)
    model = model.float().eval()
    model.heads["fused"].class_names = ("yes", "no", "red")
    save_encoder(model, tmp_path / "export")
    loaded = load_joint_encoder(tmp_path / "export")
    assert loaded.heads["fused"].class_names == ("yes", "no", "red")
    pooled = model.fuse(model(batch).tokens).pooled
    assert torch.equal(loaded.classify_fused(pooled), model.classify_fused(pooled))
    assert load_encoder(tmp_path / "export").heads == {}


def test_a_head_is_replaced_and_a_new_fusion_has_none():
    model = with_fused_head(joint.encoder(), LinearLabelHead(8, 5))
    assert model.num_fused_classes == 5
    assert model.label_heads["fused"].linear.weight.dtype == torch.float64
    assert with_fusion(model, MergedFusion(16, 1, 2)).num_fused_classes == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_fused_head(tiny_models.encoder(), LinearLabelHead(8, 2)),  # type: ignore[arg-type]
         "expected one with a fusion, got DualEncoder; add one with clipkit.models.with_fusion"),
        (lambda: with_fused_head(joint.encoder(), LinearLabelHead(9, 2)),
         "expected the width of the fusion, 8, got 9"),
        (lambda: with_fused_head(joint.encoder(), PrototypeLabelHead(8, ["a", "b"])),
         "expected a head without texts"),
        (lambda: FusedLabelLoss(class_weights=[1.0, -1.0]), "expected none below 0, got -1"),
        (lambda: FusedLabelLoss(label_smoothing=2), "label_smoothing: expected 0 to 1"),
        (lambda: FusedLabelLoss(class_weights=[1.0]).check(joint.encoder().example_embeddings()),
         "expected 3, one for each class of the head, got 1"),
        (lambda: FusedLabelLoss().check(tiny_models.encoder().example_embeddings()),
         "expected an encoder with a fusion, got none"),
        (lambda: FusedLabelLoss().check_batch(replace(joint.batch(), labels=torch.tensor([7])), 3),
         "labels: expected 0 to 2 or -100 for none, got 7"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_encoder_without_the_head_is_refused():
    model = with_fusion(tiny_models.encoder(), MergedFusion(16, 1, 2))
    with pytest.raises(ConfigError, match="expected an encoder with a label head on its fusion"):
        FusedLabelLoss().check(model.example_embeddings())
    with pytest.raises(ConfigError, match="has no head on its fusion"):
        model.classify_fused(torch.zeros(1, 16))
