"""The encoder of any number of towers: next to the dual encoder, and by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models import (
    DualEncoder,
    LinearLabelHead,
    MultimodalEncoder,
    PrototypeLabelHead,
    describe,
    load_encoder,
    load_multimodal_encoder,
    lock,
    save_encoder,
    with_towers,
)
from clipkit.models.checkpoints.description import build_encoder
from clipkit.types import ModalityBatch
from tests.helpers import modalities, tiny
from tests.helpers.modalities import CLASSES, SHAPE, SIZE, WIDTH, BagTower, PixelTower, SumTower
from tests.helpers.series import CHANNELS, LENGTH, SeriesTower


def series_batch(present, dtype=torch.float32):
    batch = tiny.batch(size=len(present))
    values = torch.randn(len(present), CHANNELS, LENGTH, dtype=dtype)
    present = torch.tensor(present)
    return replace(
        batch, modalities={"series": ModalityBatch(values * present[:, None, None], present)}
    )


def test_images_and_texts_are_embedded_as_by_the_dual_encoder():
    dual, batch = tiny.encoder(labels=True), tiny.batch()
    model = with_towers(dual, {"series": SeriesTower()})
    batch = replace(series_batch([True, False, True, False]), labels=batch.labels)
    expected, got = dual(batch), model(batch)
    for name in ("image", "text", "logit_scale", "label_logits", "image_features"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    assert model.log_logit_scale is dual.log_logit_scale
    assert dict(model.named_parameters()).keys() > dict(dual.named_parameters()).keys()


def test_a_tower_sees_those_that_have_its_modality():
    model = with_towers(tiny.encoder(), {"series": SeriesTower(norm=True)}).train()
    batch = series_batch([True, False, True, True])
    seen = []
    model.towers["series"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for given in (batch, batch.to("cpu")):
        values = model(given).modalities["series"].values
        assert torch.equal(seen[-1], batch.modalities["series"].values[[0, 2, 3]])
        assert not values[1].any()
        torch.testing.assert_close(values[[0, 2, 3]].norm(dim=1), torch.ones(3))
    complete = series_batch([True] * 4).to("cpu")
    model(complete)
    assert seen[-1] is complete.modalities["series"].values  # no copy


def test_statistics_of_a_norm_do_not_change_without_inputs():
    tower = SeriesTower(norm=True)
    model = with_towers(tiny.encoder(), {"series": tower}).train()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    embeddings = model(series_batch([False] * 4))
    assert tower.normed.training
    assert {n: v.tolist() for n, v in tower.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }
    series = embeddings.modalities["series"].values
    assert not series.any()
    series.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in tower.parameters())


def test_a_locked_tower_stays_in_evaluation_mode_also_without_inputs():
    tower = SeriesTower(norm=True)
    model = with_towers(tiny.encoder(), {"series": tower})
    lock(model.tower_named("series_tower"))
    assert not tower.normed.training  # a trainer may not call train()
    model.train()
    assert not tower.normed.training
    model(series_batch([False] * 4))
    assert not tower.normed.training


def test_towers_are_optional():
    towers = {"series": SumTower(), "depth": SumTower(input_shape=(3,))}
    model = MultimodalEncoder(towers, {"depth": LinearLabelHead(WIDTH, CLASSES)}).double()
    batch = modalities.batch("all")
    depth = ModalityBatch(torch.randn(SIZE, 3), torch.ones(SIZE, dtype=torch.bool))
    batch.modalities["depth"] = depth
    embeddings = model(batch)
    assert embeddings.image.shape == (0, WIDTH)
    assert embeddings.text is None
    assert embeddings.head_logits["depth"].shape == (SIZE, CLASSES)
    series = model.encode_signal("series", batch.modalities["series"].values)
    torch.testing.assert_close(series, embeddings.modalities["series"].values)
    for call in (lambda: model.encode_image(batch.images), lambda: model.encode_text(batch.tokens)):
        with pytest.raises(ConfigError, match="this encoder has none"):
            call()
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {
        "series_tower", "depth_tower", "label_heads", "log_logit_scale",
    }  # fmt: skip


def test_prototypes_of_texts_score_a_further_modality():
    head = PrototypeLabelHead(16, ["a red square", "a blue square"])
    model = with_towers(tiny.encoder(), {"series": SeriesTower()}, {"series": head})
    head.read_texts(lambda texts: torch.randint(1, 99, (len(texts), 5)))
    logits = model(series_batch([True, False])).head_logits["series"]
    assert logits.shape == (2, 2)


def test_a_scale_of_its_own_is_limited_like_the_other():
    model = modalities.encoder(logit_scale=20.0, max_logit_scale=30.0).train()
    with torch.no_grad():
        model.log_pair_scales["text:series"].fill_(9.0)
    embeddings = model(modalities.batch())
    assert float(embeddings.scale_of("series", "text")) == pytest.approx(30.0)
    assert float(embeddings.scale_of("image", "text")) == pytest.approx(20.0)
    assert model.log_pair_scales["text:series"].exp().item() == pytest.approx(30.0)


TOWERS = {"image": PixelTower, "text": BagTower, "series": SumTower}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"towers": {}}, "towers: expected at least one"),
        ({"towers": {"image": BagTower()}}, "towers.image: .* ImageTower, got BagTower"),
        ({"towers": {"series": PixelTower()}}, "towers.series: .* SignalTower, got PixelTower"),
        ({"towers": {"a b": SumTower()}}, "towers.a b: expected the name of a modality"),
        ({"towers": {"a": SumTower(4), "b": SumTower(5)}}, "same embedding_dim .*'a': 4, 'b': 5"),
        ({"label_heads": {"sound": LinearLabelHead(WIDTH, 3)}}, "names of towers .* got 'sound'"),
        ({"label_heads": {"series": LinearLabelHead(5, 3)}}, "series.embedding_dim: .* 6, got 5"),
        ({"pair_scales": ["image"]}, "pair_scales: expected FIRST:SECOND"),
        ({"pair_scales": ["image:image"]}, "pair_scales: expected FIRST:SECOND"),
        ({"pair_scales": ["image:sound"]}, "pair_scales: expected FIRST:SECOND"),
        ({"pair_scales": ["image:text", "text:image"]}, "each pair once"),
        ({"logit_scale": 0.0}, "logit_scale: expected the linear scale"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, message):
    given = {"towers": {name: tower() for name, tower in TOWERS.items()}, **options}
    with pytest.raises(ConfigError, match=message):
        MultimodalEncoder(**given)


def test_a_batch_without_the_modality_or_of_another_shape_is_refused():
    model = modalities.encoder()
    batch = modalities.batch()
    with pytest.raises(ConfigError, match="expected 'series', as the encoder has a series_tower"):
        model(replace(batch, modalities=None))
    wrong = ModalityBatch(torch.zeros(SIZE, 5, 2), torch.ones(SIZE, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"series_tower: expected .* \(2, 5\), got \(5, 2\)"):
        model(replace(batch, modalities={"series": wrong}))
    with pytest.raises(ConfigError, match="modalities series, got 'sound'"):
        model.encode_signal("sound", torch.zeros(2, *SHAPE))
    with pytest.raises(ConfigError, match="tower: expected image_tower or"):
        model.tower_named("sound_tower")


def test_examples_of_a_step_fit_the_encoder():
    model = modalities.encoder()
    embeddings = model(model.example_batch(3, num_tokens=4))
    assert embeddings.modalities["series"].values.shape == (3, WIDTH)
    made_up = model.example_embeddings()
    assert made_up.head_logits.keys() == embeddings.head_logits.keys()
    assert made_up.modalities.keys() == embeddings.modalities.keys()


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model = with_towers(
        tiny.encoder(labels=True),
        {"series": SeriesTower(norm=True, seed=3)},
        {"series": LinearLabelHead(16, 5)},
        ["image:series"],
    ).eval()
    model.heads["series"].class_names = tuple("abcde")
    with torch.no_grad():
        model.log_pair_scales["image:series"].fill_(1.5)
        model.log_logit_scale.fill_(2.5)
    save_encoder(model, tmp_path)
    again = load_multimodal_encoder(tmp_path)
    assert describe(again) == describe(model)
    assert again.heads["series"].class_names == tuple("abcde")
    batch = series_batch([True, False, True])
    first, second = model(batch), again(batch)
    assert torch.equal(first.modalities["series"].values, second.modalities["series"].values)
    assert torch.equal(first.head_logits["series"], second.head_logits["series"])
    assert second.scale_of("series", "image") == first.scale_of("image", "series")

    dual = load_encoder(tmp_path)  # what evaluates and exports images and texts
    assert isinstance(dual, DualEncoder)
    expected, got = model(batch), dual(batch)
    for name in ("image", "text", "logit_scale", "label_logits"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name


def test_a_scale_of_images_and_texts_is_that_of_the_dual_encoder():
    model = modalities.encoder(pair_scales=["text:image"])
    with torch.no_grad():
        model.log_pair_scales["text:image"].fill_(1.25)
    assert model.dual().log_logit_scale.item() == 1.25
    assert (
        model.scale_with_text("image")
        == model.dual().logit_scale
        == model.dual().scale_with_text("image")
    )
    shared = modalities.encoder()
    assert shared.scale_with_text("image") == shared.logit_scale == shared.dual().logit_scale


def test_scales_of_pairs_start_at_the_trained_scale():
    dual = tiny.encoder()
    dual.set_logit_scale(42.0)
    model = with_towers(dual, {"series": SeriesTower()}, pair_scales=["image:text", "text:series"])
    assert model.dual().logit_scale == model.logit_scale == dual.logit_scale
    assert model.log_pair_scales["text:series"] == dual.log_logit_scale
    assert model.log_pair_scales["text:series"].requires_grad


def test_added_towers_have_the_type_of_the_encoder():
    model = with_towers(
        tiny.encoder().bfloat16(), {"series": SeriesTower()}, {"series": LinearLabelHead(16, 5)},
        ["image:series"],
    ).eval()  # fmt: skip
    batch = series_batch([True, False, True])
    with torch.no_grad():
        expected, got = model(batch), model.dual()(batch)
    assert torch.equal(got.image, expected.image)
    for encoder in (model, model.dual()):
        tensors = [*encoder.state_dict().values(), encoder.image_mean, encoder.image_std]
        assert {value.dtype for value in tensors if value.is_floating_point()} == {torch.bfloat16}


def test_what_needs_images_and_texts_refuses_other_encoders(tmp_path):
    model = MultimodalEncoder({"text": BagTower(), "series": SumTower()})
    save_encoder(model, tmp_path / "saved")
    with pytest.raises(CheckpointError, match="expected an image and a text tower, got text, ser"):
        load_encoder(tmp_path / "saved")
    with pytest.raises(ConfigError, match="expected an image and a text tower"):
        model.dual()
    save_encoder(tiny.encoder(), tmp_path / "dual")
    with pytest.raises(CheckpointError, match="expected a MultimodalEncoder, got DualEncoder"):
        load_multimodal_encoder(tmp_path / "dual")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"towers": None}, "towers: expected parts by name"),
        ({"towers": ["a"]}, "towers: expected parts by name"),
        ({"towers": {"series": 3}}, "towers.series: None is not a known tower"),
        ({"towers": {"series": {"class_path": "os.system"}}}, "'os.system' is not a known tower"),
        ({"label_heads": {"series": {"class_path": "x"}}}, "label_heads.series: 'x' is not"),
    ],
)
def test_a_description_that_was_changed_is_refused(change, message):
    description = describe(modalities.encoder())
    description["init_args"].update(change)
    with pytest.raises(CheckpointError, match=message):
        build_encoder(description, "file")
