"""The linear probe: the optimum of its objective, the choice of the penalty, the splits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from clipkit.errors import DataError, MetricError
from clipkit.evaluation import EmbedOptions, LinearProbe, ProbeSplits
from clipkit.evaluation.probes.hold_out import hold_out
from clipkit.evaluation.probes.logistic import (
    L2_GRID,
    choose_binary_l2,
    choose_l2,
    fit_binary,
    fit_logistic,
)
from tests.helpers.evaluation_data import tiny_encoder, write_layout


def clusters(count: int, *, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.eye(3, 8)
    labels = torch.arange(count) % 3
    points = centres[labels] + noise * torch.randn(count, 8, generator=generator)
    return F.normalize(points, dim=-1), labels


def test_fit_is_a_stationary_point_of_the_objective():
    features, labels = clusters(60, noise=0.4)

    classifier = fit_logistic(features, labels, 3, 0.01)

    weight = classifier.weight.clone().requires_grad_()
    bias = classifier.bias.clone().requires_grad_()
    loss = F.cross_entropy(features.double() @ weight.T + bias, labels)
    (loss + 0.005 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-6
    assert bias.grad.abs().max() < 1e-6


def test_fit_of_embeddings_in_a_narrow_cone_takes_few_steps(monkeypatch):
    features, labels = clusters(60, noise=0.4)
    narrow = F.normalize(torch.ones(8) + 0.1 * features * torch.logspace(0, -2, 8), dim=-1)
    steps: list[float] = []
    step = torch.optim.LBFGS.step

    def counted(optimizer, closure):
        return step(optimizer, lambda: steps.append(closure()) or steps[-1])

    monkeypatch.setattr(torch.optim.LBFGS, "step", counted)
    classifier = fit_logistic(narrow, labels, 3, 1e-5)

    monkeypatch.undo()
    linear_model = pytest.importorskip("sklearn.linear_model")
    theirs = linear_model.LogisticRegression(C=1 / (1e-5 * 60), tol=1e-10, solver="newton-cg")
    theirs.fit(narrow.double().numpy(), labels.numpy())
    expected = torch.from_numpy(theirs.predict_proba(narrow.double().numpy()))
    torch.testing.assert_close(classifier(narrow).softmax(1), expected, atol=1e-5, rtol=0)
    assert len(steps) < 30  # 60 without whitening


def test_fit_equals_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = clusters(60, noise=0.4)
    l2 = 0.01
    theirs = linear_model.LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-9, max_iter=1000)
    theirs.fit(features.double().numpy(), labels.numpy())

    ours = fit_logistic(features, labels, 3, l2)

    expected = torch.from_numpy(theirs.predict_proba(features.double().numpy()))
    torch.testing.assert_close(ours(features).softmax(1), expected, atol=1e-5, rtol=0)


def test_binary_fit_equals_scikit_learn_class_by_class():
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = clusters(60, noise=0.4)
    targets = torch.stack([labels == 0, labels != 1, labels == 2], 1).long()
    l2 = 0.01

    ours = fit_binary(features, targets, l2)(features).sigmoid()

    for number in range(3):
        theirs = linear_model.LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-9, max_iter=1000)
        theirs.fit(features.double().numpy(), targets[:, number].numpy())
        expected = torch.from_numpy(theirs.predict_proba(features.double().numpy())[:, 1])
        torch.testing.assert_close(ours[:, number], expected, atol=1e-5, rtol=0)


def test_embeddings_that_are_not_finite_are_counted():
    features, labels = clusters(60, noise=0.4)
    features[[3, 7]] = torch.tensor([torch.nan, torch.inf])[:, None]
    with pytest.raises(MetricError, match="NaN or infinity for 2 of 60 samples"):
        fit_logistic(features, labels, 3, 0.01)


def test_fit_of_equal_embeddings_gives_the_shares_of_the_classes():
    features = torch.ones(4, 5)
    scores = fit_logistic(features, torch.tensor([0, 0, 0, 1]), 2, 1e-6)(features)
    torch.testing.assert_close(scores.softmax(1)[0], torch.tensor([0.75, 0.25]).double())


def test_fit_does_not_depend_on_its_start():
    features, labels = clusters(60, noise=0.4)
    far = fit_logistic(features, labels, 3, 1e-4)

    again = fit_logistic(features, labels, 3, 0.01, far)

    expected = fit_logistic(features, labels, 3, 0.01)
    torch.testing.assert_close(again.weight, expected.weight, atol=1e-5, rtol=0)


def test_noise_asks_for_a_stronger_penalty():
    clean = choose_l2(clusters(12, noise=0.05), clusters(300, noise=0.05, seed=1), 3)
    noisy = choose_l2(clusters(12, noise=1.5), clusters(300, noise=1.5, seed=1), 3, L2_GRID[::4])

    assert clean == L2_GRID[0]
    assert noisy > L2_GRID[-1]


def test_noise_asks_several_classes_for_a_stronger_penalty():
    def split(count, noise, seed=0):
        features, labels = clusters(count, noise=noise, seed=seed)
        return features, torch.stack([labels == 0, labels != 1], 1).long()

    clean = choose_binary_l2(split(12, 0.05), split(300, 0.05, 1))
    noisy = choose_binary_l2(split(12, 1.5), split(300, 1.5, 1), L2_GRID[::4])

    assert clean == L2_GRID[0]
    assert noisy > L2_GRID[-1]


def test_hold_out_takes_every_fifth_of_each_class():
    labels = torch.tensor([0] * 11 + [1] * 4 + [2] * 5)

    kept, held = hold_out(labels)

    assert labels[held].tolist() == [0, 0, 2]
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(20))


def test_probe_measures_the_test_split_and_repeats_itself(tmp_path, monkeypatch):
    strong = partial(choose_l2, grid=L2_GRID[:3])
    monkeypatch.setattr("clipkit.evaluation.probes.linear.choose_l2", strong)
    write_layout(tmp_path, (40, 26), split="train", start=100)
    write_layout(tmp_path, (24,), split="test")
    write_layout(tmp_path, (18,), split="val", start=300)
    encoder = tiny_encoder()

    held_out = LinearProbe(tmp_path).run(encoder)
    with_val = LinearProbe(tmp_path, validation_split="val", options=EmbedOptions(limit=60)).run(
        encoder
    )

    assert {"top1", "top5", "mean_per_class_recall", "l2"} <= set(held_out)
    assert held_out["l2"] in L2_GRID[:3]
    assert 0 <= held_out["top1"] <= held_out["top5"] <= 1
    assert held_out == LinearProbe(tmp_path).run(encoder)
    assert set(with_val) == set(held_out)


def test_probe_learns_what_the_embeddings_hold(tmp_path):
    write_layout(tmp_path, (36,), split="train")
    write_layout(tmp_path, (36,), split="test")

    splits = ProbeSplits(tmp_path, validation_split="test", allow_overlap=True)
    metrics = LinearProbe(splits).run(tiny_encoder())

    assert metrics["top1"] > 0.6  # the very pictures it was fitted on; chance is 1/6


def test_a_training_split_too_small_to_hold_out_says_so(tmp_path):
    write_layout(tmp_path, (8,), split="train", start=100)
    write_layout(tmp_path, (6,), split="test")

    with pytest.raises(DataError, match="too small to hold samples out"):
        LinearProbe(tmp_path).run(tiny_encoder())


def test_a_missing_training_split_is_named_at_once(tmp_path):
    with pytest.raises(DataError, match="no split 'train'; it has test"):
        LinearProbe(write_layout(tmp_path))
