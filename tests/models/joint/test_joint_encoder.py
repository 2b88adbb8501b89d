"""A joint encoder is its dual encoder, with tokens of the same pass that a fusion reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.losses import embed_in_micro_batches
from clipkit.models import (
    CrossAttentionFusion,
    JointEncoder,
    MergedFusion,
    TcnFusion,
    TcnTower,
    TimmNaFlexTower,
    TransformersTextTower,
    WordHead,
    load_encoder,
    load_joint_encoder,
    save_encoder,
    with_fusion,
    with_towers,
)
from clipkit.models.lora import add_lora
from clipkit.patches import join_images
from clipkit.types import ModalityBatch
from tests.helpers import modalities, tiny_models

SIZES = {"width": 16, "num_heads": 2, "depth": 1}
VISIONS = {
    "vit": (tiny_models.VIT, 17),
    "mean of patches": ({**tiny_models.VIT, "pool_type": "avg"}, 17),
    "resnet": (tiny_models.RESNET, 1),
    "timm convolutions": (tiny_models.TIMM_CONV, 4),
    "timm transformer": (tiny_models.TIMM_VIT, 17),
}


def joint(encoder=None, fusion=None, words=True):
    encoder = tiny_models.encoder() if encoder is None else encoder
    torch.manual_seed(1)
    fusion = CrossAttentionFusion(**SIZES) if fusion is None else fusion
    head = WordHead(16, encoder.text_tower.vocab_size) if words else None
    return with_fusion(encoder, fusion, head).eval()


def scores(model, batch):
    return model.match(model.fuse(model(batch).tokens).pooled)


@pytest.mark.parametrize("vision", VISIONS)
def test_embeddings_stay_and_every_tower_exposes_its_tokens(vision):
    config, num_tokens = VISIONS[vision]
    encoder = tiny_models.encoder(config)
    batch = tiny_models.batch(size=encoder.image_tower.image_size)
    expected = encoder(batch)
    model = joint(encoder)
    got = model(batch)
    torch.testing.assert_close(got.image, expected.image, atol=1e-6, rtol=0)
    torch.testing.assert_close(got.text, expected.text)
    dim = model.image_tower.token_dim
    assert got.tokens["image"].values.shape == (3, num_tokens, dim)
    assert got.tokens["text"].values.shape == (3, 9, model.text_tower.token_dim)
    assert got.tokens["text"].mask.sum(1).tolist() == [9, 8, 7]
    image, text = model.read_image(batch.images), model.read_text(batch.tokens)
    torch.testing.assert_close(image.tokens.values, got.tokens["image"].values)
    torch.testing.assert_close(text.tokens.values, got.tokens["text"].values)
    torch.testing.assert_close(text.embedding, got.text)


def test_tokens_are_those_that_the_embedding_is_pooled_from():
    model = joint()
    batch = tiny_models.batch()
    out = model(batch)
    visual = model.image_tower.visual
    pooled = visual.ln_post(out.tokens["image"].values[:, 0]) @ visual.proj
    torch.testing.assert_close(torch.nn.functional.normalize(pooled, dim=1), out.image)
    last = out.tokens["text"].values[torch.arange(3), batch.tokens.argmax(1)]
    own = model.text_tower.text.text_projection
    torch.testing.assert_close(torch.nn.functional.normalize(last @ own, dim=1), out.text)


@pytest.mark.parametrize("fusion", [CrossAttentionFusion, MergedFusion])
def test_padding_and_other_samples_change_nothing(fusion):
    model = joint(fusion=fusion(**SIZES))
    batch = tiny_models.batch()
    expected = scores(model, batch)
    padded = torch.nn.functional.pad(batch.tokens, (0, 4))
    torch.testing.assert_close(scores(model, replace(batch, tokens=padded)), expected)
    rows = [slice(row, row + 1) for row in range(3)]
    single = [replace(batch, images=batch.images[r], tokens=batch.tokens[r]) for r in rows]
    alone = [scores(model, one) for one in single]
    torch.testing.assert_close(torch.cat(alone), expected)


def test_direction_and_depth_are_configured():
    model = joint(fusion=CrossAttentionFusion(16, 2, 2, query="image", context=["text"]))
    fused = model.fuse(model(tiny_models.batch()).tokens)
    assert fused.tokens["image"].shape == (3, 17, 16)
    assert len(model.fusion.blocks) == 2
    merged = joint(fusion=MergedFusion(**SIZES))
    assert merged.fuse(merged(tiny_models.batch()).tokens).tokens.keys() == {"image", "text"}


def test_micro_batches_have_the_same_tokens_and_gradients():
    model, batch = joint(), tiny_models.batch()
    gradients = []
    for size in (3, 2):
        out = embed_in_micro_batches(model, batch, size)
        model.match(model.fuse(out.tokens).pooled).sum().backward()
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
        model.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, msg=name)
    assert "image_tower.visual.conv1.weight" in gradients[0]


def test_negatives_of_the_batch_are_left_out():
    from clipkit.types import NegativeBatch

    model, batch = joint(), tiny_models.batch()
    expected = scores(model, batch)
    longer = torch.nn.functional.pad(batch.tokens, (0, 3))
    negatives = NegativeBatch(images=batch.images[:2], tokens=longer)
    got = scores(model, replace(batch, negatives=negatives))
    torch.testing.assert_close(got, expected)


def test_images_of_any_shape():
    torch.manual_seed(0)
    encoder = tiny_models.encoder(tiny_models.TIMM_VIT)
    tower = TimmNaFlexTower("test_vit", embedding_dim=24, max_tokens=16)
    model = joint(JointEncoder({"image": tower, "text": encoder.text_tower}, MergedFusion(**SIZES)))
    images, grids = join_images(
        [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((32, 64), (16, 32))],
        tower.budget,
    )
    both = model.read_image(images, grids).tokens
    assert both.mask.sum(1).tolist() == [
        8 + tower.trunk.num_prefix_tokens,
        2 + tower.trunk.num_prefix_tokens,
    ]
    alone = model.read_image(images[1:, :2], grids[1:]).tokens
    torch.testing.assert_close(both.values[1][both.mask[1]], alone.values[0])


def test_transformers_text_tower():
    bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1,
            "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 100,
            "max_position_embeddings": 32}  # fmt: skip
    tower = TransformersTextTower(bert, 24, pretrained=False, context_length=16,
                                  tokenizer_name="transformers:./bert")  # fmt: skip
    image = tiny_models.encoder().image_tower
    model = JointEncoder({"image": image, "text": tower}, CrossAttentionFusion(**SIZES)).eval()
    assert model(tiny_models.batch()).tokens["text"].values.shape == (3, 9, 32)


def test_series_in_time_that_some_samples_lack():
    torch.manual_seed(0)
    series = {
        n: TcnTower(24, input_shape=(4, 10), width=8, num_blocks=1, mean=0, std=1)
        for n in ("a", "b")
    }
    encoder = with_towers(tiny_models.encoder(), series)
    model = with_fusion(encoder, TcnFusion(16, num_blocks=2, modalities=("a", "b"))).eval()
    values = {n: torch.randn(3, 4, 10) for n in series}
    present = torch.tensor([True, False, True])
    batch = replace(tiny_models.batch(), modalities={
        "a": ModalityBatch(values["a"], torch.ones(3, dtype=torch.bool)),
        "b": ModalityBatch(values["b"], present),
    })  # fmt: skip
    out = model(batch)
    assert out.tokens["b"].values.shape == (3, 10, 8)
    assert not out.tokens["b"].values[1].any()
    alone = model.read_signal("b", values["b"][2:]).tokens
    torch.testing.assert_close(out.tokens["b"].values[2:], alone.values)
    assert scores(model, batch).shape == (3,)
    absent = torch.zeros(3, dtype=torch.bool)
    none = replace(batch, modalities={n: ModalityBatch(v, absent) for n, v in values.items()})
    assert scores(model, none).isfinite().all()


def test_files_keep_the_fusion_and_give_the_dual_encoder(tmp_path, caplog):
    model, batch = joint(), tiny_models.batch()
    save_encoder(model, tmp_path / "export")
    loaded = load_joint_encoder(tmp_path / "export")
    assert torch.equal(scores(loaded, batch), scores(model, batch))
    assert loaded.vocab_size == 100
    assert torch.equal(load_encoder(tmp_path / "export")(batch).image, model(batch).image)
    assert not caplog.records
    save_encoder(tiny_models.encoder(), tmp_path / "dual")
    with pytest.raises(CheckpointError, match="expected a JointEncoder, got DualEncoder"):
        load_joint_encoder(tmp_path / "dual")


def test_adapters_of_towers():
    model, batch = joint(), tiny_models.batch()
    expected = scores(model, batch)
    add_lora(model.image_tower, rank=2)
    torch.testing.assert_close(scores(model, batch), expected)
    scores(model, batch).sum().backward()
    trained = {n for n, p in model.image_tower.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora" in name for name in trained)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: joint(fusion=CrossAttentionFusion(16, 1, 3)), "divisor of width = 16, got 3"),
        (lambda: joint(fusion=MergedFusion(16, 1, 2, ["text"])), "at least two different"),
        (lambda: joint(fusion=CrossAttentionFusion(16, 1, 2, context=["sound"])), "got 'sound'"),
        (lambda: with_fusion(tiny_models.encoder(), CrossAttentionFusion(**SIZES), WordHead(8, 9)),
         "width = 16 as the fusion, and vocab_size = 100"),
        (lambda: JointEncoder({"image": modalities.PixelTower(), "text": modalities.BagTower()},
                              MergedFusion(**SIZES)), "inherit from clipkit.models.TokenTower"),
        (lambda: joint(words=False).predict_words(torch.zeros(1, 16)), "word_head: this encoder"),
        (lambda: joint().fuse({}), "expected the tokens of text, image, got those of none"),
        (lambda: joint().read_signal("sound", torch.zeros(1)), "fused modalities text, image"),
        (lambda: TcnFusion(16, kernel_size=2), "odd number"),
        (lambda: CrossAttentionFusion(16, context="image"), r"list, got 'image'; write \[image\]"),
        (lambda: MergedFusion(16, modalities="image"), "two different modalities, got 'image'"),
        (lambda: MergedFusion(16, modalities=[1, 2]),  # type: ignore[list-item]
         r"two different modalities, got \[1, 2\]"),
        (lambda: MergedFusion(16, depth=10**9), "fusion.depth: expected 1 to 128"),
        (lambda: joint(fusion=TcnFusion(16, modalities=["image", "text"])),
         "TcnFusion reads sequences without padding, got 'text'"),
        (lambda: joint(fusion=WordHead(16, 100)), "fusion: expected a Fusion, got WordHead"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
