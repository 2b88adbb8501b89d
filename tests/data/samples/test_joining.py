"""Parts of a batch, joined, against the same samples collated at once."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from clipkit.data.samples.collate import collate
from clipkit.data.samples.joining import BatchJoiner, PadIds
from clipkit.errors import DataError
from clipkit.patches import TokenBudget
from clipkit.types import (
    Batch,
    CandidateSample,
    ModalitySample,
    NegativeSample,
    Sample,
    TeacherSample,
)

PAD_IDS = PadIds(tokens=7, teacher_tokens=9)
CUTS = [[0, 12], [0, 4, 8, 12], [0, 1, 2, 7, 12], [0, 5, 12]]


def sample(number: int, rng: np.random.Generator, **options: Any) -> Sample:
    """A sample with every field of which a batch may have one."""

    def tokens() -> torch.Tensor:
        return torch.from_numpy(rng.integers(1, 99, rng.integers(1, 9)))

    def pixels(*size: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, 255, (3, *size), dtype=np.uint8))

    embedding = torch.from_numpy(rng.random(5, dtype=np.float32))
    negatives = NegativeSample(
        images=tuple(pixels(8, 8) for _ in range(rng.integers(0, 4))),
        tokens=tuple(tokens() for _ in range(rng.integers(0, 4))),
    )
    values: dict[str, Any] = {
        "image": pixels(8, 8),
        "group": number % 3,
        "is_pair": number % 4 > 0,
        "multi_labels": torch.from_numpy(rng.integers(0, 2, 6)),
        "teacher": TeacherSample(embedding, embedding + 1, pixels(6, 6), tokens()),
        "negatives": negatives,
        "candidates": CandidateSample(tuple(tokens() for _ in range(number % 4)), number % 4 - 1),
        "has_image": number % 5 > 0,
        "has_text": number % 2 > 0,
        "modalities": {
            "sound": ModalitySample(embedding.view(1, 5) + number, number % 3 > 0),
            "depth": ModalitySample(embedding, number > 6),
        },
    }
    return Sample(
        f"key{number}", tokens=tokens(), label=number, sample_id=10 * number,
        caption=f"caption {number}", **{**values, **options},
    )  # fmt: skip


def join(samples: list[Sample], cut: list[int], budget: TokenBudget | None = None) -> Batch:
    joiner = BatchJoiner(len(samples), PAD_IDS)
    for start, end in pairwise(cut):
        joiner.add(collate(samples[start:end], PAD_IDS, budget))
    return joiner.finish()


def check_equal(mine: Any, theirs: Any) -> None:
    """Compare batches field by field, of whatever kind."""
    assert type(mine) is type(theirs)
    for field in fields(theirs):
        a, b = getattr(mine, field.name), getattr(theirs, field.name)
        if isinstance(b, torch.Tensor):
            assert (a.dtype, a.shape, a.is_contiguous()) == (b.dtype, b.shape, True), field.name
            assert torch.equal(a, b), field.name
        elif hasattr(b, "__dataclass_fields__"):
            check_equal(a, b)
        elif field.name == "modalities" and b is not None:
            assert a.keys() == b.keys()
            for name in b:
                if hasattr(b[name], "__dataclass_fields__"):
                    check_equal(a[name], b[name])
                else:
                    assert a[name] == b[name], name
        else:
            assert a == b, field.name


@pytest.mark.parametrize("cut", CUTS)
def test_every_field_is_that_of_the_samples_at_once(cut: list[int]) -> None:
    rng = np.random.default_rng(0)
    samples = [sample(number, rng) for number in range(12)]
    whole = collate(samples, PAD_IDS)
    assert {f.name for f in fields(whole) if getattr(whole, f.name) is None} == {
        "cursor", "encoded", "grids", "joint_sizes", "num_joint", "num_pairs", "pair_sizes",
        "rank_sizes",
    }  # fmt: skip
    check_equal(join(samples, cut), whole)


@pytest.mark.parametrize("cut", CUTS)
def test_images_of_any_shape_have_the_patches_of_the_longest(cut: list[int]) -> None:
    rng = np.random.default_rng(1)
    budget = TokenBudget(patch_size=4, max_tokens=16)
    shapes = rng.integers(1, 5, (12, 2)) * 4
    samples = [
        sample(number, rng, image=torch.from_numpy(rng.integers(0, 255, (3, *shape), np.uint8)),
               negatives=None, teacher=None)
        for number, shape in enumerate(shapes.tolist())
    ]  # fmt: skip
    check_equal(join(samples, cut, budget), collate(samples, PAD_IDS, budget))


def test_fewer_samples_than_expected_are_a_smaller_batch() -> None:
    rng = np.random.default_rng(2)
    samples = [sample(number, rng) for number in range(5)]
    joiner = BatchJoiner(8, PAD_IDS)
    joiner.add(collate(samples[:2], PAD_IDS))
    joiner.add(collate(samples[2:], PAD_IDS))
    check_equal(joiner.finish(), collate(samples, PAD_IDS))


def test_parts_can_be_released_before_the_batch_is_complete() -> None:
    rng = np.random.default_rng(3)
    joiner = BatchJoiner(4, PAD_IDS)
    first = collate([sample(number, rng) for number in range(2)], PAD_IDS)
    expected = first.images.clone()
    joiner.add(first)
    first.images.zero_()
    joiner.add(collate([sample(number, rng) for number in range(2, 4)], PAD_IDS))
    assert torch.equal(joiner.finish().images[:2], expected)


def test_sizes_of_ranks_add_up() -> None:
    rng = np.random.default_rng(4)
    joiner = BatchJoiner(3, PAD_IDS)
    for count in (1, 2):
        part = collate([sample(number, rng) for number in range(count)], PAD_IDS)
        part.rank_sizes = (count, count)
        joiner.add(part)
    assert joiner.finish().rank_sizes == (3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": torch.zeros(3, 8, 9, dtype=torch.uint8)}, r"batch.images: .*\(3, 8, 8\).*8, 9"),
        ({"group": None}, "batch.groups: expected it of all samples or of none"),
        ({"teacher": None}, "batch.teacher.image: expected it of all"),
    ],
)
def test_parts_that_do_not_match_are_refused(options: dict[str, Any], message: str) -> None:
    rng = np.random.default_rng(5)
    joiner = BatchJoiner(2, PAD_IDS)
    joiner.add(collate([sample(0, rng)], PAD_IDS))
    with pytest.raises(DataError, match=message):
        joiner.add(collate([sample(1, rng, negatives=None, **options)], PAD_IDS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": None}, "batch.modalities: expected '(sound|depth)' of all samples"),
        (
            {"modalities": {name: ModalitySample(torch.zeros(2)) for name in ("sound", "depth")}},
            r"batch.modalities.(sound|depth).values: .*5,?\).*\(2,\)",
        ),
    ],
)
def test_modalities_that_do_not_match_are_refused(options: dict[str, Any], message: str) -> None:
    rng = np.random.default_rng(5)
    joiner = BatchJoiner(2, PAD_IDS)
    joiner.add(collate([sample(0, rng)], PAD_IDS))
    with pytest.raises(DataError, match=message):
        joiner.add(collate([sample(1, rng, **options)], PAD_IDS))


def test_what_is_pinned_is_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU nothing can be: that it is asked for, of parts and of a complete batch."""
    rng = np.random.default_rng(6)
    samples = [sample(number, rng) for number in range(4)]
    plain = torch.empty
    asked: list[bool] = []

    def empty(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        asked.append(pin_memory)
        return plain(*size, **options)

    whole = collate(samples, PAD_IDS)
    parts = [collate(samples[:2], PAD_IDS), collate(samples[2:], PAD_IDS)]
    monkeypatch.setattr(torch, "empty", empty)
    joiner = BatchJoiner(4, PAD_IDS, pins=True)
    for part in parts:
        joiner.add(part)
    check_equal(joiner.finish(), whole)
    assert len(asked) >= 12
    assert all(asked)
    monkeypatch.setattr(Batch, "pin_memory", lambda self: replace(self, keys=("pinned",)))
    joiner = BatchJoiner(4, PAD_IDS, pins=True)
    joiner.add(whole)
    assert joiner.finish().keys == ("pinned",)


def test_modalities_move_with_their_batch_and_are_counted() -> None:
    rng = np.random.default_rng(7)
    whole = collate([sample(number, rng) for number in range(12)], PAD_IDS)
    moved = whole.to("cpu")
    assert moved.modalities is not None
    assert whole.modalities is not None
    assert moved.modalities["sound"].num_present == 8
    assert moved.modalities["depth"].num_present == 5
    assert whole.modalities["sound"].num_present is None  # the given batch is not changed
    masks = {name: one.present for name, one in whole.modalities.items()}
    assert whole.image_present is not None
    assert whole.text_present is not None
    masks |= {"image": whole.image_present, "text": whole.text_present}
    both = (masks["sound"] & masks["depth"]).sum()
    assert moved.num_joint is not None
    assert moved.num_joint["depth", "sound"] == both
    assert whole.num_joint is None
    own = {id(tensor) for tensor in whole.tensors()}
    assert all(id(one.values) in own for one in whole.modalities.values())
    assert all(id(one.present) in own for one in whole.modalities.values())
