"""Smaller images for some steps: by position, whoever builds them."""

from __future__ import annotations

import pytest
import torch

from clipkit.data import (
    ShardIndex,
    TrainTransform,
    WebDatasetShards,
    WebDatasetSource,
)
from clipkit.data.order.image_sizes import ImageSizeStage
from tests.helpers.factories import write_shards
from tests.helpers.fakes import ByteTokenizer
from tests.helpers.streams import ids, make

# 14 samples, 3 steps of 4 in an epoch: two small steps and one of 12 pixels, then one of the next
# epoch, then complete ones
STAGES = (ImageSizeStage(8, (0, 8)), ImageSizeStage(12, (1, 4)))
SIZES = [8, 8, 12, 12, 16, 16]


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> ShardIndex:
    paths = write_shards(tmp_path_factory.mktemp("shards"), (9, 5))
    return ShardIndex.from_urls([str(path) for path in paths])


def stream(index, stages=STAGES, batch_size=4, **options):
    made = make(index, batch_size, image_transform=TrainTransform(16), **options)
    made.set_image_sizes(stages)
    return made


def take(one, steps):
    found = []
    while len(found) < steps:
        for batch in one:
            one.commit(batch)
            found.append(batch)
            if len(found) == steps:
                break
    return found


@pytest.mark.parametrize("num_workers", [0, 2])
def test_sizes_follow_the_position_and_a_resume(index, num_workers):
    plain = take(stream(index, ()), 6)
    whole = take(stream(index, num_workers=num_workers), 6)
    assert [ids(batch) for batch in whole] == [ids(batch) for batch in plain]
    assert [batch.images.shape[-1] for batch in whole] == SIZES
    for stop in (3,) if num_workers else (1, 2, 3, 4, 5):
        first = stream(index, num_workers=num_workers)
        take(first, stop)
        again = stream(index, num_workers=num_workers)
        again.load_state_dict(first.state_dict())
        for found, expected in zip(take(again, 6 - stop), whole[stop:], strict=True):
            assert torch.equal(found.images, expected.images)


def test_ranks_have_the_images_of_one_process(index):
    whole = take(stream(index), 6)
    ranks = [take(stream(index, batch_size=2, rank=r, world_size=2), 6) for r in range(2)]
    for expected, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(expected.images, torch.cat([part.images for part in parts]))


def test_sizes_that_are_set_after_the_iteration_was_opened(index):
    one = stream(index, ())
    batches = iter(one)  # as Lightning does, before the run starts
    one.set_image_sizes(STAGES)
    assert next(batches).images.shape[-1] == 8


def test_a_transform_without_sizes_is_left_alone(index):
    class Own:
        def __call__(self, data, rng):
            return torch.zeros(3, 16, 16, dtype=torch.uint8)

    one = make(index, image_transform=Own())
    one.set_image_sizes(STAGES)
    assert next(iter(one)).images.shape[-1] == 16


def test_webdataset(tmp_path):
    write_shards(tmp_path, (9, 5))
    source = WebDatasetSource(
        WebDatasetShards(str(tmp_path / "*.tar"), num_samples=14),
        tokenizer=ByteTokenizer(),
        batch_size=4,
        image_transform=TrainTransform(16),
    )
    source.set_image_sizes(STAGES)
    assert [batch.images.shape[-1] for batch in take(source, 6)] == SIZES
