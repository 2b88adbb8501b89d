"""SigLIP and SigLIP 2 as transformers' SiglipModel."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import timm
import torch
from PIL import Image
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from transformers import AutoModel, AutoProcessor, SiglipModel

from clipkit.data.text.tokenizer_export import clip_in_transformers
from clipkit.errors import ConfigError
from clipkit.export import export_encoder
from clipkit.export.siglip import _check_trunk, siglip_config
from clipkit.export.transformers import to_transformers
from clipkit.models import DualEncoder, TransformersTextTower, from_open_clip, load_encoder
from tests.helpers.tiny_models import config, pixels

SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
}
SIGLIP: dict[str, Any] = {**SMALL, "class_token": False, "global_pool": "map"}


def register(name, **options):
    """Make a name of timm for a small ViT."""

    def build(**more):
        known = {key: more[key] for key in ("num_classes", "global_pool") if key in more}
        trunk = VisionTransformer(**options | known)
        trunk.pretrained_cfg = trunk.default_cfg = {"input_size": (3, 32, 32), "pool_size": None}
        return trunk

    build.__name__, build.__module__ = name, __name__
    register_model(build)


register("tiny_siglip", **SIGLIP)
register("tiny_siglip_tanh", **SIGLIP, act_layer="gelu_tanh")
register("tiny_siglip_class_token", **{**SIGLIP, "class_token": True})
register("tiny_siglip_qk_norm", **SIGLIP, qk_norm=True)
register("tiny_siglip_layer_scale", **SIGLIP, init_values=0.1)
register("tiny_siglip_pre_norm", **SIGLIP, pre_norm=True)

TEXT = {
    **{"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
    **{"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    "norm_kwargs": {"eps": 1e-6},
}
TEXT_2 = {**TEXT, "act_kwargs": {"approximate": "tanh"}}


def siglip(trunk="tiny_siglip", text=TEXT, bias=-10, **vision):
    """A model in the layout of open_clip's ViT-B-16-SigLIP.json."""
    vision = {"timm_model_name": trunk, "timm_pool": "map", "timm_proj": "none", **vision}
    torch.manual_seed(0)
    model = config({"image_size": 32, **vision}, text, custom_text=True)
    model["embed_dim"] = 32
    if bias is not None:
        model["init_logit_bias"] = bias
    half = [0.5, 0.5, 0.5]
    preprocess = {"mean": half, "std": half, "resize_mode": "squash"}
    encoder = from_open_clip({"model_cfg": model, "preprocess_cfg": preprocess}).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:  # zeros and ones would hide exchanged names
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def unit(output):
    return torch.nn.functional.normalize(getattr(output, "pooler_output", output), dim=-1)


CASES = {
    "SigLIP": {},
    "SigLIP 2": {"text": TEXT_2},
    "SO400M": {"trunk": "tiny_siglip_tanh", "text": {**TEXT, "mlp_ratio": 3.7362}},
    "trained with softmax": {"bias": None},
    "projection without bias": {"text": {**TEXT, "proj_bias": False}},
}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_same_embeddings_and_logits(case):
    ours = siglip(**CASES[case])
    ours.log_logit_scale.fill_(1.25)
    theirs = to_transformers(ours)
    assert type(theirs) is SiglipModel
    images = ours.normalize(pixels(3, 32))
    tokens = torch.randint(1, 49000, (3, 12))
    image, text = ours.encode_image(images), ours.encode_text(tokens)
    torch.testing.assert_close(unit(theirs.get_image_features(images)), image, atol=1e-6, rtol=0)
    torch.testing.assert_close(unit(theirs.get_text_features(tokens)), text, atol=1e-6, rtol=0)
    logits = theirs(input_ids=tokens, pixel_values=images).logits_per_image
    bias = 0 if ours.logit_bias is None else ours.logit_bias
    torch.testing.assert_close(logits, ours.logit_scale * image @ text.T + bias)


REFUSED = {
    "class token": ({"trunk": "tiny_siglip_class_token"}, "image_tower: .*a class token"),
    "norms of queries": ({"trunk": "tiny_siglip_qk_norm"}, "norms of queries"),
    "layer scale": ({"trunk": "tiny_siglip_layer_scale"}, "layer scale"),
    "norm before": ({"trunk": "tiny_siglip_pre_norm"}, "norm before the blocks"),
    "projection": ({"timm_proj": "linear"}, "projection after the pooling"),
    "causal text": ({"text": {**TEXT, "no_causal_mask": False}}, "text_tower: .*no_causal_mask"),
    "pooling": ({"text": {**TEXT, "pool_type": "first"}}, "pool_type = 'first'"),
    "class token of text": ({"text": {**TEXT, "embed_cls": True}}, "embed_cls"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_does_not_have_is_refused(case):
    options, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as caught:
        to_transformers(siglip(**options))
    assert "--format open_clip, onnx or safetensors" in str(caught.value)


@pytest.mark.parametrize("clean", ["canonicalize", "whitespace"])
def test_an_export_is_used_as_transformers_documents_it(clean, tmp_path):
    """Texts in capitals and of any length, images of any shape; padding to the longest input."""
    tokens = tmp_path / "tokens"
    clip_in_transformers(12).save_pretrained(tokens)
    text = {
        **TEXT,
        "pad_id": 49407,
        "hf_tokenizer_name": str(tokens),
        "tokenizer_kwargs": {"clean": clean},
    }
    export_encoder(siglip(text=text), tmp_path / "open_clip", "open_clip",
                   tokenizer=f"transformers:{tokens}")  # fmt: skip
    ours = load_encoder(tmp_path / "open_clip")
    exported = export_encoder(ours, tmp_path / "out", "transformers")
    assert exported.reader == f"transformers.AutoModel.from_pretrained('{tmp_path}/out')"
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(model) is SiglipModel
    texts = ["A Dog!", "two_cats, and a very long caption that is truncated at twelve tokens"]
    image = Image.new("RGB", (32, 32), (200, 30, 60))  # no resize, which differs between versions
    inputs = processor(
        text=texts, images=image, padding="max_length", truncation=True, return_tensors="pt"
    )
    assert "attention_mask" not in inputs
    with torch.no_grad():
        out = model(**inputs)
    embedded = ours.encode(texts, [image])
    torch.testing.assert_close(out.text_embeds, embedded.texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.image_embeds, embedded.images, atol=1e-5, rtol=0)


def test_a_tower_of_another_library_is_refused():
    model = siglip()
    text = TransformersTextTower.__new__(TransformersTextTower)
    torch.nn.Module.__init__(text)
    text.embedding_dim = 32
    with pytest.raises(ConfigError, match=r"text_tower: .*TransformersTextTower"):
        to_transformers(DualEncoder(model.image_tower, text))


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-B-32-SigLIP2-256"])
def test_shipped_configurations_have_that_architecture(name):
    """The real trunk and text transformer, one block deep."""
    cfg = open_clip.get_model_config(name)
    kind = cfg["vision_cfg"]["timm_model_name"]
    _check_trunk(timm.create_model(kind, depth=1, num_classes=0, global_pool="map"), [])
    small = {"layers": 1, "width": 32, "heads": 4, "vocab_size": 100}
    text = {**cfg["text_cfg"], **small}
    del text["hf_tokenizer_name"], text["tokenizer_kwargs"]
    assert siglip_config(siglip(text=text))["text_config"]["layer_norm_eps"] == 1e-6
