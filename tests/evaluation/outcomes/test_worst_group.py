"""Groups of units against loops, with weights, absent groups and files."""

import math

import pytest
import torch

from clipkit.evaluation import Outcomes, load_outcomes, outcome_metrics, save_outcomes
from clipkit.evaluation.outcomes.worst_group import worst_group_outcomes


def test_weighted_means_of_groups(tmp_path):
    generator = torch.Generator().manual_seed(0)
    hits = torch.randint(2, (40,), generator=generator).float()
    weights = torch.randint(3, (40,), generator=generator)
    names = [("b", "a", "c")[n % 3] for n in range(40)]
    keys = tuple(map(str, range(40)))
    units = Outcomes("means", keys, keys, {}, prefix="x/")
    outcomes = worst_group_outcomes({"top1": hits}, names, units)
    save_outcomes(tmp_path / "o.npz", [outcomes])
    (outcomes,) = load_outcomes(tmp_path / "o.npz")
    metrics = outcome_metrics(outcomes, weights)
    means = {}
    for name in "abc":
        rows = [n for n in range(40) if names[n] == name for _ in range(int(weights[n]))]
        means[name] = float(hits[rows].mean())
    assert {n: metrics[f"x/group/{n}/top1"] for n in "abc"} == pytest.approx(means)
    assert metrics["x/worst_group/top1"] == pytest.approx(min(means.values()))
    gap = max(means.values()) - min(means.values())
    assert metrics["x/group_gap/top1"] == pytest.approx(gap)


def test_a_group_without_weight_is_not_the_worst():
    units = Outcomes("means", ("a", "b"), ("a", "b"), {})
    outcomes = worst_group_outcomes({"top1": torch.tensor([0.0, 1.0])}, ["x", "y"], units)
    metrics = outcome_metrics(outcomes, torch.tensor([0, 2]))
    assert metrics["worst_group/top1"] == 1
    assert math.isnan(metrics["group/x/top1"])
