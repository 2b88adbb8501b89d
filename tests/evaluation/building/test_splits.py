"""Sizes, shares and groups of the splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.errors import ConfigError
from clipkit.evaluation.building.splits import quotas, split_samples


def digests(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(10 * count)[:count].astype(np.uint64)


def alone(count: int) -> np.ndarray:
    return np.arange(count)


def test_each_class_has_its_share():
    strata = np.repeat([0, 1, 2], [700, 290, 10])
    is_test = split_samples(alone(1000), strata, digests(1000), 0.2)
    assert np.bincount(strata[is_test]).tolist() == [140, 58, 2]


def test_a_number_of_test_samples():
    strata = np.repeat([0, 1], [60, 40])
    is_test = split_samples(alone(100), strata, digests(100), 25)
    assert np.bincount(strata[is_test]).tolist() == [15, 10]


def test_all_samples_may_be_test_samples():
    assert split_samples(alone(5), np.zeros(5, int), digests(5), 1.0).all()
    assert split_samples(alone(5), np.zeros(5, int), digests(5), 5).all()


def test_a_class_with_a_single_image_is_training_data():
    strata = np.array([0] * 9 + [1])
    is_test = split_samples(alone(10), strata, digests(10), 0.5)
    assert not is_test[9]
    assert is_test.sum() in (4, 5)


def test_a_class_whose_images_are_all_duplicates_is_training_data():
    groups, strata = np.array([*range(8), 8, 8, 8, 8]), np.repeat([0, 1], [8, 4])
    is_test = split_samples(groups, strata, digests(12), 0.5)
    assert not is_test[8:].any()
    assert is_test.sum() == 4


def test_everything_in_one_group_is_training_data():
    is_test = split_samples(np.zeros(20, int), np.zeros(20, int), digests(20), 0.5)
    assert not is_test.any()


def test_a_class_of_two_large_groups_gets_test_samples():
    """Neither group fills the quota more than it exceeds it; a class without test data is worse."""
    groups, strata = np.repeat([0, 10], [10, 10]), np.zeros(20, int)
    is_test = split_samples(groups, strata, digests(20), 2)
    assert is_test.sum() == 10


def test_the_seed_changes_the_split_and_the_order_of_the_source_does_not():
    strata, contents = np.zeros(200, int), digests(200)
    first = split_samples(alone(200), strata, contents, 0.3, seed=0)
    assert (first == split_samples(alone(200), strata, contents, 0.3, seed=0)).all()
    assert (first != split_samples(alone(200), strata, contents, 0.3, seed=1)).any()
    order = np.random.default_rng(5).permutation(200)
    again = split_samples(alone(200), strata, contents[order], 0.3, seed=0)
    assert (again == first[order]).all()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=40),
    num_strata=st.integers(1, 4),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 3),
)
def test_groups_stay_together_and_no_class_leaves_the_training_data(sizes, num_strata, share, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    strata = np.random.default_rng(seed).integers(0, num_strata, len(groups))
    strata = np.unique(strata, return_inverse=True)[1]
    if round(share * len(groups)) < 1:
        return
    is_test = split_samples(groups, strata, digests(len(groups)), share, seed)
    for group in np.unique(groups):
        assert len(set(is_test[groups == group].tolist())) == 1
    if round(share * len(groups)) < len(groups):
        for stratum in np.unique(strata):
            assert not is_test[strata == stratum].all()


@pytest.mark.parametrize("size", [0, -3, 0.0, 1.5, 11])
def test_sizes_that_cannot_be(size):
    with pytest.raises(ConfigError, match="test_size: expected"):
        quotas(np.array([4, 6]), size)


def test_quotas_add_up():
    assert quotas(np.array([3, 3, 3]), 5).tolist() == [2, 2, 1]
    assert quotas(np.array([100, 2, 1]), 0.1).tolist() == [10, 1, 0]
