"""``DualEncoder.explain``: against hooks, and without a trace in the encoder."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from PIL import Image
from torch import nn
from torch.utils.checkpoint import checkpoint

from clipkit.errors import ConfigError, DataError, MetricError
from clipkit.models import (
    DualEncoder,
    ImageTower,
    TextTower,
    TimmImageTower,
    TransformersTextTower,
    lock,
)
from clipkit.models.explanation.recording import ForwardRecorder
from clipkit.models.inputs import pixels_of, tokenizer_of
from clipkit.training.callbacks.towers.block_wrappers import recompute_block
from tests.helpers import naflex
from tests.helpers.images import photo
from tests.helpers.tiny_models import RESNET, TEXT, TIMM_CONV, TIMM_VIT, VIT, encoder

TEXT_OF_CLIP = {**TEXT, "vocab_size": 49408}
SENTENCE = "a red square, with two dogs"
LATENTS = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 9}
TOWERS = {
    "class token": (VIT, "attention", (4, 4)),
    "mean": ({**VIT, "pool_type": "avg"}, "attention", (4, 4)),
    "attention pooling": ({**VIT, **LATENTS}, "attention", (4, 4)),
    "timm": (TIMM_VIT, "attention", (4, 4)),
    "resnet": ({**RESNET, "image_size": 96}, "grad_cam", (3, 3)),
    "timm's resnet": (TIMM_CONV, "grad_cam", (2, 2)),
}
TEXTS = {
    "causal": TEXT_OF_CLIP,
    "both directions": {**TEXT_OF_CLIP, "no_causal_mask": True},
    "class token at the end": {**TEXT_OF_CLIP, "embed_cls": True},
}


def make(vision=VIT, text=TEXT_OF_CLIP):
    return encoder(vision, text)


def timm_encoder(model, size=64):
    if model not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} has no {model}")
    return DualEncoder(TimmImageTower(model, 24, size), make().text_tower).eval()


@pytest.mark.parametrize("name", TOWERS)
def test_every_tower_is_explained(name):
    vision, method, shape = TOWERS[name]
    model = make(vision)
    explanation = model.explain(photo(), SENTENCE)
    texts, images = model.encode([SENTENCE], [photo()])
    assert explanation.method == method
    assert explanation.heat_map.shape == shape
    assert explanation.heat_map.max() in ((1,) if method == "attention" else (0, 1))
    assert explanation.heat_map.min() >= 0
    assert explanation.score == pytest.approx(float(texts @ images.T), abs=1e-6)
    assert explanation.pixels.shape == (3, *[model.image_tower.image_size] * 2)
    assert [word for word, _ in explanation.words] == SENTENCE.split()
    assert max(weight for _, weight in explanation.words) == 1


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_tower_is_explained(name):
    words = make(text=TEXTS[name]).explain(photo(), SENTENCE).words
    assert max(weight for _, weight in words) == pytest.approx(1)
    assert min(weight for _, weight in words) >= 0


def test_images_of_any_shape():
    explanation = naflex.encoder().explain(photo(300, 100), SENTENCE)
    rows, columns = explanation.heat_map.shape
    assert (rows, columns) == (2, 6)
    assert explanation.pixels.shape == (3, rows * naflex.PATCH_SIZE, columns * naflex.PATCH_SIZE)
    assert naflex.encoder().explain(photo(300, 100), SENTENCE, "occlusion").heat_map.shape == (2, 6)


@pytest.mark.parametrize(
    "vision", [VIT, {**VIT, **LATENTS}, TIMM_VIT, {**RESNET, "image_size": 64}]
)
def test_recording_changes_no_embedding(vision):
    model = make(vision)
    images = torch.randn(1, 3, *[model.image_tower.image_size] * 2)
    with ForwardRecorder() as recorder:
        recorded = model.encode_image(images)
    torch.testing.assert_close(recorded, model.encode_image(images), atol=1e-6, rtol=1e-5)
    for attention in recorder.attentions:
        sums = attention.weights.sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"is_causal": True}, {"attn_mask": "bool"}, {"attn_mask": "float"}),
        *({"scale": 0.3}, {"enable_gqa": True}),
    ],
)
def test_attention_in_steps_is_that_of_torch(options):
    query, key, value = torch.randn(3, 1, 4, 6, 8).unbind()
    if options.get("enable_gqa"):
        key, value = key[:, :2], value[:, :2]
    if "attn_mask" in options:
        mask = torch.rand(1, 1, 6, 6) > 0.3
        mask[..., 0] = True
        options = {"attn_mask": mask if options["attn_mask"] == "bool" else mask.float()}
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    with ForwardRecorder() as recorder:
        result = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(result, expected)
    assert len(recorder.attentions) == 1


@pytest.mark.parametrize("batch_first", [False, True])
def test_multi_head_attention_is_that_of_torch(batch_first):
    attention = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    x = torch.randn(1, 7, 16) if batch_first else torch.randn(7, 1, 16)
    expected, weights = attention(x, x, x, average_attn_weights=False)
    with ForwardRecorder() as recorder:
        result, _ = attention(x, x, x, need_weights=False)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(recorder.attentions[0].weights, weights)


def test_the_last_block_of_the_class_token_changes_nothing():
    """All tokens of the last block, as open_clip computes them: the same heat map."""
    model = make()
    expected = model.explain(photo(), SENTENCE).heat_map
    blocks = model.image_tower.visual.transformer.resblocks
    assert type(blocks[-1]) is not ResidualAttentionBlock
    complete = copy.deepcopy(blocks[0])
    complete.load_state_dict(blocks[-1].state_dict())
    blocks[-1] = complete
    torch.testing.assert_close(model.explain(photo(), SENTENCE).heat_map, expected)


def test_attention_without_a_fused_kernel_gives_the_same():
    model = make(TIMM_VIT)
    expected = model.explain(photo(), SENTENCE).heat_map
    for block in model.image_tower.visual.trunk.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(model.explain(photo(), SENTENCE).heat_map, expected)


def test_grad_cam_is_that_of_hooks():
    model = make({**RESNET, "image_size": 96})
    projection = model.image_tower.visual.attnpool.c_proj
    for parameter in projection.parameters():  # so that features increase the similarity
        parameter.data.neg_()
    explanation = model.explain(photo(), SENTENCE)
    assert explanation.heat_map.max() == 1
    kept = {}
    model.image_tower.visual.layer4.register_forward_hook(
        lambda module, inputs, output: kept.update(map=output) or output.retain_grad()
    )
    image = model.encode_image(pixels_of(model.image_tower, photo(), "image")[None])
    text = model.encode_text(tokenizer_of(model.text_tower)([SENTENCE]))
    (image * text).sum().backward()
    weights = kept["map"].grad.mean((2, 3), keepdim=True)
    expected = (weights * kept["map"]).sum(1)[0].relu()
    torch.testing.assert_close(explanation.heat_map, (expected / expected.max()).detach())


def test_occlusion_is_the_drop_without_a_cell_and_a_word():
    model = make()
    explanation = model.explain(photo(), SENTENCE, "occlusion")
    pixels = model.normalize(pixels_of(model.image_tower, photo(), "image")[None])
    mean = pixels.mean((2, 3), keepdim=True)
    (text,), _ = model.encode([SENTENCE])
    drops = torch.zeros(8, 8)
    for row in range(8):
        for column in range(8):
            painted = pixels.clone()
            painted[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = mean
            similarities = model.encode_image(torch.cat([pixels, painted])) @ text
            drops[row, column] = (similarities[0] - similarities[1]).detach()
    expected = drops.clamp(min=0) / drops.max()
    torch.testing.assert_close(explanation.heat_map, expected, atol=1e-3, rtol=1e-3)

    words = SENTENCE.split()
    without = [" ".join(words[:n] + words[n + 1 :]) for n in range(len(words))]
    texts, (image,) = model.encode([SENTENCE, *without], [photo()])
    drops = (texts[0] - texts[1:]) @ image
    weights = torch.tensor([weight for _, weight in explanation.words])
    expected = drops.clamp(min=0) / drops.clamp(min=0).max().clamp(min=1e-9)
    torch.testing.assert_close(weights, expected, atol=1e-3, rtol=1e-3)


def test_occlusion_of_patches_is_that_of_the_image():
    """On patches and on the square image that they are, a NaFlex tower embeds the same."""
    model = naflex.encoder(max_tokens=16)
    square = photo(32, 32)
    patches = model.explain(square, SENTENCE, "occlusion").heat_map
    assert patches.shape == (4, 4)
    pixels = model.normalize(pixels_of(model.image_tower, square, "image")[None])
    (text,), _ = model.encode([SENTENCE])
    drops = torch.zeros(4, 4)
    for row in range(4):
        for column in range(4):
            painted = pixels.clone()
            mean = pixels.mean((2, 3), keepdim=True)
            painted[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = mean
            before, after = model.encode_image(torch.cat([pixels, painted])) @ text
            drops[row, column] = (before - after).detach()
    expected = drops.clamp(min=0) / drops.max()
    torch.testing.assert_close(patches, expected, atol=1e-3, rtol=1e-3)


def hooks(model):
    names = [name for name in vars(nn.Module()) if "hook" in name]
    found = [getattr(module, name) for module in model.modules() for name in names]
    return [len(registered or ()) for registered in found]


@pytest.mark.parametrize("method", ["attention", "occlusion"])
def test_the_encoder_stays_as_it_was(method):
    model = make({**VIT, "patch_dropout": 0.5})
    lock(model.text_tower)
    model.train()
    for parameter in model.image_tower.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    needed = [parameter.requires_grad for parameter in model.parameters()]
    kinds = [type(module) for module in model.modules()]
    registered, state = hooks(model), torch.get_rng_state()
    explanation = model.explain(photo(), SENTENCE, method)
    assert not explanation.heat_map.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all((p.grad == 1).all() for p in model.image_tower.parameters())
    assert all(p.grad is None for p in model.text_tower.parameters())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == needed
    assert [type(module) for module in model.modules()] == kinds
    assert hooks(model) == registered
    assert torch.equal(torch.get_rng_state(), state)
    assert F.scaled_dot_product_attention(*torch.ones(3, 1, 1, 2, 2)).shape == (1, 1, 2, 2)


def test_an_error_leaves_the_encoder_as_it_was():
    model = make().train()
    with pytest.raises(ConfigError):
        model.explain(photo(), SENTENCE, "grad_cam")
    assert model.training
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_frozen_encoders_and_contexts_without_gradients(context):
    model = make()
    expected = model.explain(photo(), SENTENCE)
    model.requires_grad_(False)
    with context():
        explanation = model.explain(photo(), SENTENCE)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(explanation.heat_map, expected.heat_map)
    for (_, weight), (_, wanted) in zip(explanation.words, expected.words, strict=True):
        assert weight == pytest.approx(wanted, abs=1e-5)


def test_compiled_towers():
    model = make()
    expected = model.explain(photo(), SENTENCE).heat_map
    model.image_tower.compile(backend="eager")
    model.encode(images=[photo()])
    torch.testing.assert_close(model.explain(photo(), SENTENCE).heat_map, expected)


def test_blocks_that_recompute_in_training_are_explained():
    model = make()
    expected = model.explain(photo(), SENTENCE).heat_map
    for block in model.train().image_tower.visual.transformer.resblocks:
        recompute_block(block)
    torch.testing.assert_close(model.explain(photo(), SENTENCE).heat_map, expected)
    assert model.training


def test_recomputed_activations_are_refused():
    model = make().train()
    for block in model.image_tower.visual.transformer.resblocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    with pytest.raises(ConfigError, match=r"recompute .* 'occlusion'"):
        model.explain(photo(), SENTENCE)
    assert model.training
    assert model.explain(photo(), SENTENCE, "occlusion").method == "occlusion"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    explanation = make().to(dtype).explain(photo(), SENTENCE)
    assert explanation.heat_map.dtype == torch.float32
    assert explanation.heat_map.max() == 1


def test_paths_and_images_of_pillow(tmp_path):
    photo().save(tmp_path / "photo.png")
    model = make()
    maps = [model.explain(i, SENTENCE).heat_map for i in (photo(), tmp_path / "photo.png")]
    torch.testing.assert_close(*maps, atol=0, rtol=0)


def test_a_text_of_one_word_and_a_truncated_one():
    model = make()
    assert model.explain(photo(), "dog").words == (("dog", 1.0),)
    assert len(model.explain(photo(), "dog", "occlusion").words) == 1
    words = model.explain(photo(), "dog " * 40).words
    assert len(words) == 40
    assert {weight for _, weight in words[20:]} == {0.0}


def test_occlusion_removes_only_words_that_are_read():
    model = make()
    seen = []
    encode = model.encode_text
    model.encode_text = lambda tokens: seen.append(len(tokens)) or encode(tokens)
    words = model.explain(photo(), "dog cat " * 2000, "occlusion").words
    assert len(words) == 4000
    assert sum(seen) <= 20
    assert {weight for _, weight in words[20:]} == {0.0}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((photo(), SENTENCE, "lime"), ConfigError, "method: expected one of auto, attention"),
        ((photo(), " \n"), ConfigError, "text: expected a text of at least one word"),
        ((photo(), ["a dog"]), ConfigError, "text: expected a text .* got .'a dog'."),
        (("none.jpg", SENTENCE), DataError, "image: none.jpg: cannot be read"),
        ((np.zeros((9, 9, 3)), SENTENCE), ConfigError, "image: expected an image of Pillow"),
        ((Image.new("RGB", (0, 9)), SENTENCE), DataError, "image: image has no pixels"),
        ((photo(), SENTENCE, "grad_cam"), ConfigError, "no convolution .* use 'attention'"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        make().explain(*arguments)


@pytest.mark.parametrize("model", ["test_coatnet", "test_maxvit", "fastvit_t8"])
def test_towers_of_convolutions_and_attention_have_a_map(model):
    """Attention within windows, or followed by convolutions."""
    explanation = timm_encoder(model, 256 if model == "fastvit_t8" else 64).explain(photo(), "dog")
    assert explanation.method == "grad_cam"


@pytest.mark.parametrize("model", ["test_vit3", "test_vit_relpos"])
def test_transformers_of_timm(model):
    assert timm_encoder(model).explain(photo(), "dog").method == "attention"


@pytest.mark.parametrize("model_type", ["bert", "mt5", "gpt2"])
def test_text_towers_of_transformers(model_type):
    sizes = {"vocab_size": 49408, "num_attention_heads": 2, "num_hidden_layers": 2}
    width = {"bert": "hidden_size", "mt5": "d_model", "gpt2": "n_embd"}[model_type]
    torch.manual_seed(0)
    tower = TransformersTextTower(
        {"model_type": model_type, **sizes, width: 32}, 24, "last", pretrained=False,
        context_length=16, tokenizer_name="open_clip:ViT-B-32", pad_id=0,
    )  # fmt: skip
    model = DualEncoder(make().image_tower, tower).eval()
    words = model.explain(photo(), SENTENCE).words
    assert max(weight for _, weight in words) == 1


def test_downsampled_queries_are_refused():
    """Their tokens are not the first ones, so that relevance could not be passed on."""
    model = DualEncoder(Pooling(), make().text_tower)
    with pytest.raises(ConfigError, match=r"image_tower: Pooling has no attention"):
        model.explain(photo(), SENTENCE, "attention")


def test_attention_of_convolutions_is_refused():
    with pytest.raises(ConfigError, match=r"image_tower: .* no attention .* 'grad_cam'"):
        timm_encoder("test_convnext").explain(photo(), SENTENCE, "attention")


def test_weights_that_are_not_finite():
    model = make()
    model.text_tower.text.token_embedding.weight.data.fill_(torch.nan)
    for method in ("auto", "occlusion"):
        with pytest.raises(MetricError, match="the similarity is nan"):
            model.explain(photo(), SENTENCE, method)


class Colours(ImageTower):
    """A tower without attention and convolutions."""

    embedding_dim, image_size, resize_mode, interpolation = 24, 32, "shortest", "bicubic"
    image_mean = image_std = (0.5, 0.5, 0.5)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 24)

    def forward(self, images):
        return self.linear(images.mean((2, 3)))

    def config(self):
        return {}

    def layer_groups(self):
        return []


class Pooling(Colours):
    """A tower whose attention has every second token as a query."""

    def forward(self, images):
        tokens = images[:, :, ::4, ::4].flatten(2).mT
        pooled = F.scaled_dot_product_attention(tokens[:, None, ::2], *[tokens[:, None]] * 2)
        return self.linear(pooled[:, 0].mean(1))


class Bag(TextTower):
    """A tower without attention."""

    embedding_dim, context_length, vocab_size, pad_id = 24, 16, 49408, 0
    tokenizer_name, trims_exactly = "open_clip:ViT-B-32", True

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(49408, 24)

    def forward(self, tokens):
        return self.words(tokens).mean(1)

    config, layer_groups = Colours.config, Colours.layer_groups


def test_towers_without_attention_are_explained_by_occlusion():
    torch.manual_seed(0)
    model = DualEncoder(Colours(), make().text_tower)
    with pytest.raises(ConfigError, match="image_tower: Colours has neither attention nor conv"):
        model.explain(photo(), SENTENCE)
    assert model.explain(photo(), SENTENCE, "occlusion").heat_map.shape == (8, 8)
    model = DualEncoder(make().image_tower, Bag())
    with pytest.raises(ConfigError, match=r"text_tower: Bag has no attention .* 'occlusion'"):
        model.explain(photo(), SENTENCE)
    assert len(model.explain(photo(), SENTENCE, "occlusion").words) == 6
