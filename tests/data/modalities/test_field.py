"""A further modality, from the members of a shard to the batch."""

from __future__ import annotations

import json
import logging
from itertools import islice

import numpy as np
import pytest
import torch

from clipkit.data import (
    CaptionMask,
    EvalTransform,
    FaultOptions,
    NaFlexEvalTransform,
    OpenClipTokenizer,
    OptionalCaption,
    OptionalImage,
    OrderOptions,
    PairStream,
    SampleOptions,
    ShardIndex,
    TrainTransform,
)
from clipkit.errors import ConfigError, DataError, FaultBudgetExceeded
from tests.helpers.factories import pair, write_shard
from tests.helpers.series import CHANNELS, LENGTH, Series, members, npy

TOKENIZER = OpenClipTokenizer(context_length=12)
GOOD = npy(np.ones((CHANNELS, LENGTH), np.float32))


def stream(tmp_path, samples, *fields, batch_size=None, transform=None, shuffle=False, **options):
    path = write_shard(
        tmp_path / "0.tar", [(f"{i:03d}", sample) for i, sample in enumerate(samples)]
    )
    return PairStream(
        ShardIndex.from_urls(str(path)),
        tokenizer=TOKENIZER,
        batch_size=batch_size or len(samples),
        image_transform=transform or EvalTransform(16),
        order=OrderOptions(shuffle=shuffle),
        samples=SampleOptions(fields=fields, caption=OptionalCaption()),
        **options,
    )


def allowing(**options):
    return {"faults": FaultOptions(max_bad_fraction=1.0, **options)}


def test_a_sample_without_the_member_counts_as_absent(tmp_path):
    samples = [{**pair(0), "npy": GOOD}, pair(1), {**pair(2), "npy": GOOD}]
    (batch,) = stream(tmp_path, samples, Series())
    series = batch.modalities["series"]
    assert series.values.shape == (3, CHANNELS, LENGTH)
    assert series.present.tolist() == [True, False, True]
    assert not series.values[1].any()
    assert abs(series.values[0] - 1).max() < 0.1
    assert batch.image_present is None
    assert batch.text_present is None


def test_every_field_has_its_own_name(tmp_path):
    (batch,) = stream(tmp_path, [{**pair(0), "npy": GOOD}], Series("left"), Series("right"))
    assert list(batch.modalities) == ["left", "right"]
    left, right = (batch.modalities[name].values for name in ("left", "right"))
    assert not torch.equal(left, right)  # each has random numbers of its own


def test_random_numbers_of_others_do_not_depend_on_it(tmp_path):
    """With or without the member, image, and the modality of the next field, are the same."""
    fields = Series("left"), Series("right")
    options = {"transform": TrainTransform(16, (0.2, 1.0))}
    twice = {**pair(0), "npy": GOOD}

    def read(sample, *given):
        (batch,) = stream(tmp_path, [sample], *given, **options)
        return batch

    both, none = read(twice, *fields), read(pair(0), *fields)
    assert torch.equal(both.images, none.images)
    absent = Series("left")
    absent.members = ("missing",)
    again = read(twice, absent, fields[1])
    assert not again.modalities["left"].present.any()
    assert torch.equal(both.modalities["right"].values, again.modalities["right"].values)


def test_values_follow_the_sample_and_the_pass_alone(tmp_path):
    samples = [members(number) for number in range(12)]
    options = {"transform": OptionalImage(TrainTransform(16)), "shuffle": True}

    def values(num_workers, batch_size):
        source = stream(
            tmp_path, samples, Series(), batch_size=batch_size, num_workers=num_workers, **options
        )
        found = {}
        for epoch in range(2):
            for batch in islice(source, 12 // batch_size):
                series = batch.modalities["series"]
                for key, row, there in zip(batch.keys, series.values, series.present, strict=True):
                    found[epoch, key] = (row.tolist(), bool(there))
                source.commit(batch)
        source.close()
        return found

    first = values(0, 4)
    assert values(2, 6) == first
    assert len(first) == 24
    assert first[0, "000"] != first[1, "000"]  # another stretch in another pass


BROKEN = {
    "no array": (b"RIFF", "series: member npy: no NumPy file"),
    "too short": (npy(np.ones((CHANNELS, LENGTH - 1))), "series: member npy: ValueError"),
    "one axis": (npy(np.ones(LENGTH)), "series: member npy: IndexError"),
    "other channels": (npy(np.ones((3, LENGTH))), "series: member npy: ValueError"),
    "NaN": (npy(np.full((CHANNELS, LENGTH), np.nan)), "NaN or infinity"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_member_skips_its_sample_and_is_named(tmp_path, name):
    data, message = BROKEN[name]
    samples = [{**pair(0), "npy": GOOD}, {**pair(1), "npy": data}, pair(2)]
    source = stream(tmp_path, samples, Series(), **allowing(log=tmp_path / "log"))
    (batch,) = source
    assert batch.keys == ("000", "002")
    (line,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert line["key"] == "001"
    assert message in line["reason"]
    assert not line["is_kept"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_member_counts_as_absent_by_choice_and_is_named(tmp_path, name, caplog):
    data, message = BROKEN[name]
    samples = [{**pair(0), "npy": GOOD}, {**pair(1), "npy": data}, pair(2)]
    source = stream(tmp_path, samples, Series(on_error="absent"), **allowing(log=tmp_path / "log"))
    with caplog.at_level(logging.WARNING):
        (batch,) = source
    assert batch.keys == ("000", "001", "002")
    assert batch.modalities["series"].present.tolist() == [True, False, False]
    assert not batch.modalities["series"].values[1].any()
    (line,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (line["key"], line["is_kept"]) == ("001", True)
    assert message in line["reason"]
    assert "using a part of" in caplog.text
    source.sync_faults()
    assert source.counters()["bad_samples"] == 1


def test_a_kept_sample_is_not_a_repeated_one(tmp_path):
    samples = [{**pair(i), "npy": b"" if i % 2 else GOOD} for i in range(6)]
    source = stream(
        tmp_path, samples, Series(on_error="absent"), shuffle=True, batch_size=3, **allowing()
    )
    batches = list(islice(source, 2))
    assert sorted(key for batch in batches for key in batch.keys) == [f"00{i}" for i in range(6)]
    assert [batch.cursor["padded"] for batch in batches] == [0, 0]


def test_too_many_broken_members_end_the_run_either_way(tmp_path):
    samples = [{**pair(i), "npy": b""} for i in range(4)]
    for field in (Series(), Series(on_error="absent")):
        with pytest.raises((FaultBudgetExceeded, DataError), match="series: member npy"):
            list(stream(tmp_path, samples, field, faults=FaultOptions(max_bad_fraction=0.3)))


def test_two_broken_members_of_a_sample_are_named_in_one_line(tmp_path):
    fields = Series("left", "absent"), Series("right", "absent")
    source = stream(tmp_path, [{**pair(0), "npy": b""}], *fields, **allowing(log=tmp_path / "log"))
    assert len(list(source)) == 1
    (line,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert "left: member npy" in line["reason"]
    assert "right: member npy" in line["reason"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Series("image"), "name: expected an identifier other than image and text"),
        (lambda: Series("a sound"), "name: expected an identifier"),
        (lambda: Series(on_error="ignore"), "on_error"),
        (lambda: OptionalImage(NaFlexEvalTransform(8, 16)), "images of one shape"),
        (lambda: OptionalImage(OptionalImage()), "images of one shape"),
    ],
)
def test_options_that_cannot_work_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_images_may_be_missing_and_are_masked(tmp_path):
    with_image, without = pair(0), pair(1)
    del without["jpg"]
    uncaptioned = {"jpg": pair(2)["jpg"]}
    transform = OptionalImage(EvalTransform(16))
    samples = [with_image, without, uncaptioned]
    (batch,) = stream(tmp_path, samples, CaptionMask(), transform=transform)
    assert batch.images.shape == (3, 3, 16, 16)
    assert batch.images.flatten(1).any(1).tolist() == [True, False, True]
    assert batch.image_present.tolist() == [True, False, True]
    assert batch.text_present.tolist() == [True, True, False]
    assert batch.pair_mask.tolist() == [True, False, False]
    (batch,) = stream(tmp_path, samples, transform=transform)
    assert batch.text_present is None
    assert batch.pair_mask.tolist() == [True, False, True]


def test_a_broken_image_is_still_a_bad_sample(tmp_path):
    samples = [pair(0), {**pair(1), "jpg": b""}]
    transform = OptionalImage(EvalTransform(16))
    (batch,) = stream(tmp_path, samples, transform=transform, **allowing())
    assert batch.keys == ("000",)


def test_without_an_image_tower_no_image_is_read(tmp_path):
    samples = [pair(0), {**pair(1), "jpg": b"broken"}]
    (batch,) = stream(tmp_path, samples, transform=OptionalImage())
    assert batch.images.shape == (2, 3, 1, 1)
    assert batch.image_present.tolist() == [False, False]


def test_any_subset_of_modalities(tmp_path):
    samples = [members(number) for number in range(15)]
    (batch,) = stream(
        tmp_path, samples, Series(), CaptionMask(), transform=OptionalImage(EvalTransform(16))
    )
    parts = {
        "npy": batch.modalities["series"].present,
        "jpg": batch.image_present,
        "txt": batch.text_present,
    }
    for name, present in parts.items():
        assert present.tolist() == [name in sample for sample in samples]
    assert len({tuple(bool(p[i]) for p in parts.values()) for i in range(15)}) >= 5
