"""Transforms of torchvision and albumentations: the same for a sample, whoever makes it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as v1
from torch import Tensor
from torchvision.transforms import v2

from clipkit.data import HorizontalFlip, PairStream, ShardIndex, TrainTransform
from clipkit.data.images.adapted_transforms import as_augmentation
from clipkit.data.stream.options import SampleOptions
from clipkit.errors import ConfigError, DataError
from tests.helpers.factories import image_bytes, write_shards
from tests.helpers.fakes import ByteTokenizer
from tests.helpers.streams import ids, make


def of_torchvision() -> list[Any]:
    return [
        HorizontalFlip(),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.RandomApply([v2.GaussianBlur(3)], p=0.5),
        v2.RandomChoice([v2.RandomSolarize(128.0), v2.RandomInvert()]),
        v2.RandAugment(),
        v2.RandomErasing(0.5, inplace=True),
        Shared(),
    ]


def of_albumentations() -> list[Any]:
    albumentations = pytest.importorskip("albumentations")
    return [
        HorizontalFlip(),
        albumentations.CoarseDropout(p=0.5),
        albumentations.OneOf([albumentations.RandomGamma(), albumentations.Posterize()], p=0.9),
        albumentations.Compose([albumentations.Rotate(p=0.5), albumentations.GaussNoise(p=0.5)]),
    ]


class Shared(v2.Transform):
    """Somebody's transform, with the generators of Python and NumPy."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        assert torch.is_tensor(inpt)
        return inpt.roll((random.randrange(4), int(np.random.randint(4))), (1, 2))  # noqa: NPY002


LIBRARIES: list[Callable[[], list[Any]]] = [of_torchvision, of_albumentations]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [9, 5, 18])
    return ShardIndex.from_urls(folder)


def transform(augmentations: Iterable[Any]) -> TrainTransform:
    return TrainTransform(16, (0.4, 1.0), augmentations=list(augmentations))


def images(stream: PairStream, steps: int) -> dict[int, Tensor]:
    """The pixels of ``steps`` batches by sample, each committed."""
    seen: dict[int, Tensor] = {}
    for _, batch in zip(range(steps), stream, strict=False):
        stream.commit(batch)
        seen |= dict(zip(ids(batch), batch.images, strict=True))
    return seen


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_rank_with_one_worker_equals_two_with_two(
    library: Callable[[], list[Any]], index: ShardIndex
) -> None:
    first = images(make(index, 8, image_transform=transform(library()), num_workers=1), 4)
    assert len(first) == 32
    assert len({pixels.numpy().tobytes() for pixels in first.values()}) == 32
    second: dict[int, Tensor] = {}
    for rank in range(2):
        options = {"image_transform": transform(library()), "num_workers": 2}
        second |= images(make(index, 4, rank=rank, world_size=2, **options), 4)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[sample], second[sample]) for sample in first)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_resumed_run_has_the_pixels_of_an_uninterrupted_one(
    library: Callable[[], list[Any]], index: ShardIndex
) -> None:
    complete = images(make(index, image_transform=transform(library())), 8)
    stream = make(index, image_transform=transform(library()))
    before = images(stream, 3)
    torch.rand(7), np.random.rand(5), random.random()  # noqa: NPY002
    resumed = make(index, image_transform=transform(library()), num_workers=1)
    resumed.load_state_dict(stream.state_dict())
    both = before | images(resumed, 5)
    assert both.keys() == complete.keys()
    assert all(torch.equal(both[sample], complete[sample]) for sample in complete)


@pytest.mark.parametrize("library", LIBRARIES)
def test_generators_of_the_process_and_the_input_stay(library: Callable[[], list[Any]]) -> None:
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    before = pixels.clone()

    def draws() -> list[Any]:
        return [torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()]  # noqa: NPY002

    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    expected = draws()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    rng = np.random.default_rng(0)
    for one in map(as_augmentation, library()):
        one(pixels, rng)
    assert draws() == expected
    assert torch.equal(pixels, before)


def test_the_result_is_that_of_the_library() -> None:
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    flip = as_augmentation(v2.RandomVerticalFlip(p=1.0))
    assert torch.equal(flip(pixels, np.random.default_rng(0)), pixels.flip(1))
    albumentations = pytest.importorskip("albumentations")
    flip = as_augmentation(albumentations.VerticalFlip(p=1.0))
    assert torch.equal(flip(pixels, np.random.default_rng(0)), pixels.flip(1))


def test_later_draws_do_not_depend_on_the_transform() -> None:
    rngs = [np.random.default_rng(0) for _ in range(2)]
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    for rng, one in zip(rngs, [v2.RandAugment(9), v2.RandomInvert(p=0.0)], strict=True):
        as_augmentation(one)(pixels, rng)
    assert rngs[0].random() == rngs[1].random()


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (v1.ColorJitter(0.5), "torchvision.transforms.v2 has ColorJitter, too"),
        (len, "got builtins.builtin_function_or_method"),
        (torch.nn.ReLU(), "got torch.nn.modules.activation.ReLU"),
    ],
)
def test_other_transforms_are_refused(one: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        transform([one])


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (v2.Resize(8), r"Resize: expected pixels uint8 \[3, 16, 16\], got torch.uint8 \[3, 8, 8\]"),
        (v2.ToDtype(torch.float32, scale=True), "ToDtype: .* got torch.float32"),
        (v2.Grayscale(1), r"got torch.uint8 \[1, 16, 16\]"),
    ],
)
def test_another_size_or_type_ends_the_run_and_is_no_fault_of_a_sample(
    one: Any, expected: str, index: ShardIndex
) -> None:
    with pytest.raises(DataError, match=expected):
        next(iter(make(index, image_transform=transform([one]))))


def test_threads_are_refused_where_generators_are_shared(index: ShardIndex) -> None:
    samples = SampleOptions(num_threads=2)
    tokenizer = ByteTokenizer()

    def stream(one: Any) -> PairStream:
        prepared = transform([one])
        return PairStream(
            index, tokenizer=tokenizer, batch_size=2, samples=samples, image_transform=prepared
        )

    stream(HorizontalFlip())
    with pytest.raises(ConfigError, match="num_threads: expected 1 with augmentations of torch"):
        stream(v2.RandomInvert())


def test_an_albumentations_without_generators_is_named() -> None:
    old = type("OldTransform", (), {"__module__": "albumentations.core"})()
    with pytest.raises(ConfigError, match=r"expected albumentations 2\.0 or later"):
        as_augmentation(old)


def test_kept_decoded_images_are_not_changed_by_the_transforms() -> None:
    data = image_bytes(size=(20, 20))
    erasing = v2.RandomErasing(1.0, inplace=True)
    kept = TrainTransform(16, (1.0, 1.0), augmentations=[erasing], keep_decoded_mib=4)
    plain = TrainTransform(16, (1.0, 1.0), augmentations=[erasing])
    for seed in range(3):
        first, second = (one(data, np.random.default_rng(seed)) for one in (kept, plain))
        assert torch.equal(first, second)
