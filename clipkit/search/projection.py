"""A projection of embeddings onto a plane that keeps near neighbours next to each other."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from clipkit.evaluation.report.collect.planes import fit_plane

NUM_NEIGHBOURS: Final = 15
_NUM_STEPS: Final = 400
_MOMENTUM: Final = 0.8
_LARGEST_MOVE: Final = 1.0
_START_SIZE: Final = 4.0  # standard deviation of the first axis at the start
_NUM_NOISE: Final = 12  # random partners of each point in a step
_NOISE_PER_EDGE: Final = 40.0
"""Weight of repulsion. With 5, as in UMAP, groups shrink to spots; with 100 neighbours are lost."""
_TILE_ROWS: Final = 1024

Positions = Float32[np.ndarray, "N 2"]
Neighbours = Int64[np.ndarray, "N neighbours"]


def project(rows: Float[np.ndarray, "N D"], seed: int = 0) -> Positions:
    """Place embeddings on a plane such that those of similar images are near each other.

    The loss is that of negative sampling (Neg-t-SNE of Damrich et al. 2023, arXiv:2206.01816): with
    ``p = 1 / (2 + d^2)`` of two points at distance d, neighbours attract by ``-log p`` and random
    pairs repel by ``-log(1 - p)``. The start is the plane of the first two principal components.
    Only near neighbours are meaningful; distances between groups are not.

    Args:
        rows: Unit-norm embeddings.
        seed: Seed of the random pairs. The same rows and seed give the same positions on the same
            machine.

    Returns:
        Positions, from -1 to 1 on the longer axis and centred.

    Examples:
        >>> rows = np.repeat(np.eye(3, dtype=np.float32), 40, axis=0)
        >>> project(rows).shape
        (120, 2)
    """
    if len(rows) <= 2:
        line = np.linspace(-1, 1, len(rows)) if len(rows) > 1 else np.zeros(len(rows))
        return np.stack([line, np.zeros(len(rows))], axis=1).astype(np.float32)
    rows = np.asarray(rows, dtype=np.float32)
    neighbours = nearest_neighbours(rows, min(NUM_NEIGHBOURS, len(rows) - 1))
    positions = _optimise(_start(rows), neighbours, np.random.default_rng(seed))
    return _fit_to_square(_turned(positions))


def nearest_neighbours(rows: Float32[np.ndarray, "N D"], num_neighbours: int) -> Neighbours:
    """Return the nearest other rows of each row by cosine similarity, the nearest first."""
    found = np.empty((len(rows), num_neighbours), dtype=np.int64)
    for first in range(0, len(rows), _TILE_ROWS):
        tile = rows[first : first + _TILE_ROWS]
        scores = tile @ rows.T
        scores[np.arange(len(tile)), first + np.arange(len(tile))] = -np.inf
        few = np.argpartition(-scores, num_neighbours - 1, axis=1)[:, :num_neighbours]
        order = np.argsort(-np.take_along_axis(scores, few, axis=1), axis=1, kind="stable")
        found[first : first + len(tile)] = np.take_along_axis(few, order, axis=1)
    return found


def attraction(positions: Positions, neighbours: Neighbours) -> Positions:
    """Return the gradient of ``sum log(2 + d^2)`` over the pairs of a point and a neighbour."""
    steps = positions[:, None, :] - positions[neighbours]
    forces = steps * (2 / (2 + np.square(steps).sum(-1, keepdims=True)))
    gradient: Positions = forces.sum(axis=1)
    ends, num_points = neighbours.ravel(), len(positions)
    for axis in range(2):
        pulls = forces[:, :, axis].ravel()
        gradient[:, axis] -= np.bincount(ends, weights=pulls, minlength=num_points)
    return gradient


def repulsion(positions: Positions, partners: Int64[np.ndarray, "N S"]) -> Positions:
    """Return the gradient of ``-sum log(1 - 1 / (2 + d^2))`` over pairs, for their first points."""
    steps = positions[:, None, :] - positions[partners]
    squares = np.square(steps).sum(-1, keepdims=True)
    gradient: Positions = -(steps * (2 / ((1 + squares) * (2 + squares)))).sum(axis=1)
    return gradient


def _start(rows: Float32[np.ndarray, "N D"]) -> Positions:
    tensor = torch.from_numpy(rows)
    places = np.asarray(fit_plane(tensor).place(tensor), dtype=np.float32)
    return places * np.float32(_START_SIZE / max(float(places[:, 0].std()), 1e-6))


def _optimise(
    positions: Positions, neighbours: Neighbours, generator: np.random.Generator
) -> Positions:
    """Descend by the gradient with momentum; the step of a point is divided by its edges."""
    num_points, num_neighbours = neighbours.shape
    degrees = num_neighbours + np.bincount(neighbours.ravel(), minlength=num_points)
    rates = (1 / degrees)[:, None].astype(np.float32)
    num_noise = min(_NUM_NOISE, num_points - 1)
    noise_weight = np.float32(2 * num_neighbours * _NOISE_PER_EDGE / num_noise)
    # Copies of one image have the same start, where no gradient could move them apart.
    positions = positions + generator.normal(0, 1e-2, positions.shape).astype(np.float32)
    velocity = np.zeros_like(positions)
    for step in range(_NUM_STEPS):
        partners = generator.integers(0, num_points, (num_points, num_noise))
        gradient = attraction(positions, neighbours) + noise_weight * repulsion(positions, partners)
        rate = np.float32(1 - step / _NUM_STEPS)
        velocity = np.float32(_MOMENTUM) * velocity - rate * rates * gradient
        np.clip(velocity, -_LARGEST_MOVE, _LARGEST_MOVE, out=velocity)
        positions = positions + velocity
    return positions


def _turned(positions: Positions) -> Positions:
    """Turn positions so that their largest variance is horizontal, as screens are."""
    return _start(positions)


def _fit_to_square(positions: Positions) -> Positions:
    least, most = positions.min(axis=0), positions.max(axis=0)
    size = max(float((most - least).max()) / 2, 1e-6)
    fitted: Positions = ((positions - (least + most) / 2) / size).astype(np.float32)
    return fitted
