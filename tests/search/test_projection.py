"""The projection: gradients against autograd, neighbours against a full sort and PCA."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipkit.evaluation.report.collect.planes import fit_plane
from clipkit.search.projection import attraction, nearest_neighbours, project, repulsion


def groups(num_groups: int, each: int, width: int = 32, spread: float = 0.12, seed: int = 0):
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((num_groups, width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = np.repeat(centres, each, axis=0)
    rows = rows + spread * generator.standard_normal(rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), np.repeat(np.arange(num_groups), each)


def same_group_share(positions, labels, num_neighbours=5):
    distances = np.square(positions[:, None] - positions[None]).sum(-1)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :num_neighbours]
    return float((labels[nearest] == labels[:, None]).mean())


def test_gradients_are_those_of_the_loss():
    generator = np.random.default_rng(1)
    positions = generator.standard_normal((9, 2))
    neighbours = generator.integers(0, 9, (9, 4))
    partners = generator.integers(0, 9, (9, 5))
    points = torch.tensor(positions, requires_grad=True)
    near = (points[:, None] - points[neighbours]).square().sum(-1)
    (pull,) = torch.autograd.grad((2 + near).log().sum(), points)
    fixed = points.detach()  # the partners do not move
    far = (points[:, None] - fixed[partners]).square().sum(-1)
    (push,) = torch.autograd.grad(-(1 - 1 / (2 + far)).log().sum(), points)

    assert np.allclose(attraction(positions, neighbours), pull.numpy(), atol=1e-12)
    assert np.allclose(repulsion(positions, partners), push.numpy(), atol=1e-12)


def test_neighbours_are_those_of_a_full_sort():
    rows, _ = groups(5, 300)  # more than one tile
    scores = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(scores, -2)
    oracle = np.argsort(-scores, axis=1)[:, :7]
    found = nearest_neighbours(rows, 7)
    assert (found == oracle).mean() > 0.999  # float32 may change the order of almost equal ones


def test_groups_stay_together_where_two_axes_cannot_show_them():
    rows, labels = groups(12, 30)
    positions = project(rows)
    plane = np.array(fit_plane(torch.from_numpy(rows)).place(torch.from_numpy(rows)))

    assert same_group_share(positions, labels) > 0.97
    assert same_group_share(plane, labels) < 0.9


def test_near_neighbours_are_trustworthy():
    """Trustworthiness by its definition (Venna and Kaski 2001): 1 is perfect, 0.5 random."""
    rows, _ = groups(8, 40, spread=0.3)
    positions, num_near = project(rows), 10
    distances = np.square(positions[:, None] - positions[None]).sum(-1)
    ranks = np.argsort(np.argsort(-(rows @ rows.T), axis=1), axis=1)  # 0 is the row itself
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :num_near]
    excess = np.take_along_axis(ranks, nearest, axis=1) - num_near
    worst = len(rows) * num_near * (2 * len(rows) - 3 * num_near - 1) / 2
    assert 1 - excess.clip(min=0).sum() / worst > 0.8


def test_the_same_rows_give_the_same_positions():
    rows, _ = groups(4, 25)
    assert np.array_equal(project(rows), project(rows))
    assert not np.array_equal(project(rows), project(rows, seed=1))


@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 4, 17])
def test_few_rows(num_rows):
    rows, _ = groups(1, num_rows)
    positions = project(rows[:num_rows])
    assert positions.shape == (num_rows, 2)
    assert np.isfinite(positions).all()
    assert np.abs(positions).max(initial=0) <= 1.0001


def test_copies_of_one_image_are_placed():
    rows = np.tile(np.float32([1, 0, 0, 0]), (60, 1))
    positions = project(rows)
    assert np.isfinite(positions).all()
    assert len(np.unique(positions, axis=0)) == 60
