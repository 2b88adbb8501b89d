"""Towers out of open_clip's configurations."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models import DualEncoder, OpenClipImageTower, OpenClipTextTower, from_open_clip
from clipkit.models.open_clip.config import read_config
from clipkit.models.open_clip.towers import trims_exactly
from tests.helpers.tiny_models import (
    RESNET,
    TEXT,
    TIMM_CONV,
    TIMM_VIT,
    VIT,
    captions,
    config,
    encoder,
    pixels,
)

TEXTS: dict[str, dict[str, Any]] = {
    "causal, argmax": TEXT,
    "causal, first": {**TEXT, "pool_type": "first"},
    "causal, eos": {**TEXT, "pool_type": "eos", "eos_id": 99},
    "causal, last": {**TEXT, "pool_type": "last"},
    "both ways, argmax": {**TEXT, "no_causal_mask": True},
    "both ways, last": {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    "class token": {**TEXT, "embed_cls": True},
}
ATTENTION_POOL = {**VIT, "attentional_pool": True, "attn_pooler_heads": 4}
EXACT = {"causal, argmax", "causal, first", "causal, eos"}


def listed() -> list[str]:
    """Return the names of all configurations without importing open_clip, which takes seconds."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    return sorted(path.stem for path in Path(spec.origin).parent.glob("model_configs/*.json"))


def test_the_listed_configurations_are_all() -> None:
    import open_clip

    assert sorted(open_clip.list_models()) == listed()


@pytest.mark.parametrize("name", listed())
def test_every_listed_configuration_is_understood(name):
    found = read_config(name, needs=("vision_cfg", "text_cfg"))
    assert found.name == name
    assert found.preprocess["interpolation"] in ("bicubic", "bilinear")
    assert isinstance(trims_exactly(found.model["text_cfg"]), bool)


@pytest.mark.parametrize("text", TEXTS, ids=list(TEXTS))
def test_cutting_padding_away_changes_no_embedding(text):
    tower = encoder(text=TEXTS[text]).text_tower
    tokens = captions()
    assert tower.trims_exactly == (text in EXACT)
    difference = (tower(tokens[:, :9]) - tower(tokens)).abs().max()
    assert difference <= 1e-5


@pytest.mark.parametrize("text", sorted(set(TEXTS) - EXACT))
def test_without_filling_up_the_other_towers_would_change(text):
    """Else trims_exactly would be too careful, and cost time for nothing."""
    tower = encoder(text=TEXTS[text]).text_tower
    tower.trims_exactly = True
    tokens = captions()
    assert (tower(tokens[:, :9]) - tower(tokens)).abs().max() > 1e-3


def test_siglip_towers_fill_up_with_their_tokenizer_s_padding():
    text = {**TEXTS["both ways, last"], "hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}
    tower = encoder(text=text).text_tower
    assert tower.pad_id == 1
    full = captions()
    full[full == 0] = 1
    torch.testing.assert_close(tower(full[:, :9]), tower.text(full))
    text["hf_tokenizer_name"] = "timm/ViT-B-16-SigLIP2"
    assert encoder(text=text).text_tower.pad_id == 0


def test_captions_longer_than_the_context_are_refused():
    with pytest.raises(ConfigError, match="at most 16 tokens, got texts of 17"):
        encoder().encode_text(captions(length=17))


@pytest.mark.parametrize(
    "vision", [VIT, RESNET, TIMM_CONV, TIMM_VIT], ids=["vit", "resnet", "timm conv", "timm vit"]
)
def test_layer_groups_name_every_parameter_once_in_order(vision):
    model = encoder(vision)
    for tower in (model.image_tower, model.text_tower):
        groups = tower.layer_groups()
        names = [name for group in groups for name in group]
        assert sorted(names) == sorted(name for name, _ in tower.named_parameters())
        assert all(groups)
    assert any(
        "conv" in name or "patch_embed" in name for name in model.image_tower.layer_groups()[0]
    )
    assert "text.token_embedding.weight" in model.text_tower.layer_groups()[0]
    assert "text.text_projection" in model.text_tower.layer_groups()[-1]
    assert len(model.text_tower.layer_groups()) == TEXT["layers"] + 2


@pytest.mark.parametrize("vision", [VIT, ATTENTION_POOL, RESNET, TIMM_CONV, TIMM_VIT])
@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_every_parameter_gets_a_gradient(vision, text):
    """DDP refuses parameters that none reaches."""
    model = encoder(vision, text).train()
    size = model.image_tower.image_size
    model.image_tower(torch.randn(2, 3, size, size)).square().sum().backward()
    model.text_tower(captions()).square().sum().backward()
    towers = (model.image_tower, model.text_tower)
    without = [n for tower in towers for n, p in tower.named_parameters() if p.grad is None]
    assert without == []


def test_towers_of_two_configurations_can_be_mixed():
    image = OpenClipImageTower({"embed_dim": 24, "vision_cfg": TIMM_CONV})
    text = OpenClipTextTower({"embed_dim": 24, "text_cfg": TEXT})
    model = DualEncoder(image, text)
    assert (
        model.encode_image(pixels(2, 64)).shape == model.encode_text(captions(2)).shape == (2, 24)
    )


def test_a_timm_vit_of_another_size_is_brought_to_the_configured_one():
    tower = encoder(TIMM_VIT).image_tower
    assert tower.visual.trunk.patch_embed.img_size == (64, 64)
    assert tower(torch.randn(1, 3, 64, 64)).shape == (1, 24)


def test_configuration_from_a_file_and_from_a_folder(tmp_path):
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}
    plain, folder = tmp_path / "small.json", tmp_path / "export"
    plain.write_text(json.dumps(config()))
    folder.mkdir()
    content = {"model_cfg": config(), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    assert from_open_clip(str(plain)).image_tower.resize_mode == "shortest"
    tower = from_open_clip(str(folder)).image_tower
    assert tower.image_mean == (0.5, 0.5, 0.5)
    assert tower.resize_mode == "squash"


def test_sigmoid_configurations_start_with_their_bias_and_no_limit():
    model = encoder(init_logit_bias=-10, init_logit_scale=2.302585)
    assert model.logit_bias.item() == -10
    assert model.logit_scale.item() == pytest.approx(10, rel=1e-5)
    assert model.max_logit_scale is None


@pytest.mark.parametrize("tower", ["image_tower", "text_tower"])
def test_config_builds_the_same_tower(tower):
    first = getattr(encoder(), tower)
    again = type(first)(**json.loads(json.dumps(first.config())))
    again.load_state_dict(first.state_dict())
    x = torch.randn(2, 3, 32, 32) if tower == "image_tower" else captions()
    torch.testing.assert_close(again.eval()(x), first(x))
    assert again.config() == first.config()


def test_tokenizer_names():
    assert OpenClipTextTower("ViT-B-32").tokenizer_name == "open_clip:ViT-B-32"
    assert encoder().text_tower.tokenizer_name == "open_clip:ViT-B-32"
    text = {**TEXT, "hf_tokenizer_name": "org/name"}
    assert encoder(text=text).text_tower.tokenizer_name == "transformers:org/name"
    named = OpenClipTextTower({"embed_dim": 8, "text_cfg": TEXT}, tokenizer_name="tiktoken:gpt2")
    assert named.config()["tokenizer_name"] == "tiktoken:gpt2"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ViT-B32", "did you mean 'ViT-B-32'"),
        ("no/such/file.json", "no open_clip configuration at 'no/such/file.json'"),
        ({"embed_dim": 24, "vision_cfg": VIT}, "no 'text_cfg'"),
        (config({**VIT, "widht": 3}), "vision_cfg: unknown key 'widht'; did you mean 'width'"),
        (config({**VIT, "image_size": [32, 64]}), "square"),
        (config(text={**TEXT, "pool_type": "none"}), "pool_type"),
        (config({**VIT, "pool_type": "none"}), r"vision_cfg\.pool_type: expected 'tok' or 'avg'"),
        (config({**VIT, "attentional_pool": "cascade"}), "attentional_pool: .* got 'cascade'"),
        (config({**VIT, "attentional_pool": "parallel"}), "attentional_pool: .* got 'parallel'"),
        (config({**TIMM_CONV, "timm_model_name": "resnet10x"}), "cannot build"),
        (config(text={"hf_model_name": "no-such/model"}), "'no-such/model' from the Hugging Face"),
    ],
)
def test_configurations_that_cannot_work_are_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        from_open_clip(model)


@pytest.mark.parametrize("pooling", ["parallel", "cascade"])
def test_open_clip_returns_no_embedding_by_the_poolings_that_are_refused(pooling):
    """Else the refusal has no reason any more."""
    import open_clip

    vision = {**ATTENTION_POOL, "attentional_pool": pooling}
    images = torch.zeros(2, 3, 32, 32)
    same_width = open_clip.CustomTextCLIP(32, vision, TEXT)
    assert same_width.encode_image(images).shape == (2, 1, 32)
    with pytest.raises(RuntimeError, match="shape"):
        open_clip.CustomTextCLIP(16, vision, TEXT).encode_image(images)


def test_a_text_tower_needs_no_pooling_of_images():
    OpenClipTextTower(config({**VIT, "attentional_pool": "parallel"}))


def test_broken_json_is_refused(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"embed_dim": ')
    with pytest.raises(ConfigError, match=r"broken\.json.*JSON"):
        from_open_clip(str(path))


def test_unknown_tag_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'opnai'.*did you mean 'openai'"):
        OpenClipImageTower("ViT-B-32", pretrained="opnai")


def test_tag_that_cannot_be_downloaded_is_refused(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("open_clip.download_pretrained", offline)
    with pytest.raises(ConfigError, match=r"could not be downloaded \(OSError: no network\)"):
        from_open_clip("ViT-B-32-quickgelu", pretrained="openai")


def test_weights_of_another_architecture_name_the_parameters(tmp_path):
    import open_clip

    path = tmp_path / "other.pt"
    torch.save(open_clip.CustomTextCLIP(**config({**VIT, "layers": 3})).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"unexpected \(visual\.transformer\.resblocks\.2"):
        from_open_clip(config(), pretrained=str(path))
    torch.save(open_clip.CustomTextCLIP(**config(embed_dim=16)).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"visual\.proj: expected \(32, 24\), got \(32, 16\)"):
        from_open_clip(config(), pretrained=str(path))


def test_a_resnet_takes_smaller_pictures_and_other_weights_stay_as_they_are():
    """A run may train on small pictures first: attention pooling has learned positions too."""
    vision = {**RESNET, "image_size": 64}
    tower = encoder(vision=vision).image_tower.train()
    small = tower(torch.randn(2, 3, 32, 32))
    assert small.shape == (2, 24)
    small.square().sum().backward()
    positions = tower.visual.attnpool.positional_embedding
    assert positions.shape[0] == 1 + 2 * 2, "the parameter keeps its shape"
    assert positions.grad.abs().amin(1).min() > 0, "every position learns from small pictures"


def test_a_resnet_at_its_own_size_is_open_clips():
    tower = encoder(vision=RESNET).image_tower
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(tower(images), tower.visual(images))
