"""The dual encoder: normalisation on the device, unit norms, the scale and its limit."""

import math
from copy import deepcopy

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.models import CosineLabelHead, DualEncoder, LinearLabelHead, from_open_clip
from tests.helpers.tiny_models import batch, encoder, pixels


def rebuilt(**options):
    parts = encoder()
    return DualEncoder(parts.image_tower, parts.text_tower, **options)


def test_forward_gives_unit_norm_embeddings_and_the_linear_scale():
    model = encoder()
    out = model(batch())
    assert out.image.shape == out.text.shape == (3, model.embedding_dim)
    torch.testing.assert_close(out.image.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(out.text.norm(dim=1), torch.ones(3))
    assert out.logit_scale.item() == pytest.approx(1 / 0.07)
    assert out.logit_bias is None
    assert out.label_logits is None


def test_uint8_pixels_are_normalised_by_the_tower_s_mean_and_std():
    model = encoder()
    model.image_tower.image_mean = (0.5, 0.4, 0.3)
    model.image_tower.image_std = (0.2, 0.3, 0.4)
    model = DualEncoder(model.image_tower, model.text_tower).eval()
    images = pixels()
    by_hand = torch.empty(images.shape)
    for channel in range(3):
        mean, std = (0.5, 0.4, 0.3)[channel], (0.2, 0.3, 0.4)[channel]
        by_hand[:, channel] = (images[:, channel].float() / 255 - mean) / std
    torch.testing.assert_close(model.normalize(images), by_hand)
    torch.testing.assert_close(model.encode_image(images), model.encode_image(by_hand))


def test_half_precision_weights_give_float32_embeddings_near_the_exact_ones():
    model = encoder()
    exact = model(batch())
    half = deepcopy(model).bfloat16()(batch())
    assert half.image.dtype == half.text.dtype == torch.float32
    assert (half.image * exact.image).sum(dim=1).min() > 0.99
    assert (half.text * exact.text).sum(dim=1).min() > 0.99


def test_normalisation_is_not_part_of_the_weights():
    names = set(encoder().state_dict())
    assert "log_logit_scale" in names
    assert not any("mean" in name or "std" in name for name in names)


def test_scale_is_brought_back_to_the_limit_and_keeps_its_gradient_there():
    model = encoder().train()
    model.log_logit_scale.data.fill_(math.log(500.0))
    assert model.logit_scale.item() == pytest.approx(100.0, rel=1e-5)
    scale = model(batch()).logit_scale
    assert scale.item() == pytest.approx(100.0, rel=1e-5)
    assert model.log_logit_scale.item() == pytest.approx(math.log(100.0), rel=1e-6)
    scale.backward()
    assert model.log_logit_scale.grad.item() == pytest.approx(100.0, rel=1e-5)


def test_evaluation_changes_no_parameter():
    model = encoder().eval()
    model.log_logit_scale.data.fill_(math.log(500.0))
    assert model(batch()).logit_scale.item() == pytest.approx(100.0, rel=1e-5)
    assert model.log_logit_scale.item() == pytest.approx(math.log(500.0))


def test_no_limit():
    model = rebuilt(logit_scale=500.0, max_logit_scale=None)
    assert model.train()(batch()).logit_scale.item() == pytest.approx(500.0, rel=1e-5)


def test_bias_of_the_sigmoid_loss():
    model = rebuilt(logit_scale=10.0, logit_bias=-10.0)
    out = model(batch())
    assert out.logit_bias.item() == -10.0
    assert out.logit_scale.item() == pytest.approx(10.0)
    assert {"logit_bias", "log_logit_scale"} <= {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("head", [LinearLabelHead(24, 5), CosineLabelHead(24, 5)])
def test_label_head_scores_the_features_of_the_image_tower(head):
    model = rebuilt(label_head=head).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    out = model(batch())
    assert out.label_logits.shape == (3, 5)
    torch.testing.assert_close(out.label_logits, model.classify(batch().images))
    features = model.image_tower(model.normalize(batch().images))
    torch.testing.assert_close(out.label_logits, head(features))


def test_classify_without_a_head_is_refused():
    with pytest.raises(ConfigError, match="label_head"):
        encoder().classify(pixels())


def test_every_parameter_gets_a_gradient():
    model = rebuilt(label_head=LinearLabelHead(24, 5), logit_bias=-1.0).train()
    out = model(batch())
    logits = out.logit_scale * out.image @ out.text.T + out.logit_bias
    (logits.square().sum() + out.label_logits.square().sum() + out.label_logits.sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logit_scale": -2.66}, "logit_scale"),
        ({"logit_scale": 200.0}, "max_logit_scale"),
        ({"label_head": LinearLabelHead(7, 5)}, r"label_head.embedding_dim: expected .* 24, got 7"),
    ],
)
def test_parts_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        rebuilt(**options)


def test_towers_of_different_lengths_are_refused():
    other = encoder(embed_dim=16)
    with pytest.raises(ConfigError, match=r"embedding_dim: .* 24 .* 16"):
        DualEncoder(encoder().image_tower, other.text_tower)


@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        ({"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}, torch.channels_last),
        (
            {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
            torch.contiguous_format,
        ),
    ],
)
def test_towers_of_convolutions_run_channels_last(vision, expected):
    text = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    encoder = from_open_clip({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text})
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)

    assert encoder.normalize(images).is_contiguous(memory_format=expected)
    kernels = [p for p in encoder.image_tower.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert all(kernel.is_contiguous(memory_format=expected) for kernel in kernels)
