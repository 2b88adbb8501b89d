"""Grids, patches and their coordinates, held against timm's NaFlex functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data.naflex_transforms import get_image_size_for_seq, patchify_image

from clipkit.errors import ConfigError
from clipkit.patches import (
    TokenBudget,
    join_images,
    padding_share,
    patch_coordinates,
    patch_validity,
    to_patches,
)


def sides() -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    some = [tuple(map(int, np.exp(rng.uniform(2.5, 8.0, 2)).round())) for _ in range(300)]
    return [*some, (224, 224), (1, 1), (640, 480)]  # type: ignore[list-item]


@pytest.mark.parametrize("max_tokens", [1, 16, 49, 250, 256, 1024])
def test_no_grid_is_over_the_budget_and_none_could_be_larger(max_tokens: int) -> None:
    budget = TokenBudget(16, max_tokens)
    for width, height in [*sides(), (10_000, 1), (1, 10_000)]:
        rows, columns = budget.grid(width, height)
        assert 1 <= rows * columns <= max_tokens
        assert (columns, rows) == budget.grid(height, width)
        # any larger scale takes one more patch of a side that was full
        scale = min(rows / height, columns / width) * (1 + 1e-9)
        assert np.ceil(height * scale) * np.ceil(width * scale) > max_tokens


@pytest.mark.parametrize("max_tokens", [49, 256, 1024])
@pytest.mark.parametrize("enlarge", [True, False])
def test_grids_are_those_of_timm_s_search(max_tokens: int, enlarge: bool) -> None:
    budget, equal = TokenBudget(16, max_tokens, enlarge), 0
    for width, height in sides()[:-2]:
        _, (tall, wide) = get_image_size_for_seq(
            (height, width), 16, max_tokens, max_ratio=None if enlarge else 1.0, eps=1e-9
        )
        rows, columns = budget.grid(width, height)
        # timm compares rounded products, so that it may miss a scale that fills a side exactly
        equal += (rows, columns) == (tall // 16, wide // 16)
        assert rows * columns >= (tall // 16) * (wide // 16)
    assert equal > 0.98 * len(sides())


def test_patches_and_coordinates_are_those_of_timm() -> None:
    rng = np.random.default_rng(1)
    shapes = [(16, 40), (24, 8), (8, 8)]
    images = [
        torch.from_numpy(rng.integers(0, 256, (3, *shape), dtype=np.uint8)) for shape in shapes
    ]
    patches, grids = to_patches(images, 8)
    assert patches.dtype == torch.uint8
    assert patches.shape == (3, 10, 192)
    assert grids.tolist() == [[2, 5], [3, 1], [1, 1]]
    valid, places = patch_validity(grids, 10), patch_coordinates(grids, 10)
    for row, image in enumerate(images):
        theirs, coordinates, _ = patchify_image(image, (8, 8))
        number = len(theirs)
        assert torch.equal(patches[row, :number], theirs)
        assert torch.equal(places[row, :number], coordinates)
        assert valid[row].tolist() == [True] * number + [False] * (10 - number)
        assert not patches[row, number:].any()
        assert not places[row, number:].any()
    assert padding_share(grids, 10).item() == pytest.approx(1 - (10 + 3 + 1) / 30)


def test_images_of_one_shape_are_stacked_without_a_budget() -> None:
    images = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2
    stacked, grids = join_images(images, None)
    assert stacked.shape == (2, 3, 8, 8)
    assert grids is None


def test_refusals() -> None:
    for options in ({"patch_size": 0, "max_tokens": 4}, {"patch_size": 8, "max_tokens": 0}):
        with pytest.raises(ConfigError, match=r"expected at least 1, got 0"):
            TokenBudget(**options)
    with pytest.raises(ConfigError, match=r"multiples of 8, got 8 x 12 pixels"):
        to_patches([torch.zeros(3, 8, 12, dtype=torch.uint8)], 8)
