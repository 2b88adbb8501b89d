"""Terms over any two modalities, against loops over the samples that have both."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    GlobalContrastiveLoss,
    LabelLoss,
    LinearSchedule,
    MicroBatchedEncoder,
    ModalityLabelLoss,
    ModalityPairLoss,
    SigmoidLoss,
    WeightedTerm,
)
from clipkit.losses.memory import remembering_terms
from clipkit.types import Embeddings, ModalityEmbeddings, NegativeBatch
from clipkit.when import Progress
from tests.helpers import modalities
from tests.helpers.oracles import naive_softmax, unit_rows

CASES = list(itertools.product(modalities.PAIRS, modalities.LOSSES, modalities.MASKS))


def gradients(embed, model, loss, batch):
    terms = loss(embed(batch), batch)
    terms["loss"].backward()
    assert all(p.grad is not None for p in model.parameters()), "DDP would wait for them"
    return terms, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("pairs", "kind", "series"), CASES)
@pytest.mark.parametrize("groups", [False, True])
def test_equals_loops_over_those_that_have_both(pairs, kind, series, groups):
    batch = modalities.batch(series, groups)
    expected, by_name = modalities.naive_gradients(pairs, kind, batch)
    # by the number of present inputs, as on a GPU, and by looking
    ways = (
        ((batch, None), (batch.to("cpu"), 5)) if groups else ((batch, 5), (batch.to("cpu"), None))
    )
    for given, size in ways:
        model = modalities.encoder(bias=kind == "sigmoid")
        embed = model if size is None else MicroBatchedEncoder(model, size)
        terms, got = gradients(embed, model, modalities.objective(pairs, kind), given)
        torch.testing.assert_close(terms["loss"].detach(), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(got, by_name, rtol=0, atol=1e-9)
    assert by_name["image_tower.linear.weight"].abs().max() > 1e-3
    for first, second, _ in modalities.PAIRS[pairs]:
        masks = {
            "image": batch.image_present,
            "text": batch.text_present,
            "series": batch.modalities["series"].present,
        }
        assert terms[f"{first}_{second}_num_samples"] == (masks[first] & masks[second]).sum()


def test_pair_mask_and_negatives_belong_to_images_with_texts():
    image, text, sound = (unit_rows(6, 5, seed) for seed in range(3))
    wrong = unit_rows(2, 5, 3)
    batch = replace(
        modalities.batch(), labels=torch.full((6,), -100), keys=tuple("abcdef"), modalities=None,
        pair_mask=torch.tensor([True] * 4 + [False] * 2), groups=None,
        negatives=NegativeBatch(tokens=torch.zeros(2, 1).long()),
        image_present=None, text_present=None,
    )  # fmt: skip
    embeddings = Embeddings(
        image, text, torch.tensor(5.0).double(), negative_text=wrong,
        modalities={"sound": ModalityEmbeddings(sound, torch.ones(6, dtype=torch.bool))},
    )  # fmt: skip
    expected = {
        ("image", "text"): naive_softmax(image[:4], text[:4], torch.tensor(5.0), None, None, wrong),
        ("text", "image"): naive_softmax(text[:4], image[:4], torch.tensor(5.0), None, wrong, None),
        ("image", "sound"): naive_softmax(image, sound, torch.tensor(5.0)),
        ("sound", "text"): naive_softmax(sound, text, torch.tensor(5.0)),
    }
    for names, value in expected.items():
        got = ModalityPairLoss(ContrastiveLoss(), *names)(embeddings, batch)
        torch.testing.assert_close(got, value, rtol=0, atol=1e-9)


def test_weights_follow_their_schedules():
    terms = {
        "early": WeightedTerm(
            ModalityPairLoss(ContrastiveLoss(), "image", "series"),
            LinearSchedule(1.0, 0.0, length=1.0),
        ),
        "late": WeightedTerm(
            ModalityPairLoss(ContrastiveLoss(), "series", "text"),
            LinearSchedule(0.0, 1.0, length=1.0),
        ),
    }
    loss, model, batch = CombinedLoss(terms=terms), modalities.encoder(), modalities.batch()
    embeddings = model(batch)
    for step, weights in ((0, (1.0, 0.0)), (5, (0.5, 0.5)), (10, (0.0, 1.0))):
        loss.progress = Progress(step=step, num_steps=10)
        values = loss(embeddings, batch)
        for name, weight in zip(terms, weights, strict=True):
            weighted = values[f"{name}_weighted"]
            torch.testing.assert_close(weighted, weight * values[name], rtol=0, atol=1e-12)


def test_a_loss_with_a_memory_has_one_for_each_pair():
    first, second = (
        ModalityPairLoss(GlobalContrastiveLoss(modalities.SIZE, 0.5), "image", name)
        for name in ("text", "series")
    )
    loss = CombinedLoss(terms={"a": WeightedTerm(first), "b": WeightedTerm(second)})
    assert len(dict(remembering_terms(loss))) == 2
    batch, model = modalities.batch("not on the second rank"), modalities.encoder()
    loss(model(batch), batch)["loss"].backward()
    have = batch.image_present & batch.modalities["series"].present
    known = second.loss.log_averages.isfinite().all(0)
    assert known.tolist() == have.tolist()
    assert first.loss.log_averages.isfinite().all(0).tolist() == batch.pair_mask.tolist()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_loss_of_images_and_texts_trains_their_own_scale(kind):
    model = modalities.encoder(bias=kind == "sigmoid", pair_scales=["text:image"])
    with torch.no_grad():
        model.log_pair_scales["text:image"].fill_(1.0)
    batch = modalities.batch("all")
    loss = modalities.LOSSES[kind]()
    embeddings = model(batch)
    values = CombinedLoss(loss)(embeddings, batch)
    own = replace(embeddings, logit_scale=model.dual().logit_scale, pair_scales=None)
    torch.testing.assert_close(values["contrastive"], loss(own, batch).detach())
    values["loss"].backward()
    assert model.log_pair_scales["text:image"].grad.abs() > 1e-3
    assert model.log_logit_scale.grad == 0


def test_only_texts_need_captions():
    pair = ModalityPairLoss(ContrastiveLoss(), "image", "series")
    loss, model = CombinedLoss(terms={"pair": WeightedTerm(pair)}), modalities.encoder()
    assert not loss.reads_captions
    batch = replace(modalities.batch(), tokens=None)
    assert loss(model(batch), batch)["loss"] > 0
    assert ModalityPairLoss(ContrastiveLoss(), "text", "series").reads_captions


def test_what_does_not_fit_is_refused_before_a_run():
    model = modalities.encoder()
    given = model.example_embeddings()
    with pytest.raises(ConfigError, match="got 'text' twice"):
        ModalityPairLoss(ContrastiveLoss(), "text", "text")
    for loss, message in (
        (ModalityPairLoss(ContrastiveLoss(), "image", "sound"), "sound_tower"),
        (ModalityPairLoss(SigmoidLoss(), "image", "series"), "logit_bias"),
        (ModalityLabelLoss(LabelLoss(), "text"), "no label head on its text_tower"),
        (ModalityLabelLoss(LabelLoss(3), "series"), "num_classes: the label loss expects 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            loss.check(given)
    ModalityPairLoss(ContrastiveLoss(), "image", "series").check(given)


def test_without_an_image_tower_images_are_refused():
    towers = {"text": modalities.BagTower(), "series": modalities.SumTower()}
    model = modalities.MultimodalEncoder(towers).double()
    batch = modalities.batch()
    embeddings = model(batch)
    sound = ModalityPairLoss(ContrastiveLoss(), "text", "series")
    assert sound(embeddings, batch) > 0
    for given in (embeddings, model.example_embeddings()):
        with pytest.raises(ConfigError, match="image_tower"):
            ModalityPairLoss(ContrastiveLoss(), "image", "series").check(given)
    with pytest.raises(ConfigError, match="as many texts as images"):
        ContrastiveLoss()(embeddings, batch)
