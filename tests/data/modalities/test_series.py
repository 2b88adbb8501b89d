"""Series of numbers from NumPy files and from fields of JSON members."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from clipkit.data import Series
from clipkit.errors import ConfigError, SampleError
from clipkit.models import TcnTower
from tests.helpers.series import npy

VALUES = np.arange(22, dtype=np.float64).reshape(2, 11)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("crop", "start"), [("centre", 3), ("start", 0)])
def test_a_stretch_is_cut_out_of_both_kinds_of_members(crop, start):
    expected = torch.from_numpy(VALUES[:, start : start + 5]).float()
    of_file = Series(2, 5, crop=crop)
    of_json = Series(2, 5, field="json:current", crop=crop)
    data = json.dumps({"current": VALUES.tolist()}).encode()
    assert torch.equal(of_file.read(npy(VALUES), rng()), expected)
    assert torch.equal(of_json.read(data, rng()), expected)


def test_random_stretches_are_those_of_the_generator_and_centred_in_validation():
    series = Series(2, 5)
    starts = {int(series.read(npy(VALUES), rng(seed))[0, 0]) for seed in range(60)}
    assert starts == set(range(7))
    assert torch.equal(series.read(npy(VALUES), rng(4)), series.read(npy(VALUES), rng(4)))
    still = series.for_evaluation()
    assert {int(still.read(npy(VALUES), rng(seed))[0, 0]) for seed in range(9)} == {3}
    assert Series(2, 5, crop="start").for_evaluation().crop == "start"


def test_one_feature_needs_no_second_axis_and_fits_a_tower():
    series = Series(1, 4, field="json:load")
    values = series.read(b'{"load": [1, 2.5, 3, 4]}', rng())
    assert values.tolist() == [[1, 2.5, 3, 4]]
    tower = TcnTower(8, input_shape=tuple(series.empty().shape), width=4, num_blocks=1)
    assert tower(values[None]).shape == (1, 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no field json:current"),
        (b'{"other": [1]}', "no field json:current"),
        (b'{"current": null}', "no field json:current"),
        (b'{"current": "1 2 3"}', "lists of numbers"),
        (b'{"current": [true, false, true]}', "lists of numbers"),
        (b'{"current": [[1, 2, 3], [1, 2]]}', "same length"),
        (b'{"current": [[1, 2, 3], [1, 2, null]]}', "lists of numbers"),
        (b'{"current": [[1, 2], [1, 2]]}', r"2 features of at least 3 frames.*got \[2, 2\]"),
        (b'{"current": [[1, 2], [1, 2], [1, 2]]}', r"got \[3, 2\]"),
        (b'{"current": [[[1, 2, 3]], [[1, 2, 3]]]}', r"got \[2, 1, 3\]"),
        (b'{"current": []}', r"got \[1, 0\]"),
        (b'{"current": ' + b"9" * 500 + b"}", "lists of numbers|digits"),
        (b"[1]", "expected a JSON object"),
    ],
)
def test_what_is_no_series_is_a_fault_that_names_it(data, reason):
    series = Series(2, 3, field="json:current")
    with pytest.raises(SampleError, match=reason):
        series.input_of({"json": data}, 0)
    absent, fault = Series(2, 3, field="json:current", on_error="absent").input_of(
        {"json": data}, 0
    )
    assert not absent.is_present
    assert fault


def test_values_beyond_float32_are_a_fault():
    with pytest.raises(SampleError, match="infinity"):
        Series(1, 2).input_of({"npy": npy([1e300, 0.0])}, 0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_features": 0}, "Series.num_features"),
        ({"num_frames": 0}, "Series.num_frames"),
        ({"crop": "middle"}, "Series.crop"),
        ({"field": "json:"}, "Series.field"),
        ({"field": "npy:0"}, "Series.field"),
        ({"field": ""}, "Series.field"),
        ({"name": "image"}, "Series.name"),
    ],
)
def test_options_that_cannot_be_used_are_named(options, reason):
    with pytest.raises(ConfigError, match=reason):
        Series(**{"num_features": 1, "num_frames": 2, **options})
