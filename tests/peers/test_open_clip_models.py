"""Embeddings equal those of open_clip's own models with the same weights."""

import open_clip
import pytest
import torch

from clipkit.models import OpenClipImageTower, OpenClipTextTower, from_open_clip
from tests.helpers.tiny_models import RESNET, TEXT, TIMM_CONV, VIT, captions, config, pixels

BOTH_WAYS = {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
COCA = {
    "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "attn_pooler_heads": 4},
}
CASES = {
    "plain CLIP": (open_clip.CLIP, config()),
    "quick GELU": (open_clip.CLIP, config(quick_gelu=True)),
    "custom text": (open_clip.CustomTextCLIP, config()),
    "sigmoid": (open_clip.CustomTextCLIP, config(text=BOTH_WAYS, init_logit_bias=-10)),
    "ResNet": (open_clip.CLIP, config(RESNET)),
    "timm trunk": (open_clip.CustomTextCLIP, config(TIMM_CONV)),
    "CoCa": (open_clip.CoCa, {"embed_dim": 24, **COCA}),
}


def theirs(case):
    """open_clip's own model with weights by chance, all of them away from their start."""
    torch.manual_seed(3)
    cls, cfg = CASES[case]
    model = cls(**cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model, cfg


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_embeddings_scale_and_bias_equal_open_clip_s(case, tmp_path):
    model, cfg = theirs(case)
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    ours = from_open_clip(cfg, pretrained=str(path)).eval()
    size = ours.image_tower.image_size
    images, tokens = pixels(3, size), captions()
    normalised = ours.normalize(images)
    torch.testing.assert_close(
        ours.encode_image(images), model.encode_image(normalised, normalize=True), atol=1e-5, rtol=0
    )
    # CoCa's context leaves one place to the class token
    torch.testing.assert_close(
        ours.encode_text(tokens), model.encode_text(tokens, normalize=True), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(ours.log_logit_scale, model.logit_scale)
    if model.logit_bias is not None:
        torch.testing.assert_close(ours.logit_bias, model.logit_bias)


@torch.no_grad()
def test_one_tower_alone_takes_its_part_of_the_weights(tmp_path):
    model, cfg = theirs("plain CLIP")
    path = str(tmp_path / "weights.pt")
    torch.save(model.state_dict(), path)
    images, tokens = torch.randn(2, 3, 32, 32), captions(2)
    image, text = OpenClipImageTower(cfg, path).eval(), OpenClipTextTower(cfg, path).eval()
    torch.testing.assert_close(image(images), model.encode_image(images))
    torch.testing.assert_close(text(tokens), model.encode_text(tokens))


@torch.no_grad()
def test_listed_model_equals_open_clip_s(tmp_path):
    torch.manual_seed(4)
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-S-32-alt")
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    ours = from_open_clip("ViT-S-32-alt", pretrained=str(path)).eval()
    model.eval()
    normalize = preprocess.transforms[-1]
    assert ours.image_tower.image_mean == pytest.approx(tuple(normalize.mean))
    assert ours.image_tower.image_std == pytest.approx(tuple(normalize.std))
    tokens = open_clip.get_tokenizer("ViT-S-32-alt")(["a red square", "two cats on a mat"])
    images = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(
        ours.encode_image(images), model.encode_image(images, normalize=True), atol=1e-5, rtol=0
    )
    shortest = tokens[:, : int((tokens > 0).sum(dim=1).max())]
    torch.testing.assert_close(
        ours.encode_text(shortest), model.encode_text(tokens, normalize=True), atol=1e-5, rtol=0
    )
