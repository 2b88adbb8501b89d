"""Explanations of the matching logit: against loops over single attentions, and other fusions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.errors import ConfigError, MetricError
from clipkit.models import (
    CrossAttentionFusion,
    MergedFusion,
    explain_matching,
    explain_matching_sound,
    with_fusion,
    with_towers,
)
from clipkit.models.inputs import pixels_of, token_batches
from tests.helpers import naflex, tiny, tiny_models
from tests.helpers.sound_towers import build
from tests.helpers.sounds import tone

TEXT = "a red square"
WORDS = slice(1, 4)  # one token each, after the start
PATCHES = 16
FUSIONS = {
    "cross": lambda: CrossAttentionFusion(16, 3, 2),
    "from patches": lambda: CrossAttentionFusion(16, 3, 2, "image", ["text"]),
    "merged": lambda: MergedFusion(16, 3, 2),
    "merged, text first": lambda: MergedFusion(16, 3, 2, ["text", "image"]),
}


def photo() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))


def joint(make=FUSIONS["cross"]):
    encoder = tiny_models.encoder(text={**tiny_models.TEXT, "vocab_size": 49408})
    torch.manual_seed(1)
    model = with_fusion(encoder, make())
    for part in model.fusion.parameters():  # far from the start, where attention is even
        part.data += 0.2 * torch.randn_like(part)
    return model.eval()


def read(model, image, text):
    (tokens,) = token_batches(model.text_tower, [text], 1)
    pixels = pixels_of(model.image_tower, image, "image")[None]
    return {"image": model.read_image(pixels).tokens, "text": model.read_text(tokens).tokens}


def plain_logit(model, tokens):
    return model.match(model.fuse(tokens).pooled)[0]


def by_hand(model, tokens):
    """Attention as plain matrices in a forward pass, with hooks in place of modes of torch."""
    maps = []

    def attend(module, queries, context, mask):
        width, heads = queries.shape[-1], module.num_heads
        query = module.query(queries)[0].view(-1, heads, width // heads).transpose(0, 1)
        both = module.key_value(context)[0].view(-1, 2, heads, width // heads)
        key, value = both[:, 0].transpose(0, 1), both[:, 1].transpose(0, 1)
        scores = torch.einsum("hqd,hkd->hqk", query, key) / (width // heads) ** 0.5
        weights = torch.softmax(scores, -1)
        weights.retain_grad()
        maps.append(weights)
        out = torch.einsum("hqk,hkd->qhd", weights, value).flatten(1)
        return module.output(out)[None]

    for name, module in model.fusion.named_modules():
        if name.endswith("attention"):
            module.forward = lambda q, c, m, own=module: attend(own, q, c, m)
    logit = plain_logit(model, tokens)
    logit.backward()
    return logit.item(), maps


@pytest.mark.parametrize("name", FUSIONS)
def test_relevance_is_attention_times_gradient_and_the_logit_is_the_plain_one(name):
    model = joint(FUSIONS[name])
    found = explain_matching(model, photo(), TEXT, "attention")
    by_default = "occlusion" if name == "from patches" else "attention"
    assert explain_matching(model, photo(), TEXT).caption.method == by_default
    tokens = read(model, photo(), TEXT)
    with torch.no_grad():
        expected = float(plain_logit(model, tokens))
    assert found.caption.score == pytest.approx(expected, abs=1e-5)
    assert found.caption.method == "attention"

    score, maps = by_hand(joint(FUSIONS[name]), tokens)
    assert score == pytest.approx(expected, abs=1e-5)
    length = tokens["text"].values.shape[1]
    total, words = np.zeros(PATCHES), np.zeros((length, PATCHES))
    maps = [(part * part.grad).clamp(min=0).mean(0).numpy(force=True) for part in maps]
    if name == "from patches":
        total += sum(relevance[0, 2:] for relevance in maps[::2])
    for relevance in maps if name.startswith("merged") else maps[1::2]:
        if name == "from patches":
            words += relevance[2:, :].T  # the summary and the class token are first
            continue
        image, text = {"cross": (1, 1), "merged": (2, 18), "merged, text first": (2 + length, 1)}[
            name
        ]
        words += relevance[text : text + length, image : image + PATCHES]
        total += relevance[0, image : image + PATCHES]
    total += words.sum(0)
    assert total.max() > 0
    scaled = total.reshape(4, 4) / total.max()
    np.testing.assert_allclose(found.caption.heat_map, scaled, atol=1e-4)
    for heat_map, row in zip(found.word_maps, words[WORDS], strict=True):
        np.testing.assert_allclose(heat_map, row.reshape(4, 4) / row.max(), atol=1e-4)
    shares = words[WORDS].sum(1)
    weights = [weight for _, weight in found.caption.words]
    np.testing.assert_allclose(weights, shares / shares.max(), atol=1e-4)


def test_one_layer_can_be_chosen_and_all_are_their_sum():
    model = joint()
    maps = [
        explain_matching(model, photo(), TEXT, layer=layer).caption.heat_map for layer in (0, 1)
    ]
    assert not torch.allclose(maps[0], maps[1], atol=1e-3)
    with pytest.raises(ConfigError, match=r"layer: expected 0 to 1, got 2"):
        explain_matching(model, photo(), TEXT, layer=2)
    with pytest.raises(ConfigError, match="layer: expected the method 'attention'"):
        explain_matching(model, photo(), TEXT, "occlusion", layer=0)


def test_the_encoder_is_not_changed():
    model = joint().train()
    model.fusion.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        found = explain_matching(model, photo(), TEXT)
    assert found.caption.heat_map.max() == 1
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.matching.weight.is_inference()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_occlusion_is_the_drop_of_the_logit():
    model, image = joint(), photo()
    found = explain_matching(model, image, TEXT, "occlusion")
    assert found.caption.heat_map.shape == (8, 8)
    tokens = read(model, image, TEXT)
    without_red = read(model, image, "a  square")["text"]
    shown = np.array(image).astype(np.float32)
    mean = shown.mean((0, 1))
    drops, shares = np.zeros(64), np.zeros(64)
    with torch.no_grad():
        full = plain_logit(model, tokens)
        full_without = plain_logit(model, {**tokens, "text": without_red})
        for cell in range(64):
            row, column = divmod(cell, 8)
            hidden = shown.copy()
            hidden[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = mean
            pixels = torch.from_numpy(hidden).permute(2, 0, 1)[None] / 255
            pixels = (pixels - model.image_mean) / model.image_std
            seen = model.read_image(pixels).tokens
            drops[cell] = full - plain_logit(model, {**tokens, "image": seen})
            other = plain_logit(model, {"image": seen, "text": without_red})
            shares[cell] = drops[cell] - float(full_without - other)
    for heat_map, expected in ((found.caption.heat_map, drops), (found.word_maps[1], shares)):
        positive = expected.clip(0).reshape(8, 8)
        np.testing.assert_allclose(heat_map, positive / positive.max(), atol=2e-3)


def test_one_layer_is_explained_by_occlusion():
    model = joint(lambda: CrossAttentionFusion(16, 1, 2))
    assert explain_matching(model, photo(), TEXT).caption.method == "occlusion"
    with pytest.raises(ConfigError, match="at least 2 layers, got 1"):
        explain_matching(model, photo(), TEXT, "attention")


def test_images_of_any_shape_and_words_that_are_cut():
    encoder = naflex.encoder()
    model = with_fusion(encoder, MergedFusion(16, 2, 2)).eval()
    text = " ".join(["word"] * 40)
    found = explain_matching(model, Image.new("RGB", (300, 100), "red"), text)
    assert found.caption.heat_map.shape == (2, 6)
    assert len(found.word_maps) == len(found.caption.words) == 40
    assert found.caption.words[-1].weight == 0
    assert not found.word_maps[-1].any()


@pytest.mark.parametrize("name", ["vit", "whisper", "resnet", "clap"])
def test_sounds(name):
    tower = build(name)
    text_tower = tiny.from_open_clip({**tiny.CONFIG, "embed_dim": tower.embedding_dim}).text_tower
    image = tiny.from_open_clip({**tiny.CONFIG, "embed_dim": tower.embedding_dim}).image_tower
    encoder = with_towers(tiny.DualEncoder(image, text_tower), {"sound": tower})
    fusion = CrossAttentionFusion(16, 2, 2, context=["sound"])
    model = with_fusion(encoder, fusion)
    sound = (tone(1.0, 16_000), 16_000)
    found = explain_matching_sound(model, sound, "a dog barks")
    method = "attention" if name in ("vit", "whisper") else "occlusion"
    assert found.caption.method == method
    assert {heat_map.shape for heat_map in (found.caption.heat_map, *found.word_maps)} == {
        found.caption.spectrogram.shape
    }
    values = found.caption.spectrogram[None]
    (tokens,) = token_batches(text_tower, ["a dog barks"], 1)
    with torch.no_grad():
        parts = {"sound": model.eval().read_signal("sound", values).tokens}
        parts["text"] = model.read_text(tokens).tokens
        assert found.caption.score == pytest.approx(float(plain_logit(model, parts)), abs=1e-4)
    if method == "occlusion":
        with pytest.raises(ConfigError, match="does not keep the positions"):
            explain_matching_sound(model, sound, "a dog", "attention")


def test_what_cannot_be_explained():
    model = joint()
    with pytest.raises(ConfigError, match="method: expected one of auto, attention, occlusion"):
        explain_matching(model, photo(), TEXT, "grad_cam")
    with pytest.raises(ConfigError, match="text: expected a text of at least one word"):
        explain_matching(model, photo(), " ")
    sound = with_towers(tiny.encoder(), {"sound": build_sound()})
    other = with_fusion(sound, CrossAttentionFusion(16, 2, 2, context=["sound"]))
    with pytest.raises(ConfigError, match="a fusion of text and image alone, got one of text, so"):
        explain_matching(other, photo(), TEXT)
    model.matching.bias.data.fill_(float("nan"))
    for method in ("attention", "occlusion"):
        with pytest.raises(MetricError, match="the logit is nan"):
            explain_matching(model, photo(), TEXT, method)


def build_sound():
    from tests.helpers import sound_collections

    return sound_collections.encoder().towers["sound"]
