"""Nearest neighbours: scikit-learn's votes, ties, and the order of the training images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipkit.errors import ConfigError
from clipkit.evaluation import NearestNeighbours, ProbeSplits, outcome_metrics
from clipkit.evaluation.probes.neighbours import neighbour_votes
from tests.evaluation.probes.test_splits import write_split
from tests.helpers.evaluation_data import tiny_encoder


def points(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 6, generator=generator), dim=1)


@pytest.mark.parametrize("k", [1, 4, 30])
def test_votes_are_those_of_scikit_learn(k):
    neighbors = pytest.importorskip("sklearn.neighbors")
    train, test = points(30, 0), points(11, 1)
    labels = torch.randint(0, 3, (30,), generator=torch.Generator().manual_seed(2))
    theirs = neighbors.KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07), algorithm="brute"
    ).fit(train.double().numpy(), labels.numpy())

    ours = neighbour_votes(test, train, labels, 3, k, 0.07)

    expected = torch.from_numpy(theirs.predict_proba(test.double().numpy()))
    torch.testing.assert_close(ours / ours.sum(1, keepdim=True), expected, atol=1e-5, rtol=0)


def test_chunks_and_order_change_nothing(monkeypatch):
    train, test, labels = points(30, 0), points(11, 1), torch.arange(30) % 3
    complete = neighbour_votes(test, train, labels, 3, 5, 0.07)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr("clipkit.evaluation.probes.neighbours._CHUNK_SCORES", 70)

    torch.testing.assert_close(neighbour_votes(test, train, labels, 3, 5, 0.07), complete)
    shuffled = neighbour_votes(test, train[order], labels[order], 3, 5, 0.07)
    torch.testing.assert_close(shuffled, complete)


def test_a_collapsed_model_gains_nothing_from_the_order_of_the_data():
    same = F.normalize(torch.ones(30, 6), dim=1)
    labels = (torch.arange(30) >= 15).long()  # sorted by class, as folders are

    votes = neighbour_votes(same[:4], same, labels, 2, 5, 0.07)

    assert (votes[:, 0] == votes[:, 1]).all()  # a tie, which never wins


def test_evaluator_keeps_outcomes_for_each_k(tmp_path):
    write_split(tmp_path, "train", range(20))
    write_split(tmp_path, "test", range(20, 32))

    evaluation = NearestNeighbours(tmp_path, ks=(1, 5, 500)).evaluate(tiny_encoder())

    assert [o.prefix for o in evaluation.outcomes] == ["k_1/", "k_5/"]
    assert evaluation.metrics == {
        k: v for o in evaluation.outcomes for k, v in outcome_metrics(o).items()
    }
    assert {"k_1/top1", "k_5/top5", "k_5/mean_per_class_recall"} <= set(evaluation.metrics)


def test_a_model_is_perfect_on_its_own_training_images(tmp_path):
    write_split(tmp_path, "train", range(20))
    write_split(tmp_path, "test", range(20))
    splits = ProbeSplits(tmp_path, allow_overlap=True)

    assert NearestNeighbours(splits, ks=[1]).run(tiny_encoder())["k_1/top1"] == 1.0


def test_wrong_options_are_named(tmp_path):
    write_split(tmp_path, "train", range(4))
    write_split(tmp_path, "test", range(20, 24))
    with pytest.raises(ConfigError, match="ks: expected at most 4, the size of the training split"):
        NearestNeighbours(tmp_path)
    assert NearestNeighbours(tmp_path, ks=[9, 3, 2]).primary_metric == "k_3/top1"
    for options in ({"ks": []}, {"ks": [0]}, {"temperature": 0.0}):
        with pytest.raises(ConfigError):
            NearestNeighbours(tmp_path, **options)
