"""Transforms that keep the shape of an image, and streams of their patches."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from clipkit.data import (
    ColorJitter,
    HorizontalFlip,
    NaFlexEvalTransform,
    NaFlexTrainTransform,
    NegativeImages,
    OrderOptions,
    PairStream,
    RandAugment,
    RandomAffine,
    RandomErasing,
    RandomPerspective,
    SampleOptions,
    ShardIndex,
    TeacherInputs,
)
from clipkit.errors import ConfigError, SampleError
from clipkit.patches import TokenBudget, padding_share
from clipkit.types import Batch
from tests.helpers import naflex
from tests.helpers.fakes import ByteTokenizer
from tests.helpers.naflex import MAX_TOKENS, PATCH_SIZE, SIZES


def augmented() -> NaFlexTrainTransform:
    return NaFlexTrainTransform(
        PATCH_SIZE,
        MAX_TOKENS,
        (0.3, 1.0),
        (0.7, 1.4),
        [
            HorizontalFlip(),
            ColorJitter(0.2, 0.2, 0.2, 0.1),
            RandomAffine(20, 0.1, (0.8, 1.2), 5),
            RandomPerspective(),
            RandomErasing(1.0),
            RandAugment(),
        ],
    )


@pytest.mark.parametrize("index", range(len(SIZES)))
@pytest.mark.parametrize("fast", [True, False])
def test_sides_are_multiples_of_the_patch_within_the_budget(index: int, fast: bool) -> None:
    plain = NaFlexTrainTransform(PATCH_SIZE, MAX_TOKENS, fast=fast)
    for transform in (plain, augmented(), NaFlexEvalTransform(PATCH_SIZE, MAX_TOKENS)):
        for seed in range(5):
            pixels = transform(naflex.image(index), np.random.default_rng(seed))
            again = transform(naflex.image(index), np.random.default_rng(seed))
            assert torch.equal(pixels, again)
            assert pixels.dtype == torch.uint8
            rows, columns = (side / PATCH_SIZE for side in pixels.shape[1:])
            assert rows.is_integer()
            assert columns.is_integer()
            assert 1 <= rows * columns <= MAX_TOKENS


def test_the_complete_image_is_kept_and_its_shape_up_to_a_patch() -> None:
    width, height = 300, 200
    out = io.BytesIO()
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.linspace(0, 255, width)
    ramp[:, :, 1] = np.linspace(0, 255, height)[:, None]
    Image.fromarray(ramp).save(out, "PNG")
    for transform in (
        NaFlexEvalTransform(8, 100),
        NaFlexTrainTransform(8, 100, scale=(1.0, 1.0)),
    ):
        pixels = transform(out.getvalue(), np.random.default_rng(0))
        assert pixels.shape == (3, 64, 96)  # 8 x 12 patches: exactly three to two
        assert pixels[0, :, 0].max() < 10
        assert pixels[0, :, -1].min() > 245
        assert pixels[1, 0].max() < 10
        assert pixels[1, -1].min() > 245


def test_evaluation_is_pillow_s_resize_and_turns_images_upright() -> None:
    image = Image.open(io.BytesIO(naflex.image(1)))
    exif = image.getexif()
    exif[0x0112] = 6
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif, quality=95)
    transform = NaFlexEvalTransform(PATCH_SIZE, MAX_TOKENS)
    pixels = transform.of_file(out.getvalue())
    upright = ImageOps.exif_transpose(Image.open(out))
    assert pixels.shape[1] > pixels.shape[2]
    wanted = upright.resize((pixels.shape[2], pixels.shape[1]), Image.Resampling.BICUBIC)
    assert torch.equal(pixels, torch.from_numpy(np.array(wanted)).permute(2, 0, 1))
    # Training turns the resized crop, evaluation the complete image: the passes over rows and
    # columns change places, which with some versions of Pillow changes their rounding.
    train = NaFlexTrainTransform(PATCH_SIZE, MAX_TOKENS, scale=(1.0, 1.0), fast=False)
    difference = train(out.getvalue(), np.random.default_rng(0)).int() - pixels.int()
    assert difference.abs().max() <= 1


def test_crops_keep_the_shape_of_the_image() -> None:
    transform = NaFlexTrainTransform(1, 10_000, scale=(0.25, 0.25))
    for seed in range(5):
        pixels = transform(naflex.image(3), np.random.default_rng(seed))
        assert pixels.shape[2] / pixels.shape[1] == pytest.approx(1.5, rel=0.02)


def test_small_images_may_keep_their_resolution() -> None:
    small = naflex.image(0)  # 40 x 32
    assert NaFlexEvalTransform(8, 200).of_file(small).shape == (3, 96, 120)
    kept = NaFlexEvalTransform(8, 200, enlarge=False).of_file(small)
    assert torch.equal(
        kept, torch.from_numpy(np.array(Image.open(io.BytesIO(small)))).permute(2, 0, 1)
    )


def test_damaged_files_are_sample_errors() -> None:
    for transform in (NaFlexTrainTransform(), NaFlexEvalTransform()):
        for data in (b"", naflex.image(0)[:100]):
            with pytest.raises(SampleError):
                transform(data, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"NaFlexTrainTransform\.scale"):
        NaFlexTrainTransform(scale=(0.9, 0.1))


COUNTS = [9, 14, 7]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return ShardIndex.from_urls(naflex.shards(tmp_path_factory.mktemp("shards"), COUNTS))


def stream(index: ShardIndex, batch_size: int, num_workers: int = 0, rank: int = 0, size: int = 1):
    return PairStream(
        index,
        tokenizer=ByteTokenizer(),
        batch_size=batch_size,
        image_transform=augmented(),
        num_workers=num_workers,
        rank=rank,
        world_size=size,
        seed=3,
    )


def rows(batches: list[Batch]) -> dict[tuple[int, int], list[int]]:
    """The patches of every sample without their padding, by its batch and id."""
    found = {}
    for step, batch in enumerate(batches):
        assert batch.grids is not None
        assert batch.images.shape[1] == batch.grids.prod(1).max()
        for sample_id, patches, grid in zip(
            batch.sample_ids.tolist(), batch.images, batch.grids, strict=True
        ):
            number = int(grid.prod())
            assert not patches[number:].any()
            found[step, sample_id] = [*grid.tolist(), *patches[:number].flatten().tolist()]
    return found


def test_no_batch_is_over_its_budget_of_tokens(index: ShardIndex) -> None:
    shapes = set()
    for batch in stream(index, 4):
        assert batch.images.shape[0] * batch.images.shape[1] <= 4 * MAX_TOKENS
        assert batch.images.shape[2] == 3 * PATCH_SIZE**2
        shapes |= {tuple(grid) for grid in batch.grids.tolist()}
    assert len(shapes) > 5


def test_the_very_patches_do_not_depend_on_ranks_and_workers_nor_on_a_resume(
    index: ShardIndex,
) -> None:
    whole = rows(list(stream(index, 4)))
    parts: dict[tuple[int, int], list[int]] = {}
    for rank in range(2):
        parts |= rows(list(stream(index, 2, num_workers=2, rank=rank, size=2)))
    assert parts == whole
    first = stream(index, 4)
    before = []
    for batch in first:
        first.commit(batch)
        before.append(batch)
        if len(before) == 3:
            break
    resumed = stream(index, 2, num_workers=2, rank=1, size=2)
    resumed.load_state_dict(first.state_dict())
    after = {(step + 3, sample): row for (step, sample), row in rows(list(resumed)).items()}
    assert after
    assert all(whole[place] == row for place, row in after.items())
    assert len(rows(before) | after) == 3 * 4 + len(after)


@pytest.mark.parametrize("transform", [augmented(), NaFlexTrainTransform(8, 40, enlarge=False)])
def test_patches_are_counted_without_decoding(transform: NaFlexTrainTransform) -> None:
    files = [naflex.image(index) for index in range(len(SIZES))]
    turned = Image.open(io.BytesIO(files[1]))
    exif = turned.getexif()
    exif[0x0112] = 8
    out = io.BytesIO()
    turned.save(out, "JPEG", exif=exif)
    for file in [*files, out.getvalue(), naflex.image(4, "PNG")]:
        for seed in range(4):
            rows, columns = (
                side // 8 for side in transform(file, np.random.default_rng(seed)).shape[1:]
            )
            assert transform.num_patches(file, np.random.default_rng(seed)) == rows * columns
    with pytest.raises(SampleError):
        transform.num_patches(b"no image", np.random.default_rng(0))


def sorted_stream(index: ShardIndex, window: int | None, size: int = 1, **options: int):
    return PairStream(
        index,
        tokenizer=ByteTokenizer(),
        batch_size=4 // size,
        image_transform=NaFlexTrainTransform(8, 1000, enlarge=False),
        world_size=size,
        seed=3,
        order=OrderOptions(length_bucket_batches=window),
        **{"rank": 0, **options},
    )


def test_windows_sort_images_that_keep_their_resolution(index: ShardIndex) -> None:
    """Exactly: every sample once, alike over ranks and workers, and after a resume."""
    plain, batches = list(sorted_stream(index, None)), list(sorted_stream(index, 7))
    assert len(plain) == len(batches) == sum(COUNTS) // 4
    shares = [
        float(np.mean([padding_share(b.grids, b.images.shape[1]).item() for b in some]))
        for some in (plain, batches)
    ]
    assert shares[0] > 0.5
    assert shares[1] < 0.6 * shares[0]
    whole = rows(batches)
    assert len({sample for _, sample in whole}) == len(whole)
    parts: dict[tuple[int, int], list[int]] = {}
    for rank in range(2):
        parts |= rows(list(sorted_stream(index, 7, 2, rank=rank, num_workers=2)))
    assert parts == whole
    first = sorted_stream(index, 7)
    for batch, _ in zip(first, range(2), strict=False):
        first.commit(batch)
    resumed = sorted_stream(index, 7)
    resumed.load_state_dict(first.state_dict())
    after = {(step + 2, sample): row for (step, sample), row in rows(list(resumed)).items()}
    assert after == {place: row for place, row in whole.items() if place[0] >= 2}


def test_negative_images_are_refused(index: ShardIndex) -> None:
    with pytest.raises(ConfigError, match=r"NegativeImages needs images of one size"):
        PairStream(
            index,
            tokenizer=ByteTokenizer(),
            batch_size=4,
            image_transform=NaFlexTrainTransform(),
            samples=SampleOptions(fields=[NegativeImages(["negative.jpg"])]),
        )


def test_teachers_of_images_of_any_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"NaFlexEvalTransform returns images of any shape"):
        TeacherInputs(NaFlexEvalTransform())


def test_a_transform_tells_its_budget() -> None:
    transform = NaFlexTrainTransform(8, 20, enlarge=False)
    assert transform.budget == TokenBudget(8, 20, enlarge=False)
    assert transform.image_size == 32
