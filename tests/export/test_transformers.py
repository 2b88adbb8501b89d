"""open_clip's weights as transformers' CLIPModel."""

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.export.transformers import to_transformers, transformers_config
from clipkit.models import DualEncoder, TimmImageTower, from_open_clip
from tests.helpers.tiny_models import RESNET, TEXT, TIMM_VIT, VIT, captions, encoder, pixels

ENDS = {**TEXT, "pool_type": "eos", "eos_id": 99}
CASES = {
    "plain": {},
    "quick GELU": {"quick_gelu": True},
    "custom text": {"custom_text": True},
    "pooled at an id": {"text": ENDS},
    "no class token's norm after pooling": {"vision": {**VIT, "final_ln_after_pool": True}},
    "wide blocks": {"vision": {**VIT, "mlp_ratio": 3.0}, "text": {**TEXT, "mlp_ratio": 2.0}},
}
REFUSED = {
    "ResNet": ({"vision": RESNET}, "image_tower: .*ResNet"),
    "timm": ({"vision": TIMM_VIT}, "timm_model_name = 'test_vit'"),
    "mean of patches": ({"vision": {**VIT, "pool_type": "avg"}}, "pool_type = 'avg'"),
    "layer scale": ({"vision": {**VIT, "ls_init_value": 0.1}}, "ls_init_value"),
    "both ways": ({"text": {**TEXT, "no_causal_mask": True}}, "text_tower: .*no_causal_mask"),
    "class token": ({"text": {**TEXT, "embed_cls": True}}, "embed_cls"),
    "bias": ({"text": {**TEXT, "proj_bias": True}}, "proj_bias"),
    "id 2": ({"text": {**TEXT, "pool_type": "eos"}}, "id 2"),
    "sigmoid": ({"init_logit_bias": -10}, "logit_bias: .*sigmoid loss"),
}


def unit(output):
    return torch.nn.functional.normalize(getattr(output, "pooler_output", output), dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_same_embeddings_and_scale(case):
    ours = encoder(**CASES[case])
    ours.log_logit_scale.data.fill_(1.25)
    theirs = to_transformers(ours)
    images, tokens = ours.normalize(pixels()), captions()
    image = unit(theirs.get_image_features(pixel_values=images))
    text = unit(theirs.get_text_features(input_ids=tokens))
    torch.testing.assert_close(image, ours.encode_image(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(text, ours.encode_text(tokens), atol=1e-6, rtol=0)
    torch.testing.assert_close(theirs.logit_scale.exp(), ours.logit_scale)


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_does_not_have_is_refused(case):
    options, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as caught:
        to_transformers(encoder(**options))
    assert "--format open_clip, onnx or safetensors" in str(caught.value)


def test_towers_of_other_libraries_are_refused():
    model = DualEncoder(TimmImageTower("test_resnet", 24, 32), encoder().text_tower)
    with pytest.raises(ConfigError, match=r"image_tower: .*TimmImageTower"):
        to_transformers(model)


def test_clip_vocabulary_pools_at_its_own_end():
    """So that captions that are padded with the end token, as transformers does, are right."""
    text = {**TEXT, "vocab_size": 49408}
    config = transformers_config(from_open_clip({"embed_dim": 24, "vision_cfg": VIT,
                                                 "text_cfg": text}))  # fmt: skip
    assert config["text_config"]["eos_token_id"] == 49407
    assert transformers_config(encoder())["text_config"]["eos_token_id"] == 2
