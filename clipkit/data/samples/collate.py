"""Join samples into a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from clipkit.data.samples.joining import PadIds
from clipkit.data.text.tokenizer import pad_tokens
from clipkit.patches import TokenBudget, join_images
from clipkit.types import (
    Batch,
    CandidateBatch,
    EncodedImages,
    ModalityBatch,
    NegativeBatch,
    Sample,
    TeacherBatch,
)


def collate(
    samples: Sequence[Sample],
    pad_ids: PadIds,
    budget: TokenBudget | None = None,
) -> Batch:
    """Join samples into a batch; with a ``budget``, images of any shape as patches."""
    images, grids = join_images([sample.image for sample in samples], budget)
    return Batch(
        images=images,
        tokens=pad_tokens([sample.tokens for sample in samples], pad_ids.tokens),
        labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        keys=tuple(sample.key for sample in samples),
        sample_ids=torch.tensor([sample.sample_id for sample in samples], dtype=torch.int64),
        captions=tuple(sample.caption for sample in samples),
        groups=_joined(samples, "group", torch.tensor),
        pair_mask=_joined(samples, "is_pair", torch.tensor),
        multi_labels=_joined(samples, "multi_labels", torch.stack),
        teacher=_teacher_batch(samples, pad_ids.teacher_tokens),
        negatives=_negative_batch(samples, pad_ids.tokens),
        candidates=_candidate_batch(samples, pad_ids.tokens),
        grids=grids,
        encoded=_encoded_images(samples),
        image_present=_joined(samples, "has_image", torch.tensor),
        text_present=_joined(samples, "has_text", torch.tensor),
        modalities=_modality_batches(samples),
    )


def _encoded_images(samples: Sequence[Sample]) -> EncodedImages | None:
    encoded = [sample.encoded for sample in samples if sample.encoded is not None]
    if not encoded:
        return None
    return EncodedImages(
        files=torch.cat([image.file for image in encoded]),
        lengths=torch.tensor([len(image.file) for image in encoded], dtype=torch.int64),
        crops=torch.stack([image.crop for image in encoded]),
    )


def _teacher_batch(samples: Sequence[Sample], pad_id: int) -> TeacherBatch | None:
    teachers = [sample.teacher for sample in samples if sample.teacher is not None]
    if not teachers:
        return None
    return TeacherBatch(
        image=_joined(teachers, "image", torch.stack),
        text=_joined(teachers, "text", torch.stack),
        pixels=_joined(teachers, "pixels", torch.stack),
        tokens=_joined(teachers, "tokens", lambda rows: pad_tokens(rows, pad_id)),
    )


def _negative_batch(samples: Sequence[Sample], pad_id: int) -> NegativeBatch | None:
    negatives = [sample.negatives for sample in samples if sample.negatives is not None]
    if not negatives:
        return None
    return NegativeBatch(
        images=_joined(negatives, "images", lambda rows: _stack_all(rows, samples[0].image)),
        tokens=_joined(negatives, "tokens", lambda rows: pad_tokens(list(chain(*rows)), pad_id)),
    )


def _candidate_batch(samples: Sequence[Sample], pad_id: int) -> CandidateBatch | None:
    given = [sample.candidates for sample in samples if sample.candidates is not None]
    if not given:
        return None
    return CandidateBatch(
        tokens=pad_tokens(list(chain(*(one.tokens for one in given))), pad_id),
        counts=torch.tensor([len(one.tokens) for one in given], dtype=torch.int64),
        correct=torch.tensor([one.correct for one in given], dtype=torch.int64),
    )


def _modality_batches(samples: Sequence[Sample]) -> dict[str, ModalityBatch] | None:
    first = samples[0].modalities
    if first is None:
        return None
    rows = [sample.modalities or {} for sample in samples]
    return {
        name: ModalityBatch(
            torch.stack([row[name].values for row in rows]),
            torch.tensor([row[name].is_present for row in rows]),
        )
        for name in first
    }


def _joined(
    parts: Sequence[object], name: str, join: Callable[[list[Any]], Tensor]
) -> Tensor | None:
    """Join a field of all samples; None if it was not requested."""
    values = [getattr(part, name) for part in parts]
    return None if values[0] is None else join(values)


def _stack_all(rows: Sequence[Sequence[Tensor]], like: Tensor) -> UInt8[Tensor, "images 3 H W"]:
    images = list(chain(*rows))
    return torch.stack(images) if images else like.new_empty((0, *like.shape))
