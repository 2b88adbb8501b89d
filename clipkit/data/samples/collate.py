"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from clipkit.data.text.tokenizer import pad_tokens
from clipkit.types import Batch, Sample


def collate(
    samples: Sequence[Sample],
    pad_id: int,
    cursor: Mapping[str, Any] | None = None,
    teacher_pad_id: int = 0,
) -> Batch:
    """Join samples into a batch.

    Args:
        samples: At least one; all pictures of one size.
        pad_id: The tokenizer's padding id.
        cursor: Where the stream stands after the batch.
        teacher_pad_id: The padding id of a teacher's tokenizer.

    Returns:
        Images ``[B 3 H W]``, tokens ``[B S]`` with S the longest caption, labels, keys and ids, and
        whatever fields the samples have.
    """
    return Batch(
        images=torch.stack([sample.image for sample in samples]),
        tokens=pad_tokens([sample.tokens for sample in samples], pad_id),
        labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        keys=tuple(sample.key for sample in samples),
        cursor=cursor,
        sample_ids=torch.tensor([sample.sample_id for sample in samples], dtype=torch.int64),
        captions=tuple(sample.caption for sample in samples),
        groups=_joined(samples, "group", torch.tensor),
        pair_mask=_joined(samples, "is_pair", torch.tensor),
        multi_labels=_joined(samples, "multi_labels", torch.stack),
        teacher_image=_joined(samples, "teacher_image", torch.stack),
        teacher_text=_joined(samples, "teacher_text", torch.stack),
        teacher_pixels=_joined(samples, "teacher_pixels", torch.stack),
        teacher_tokens=_joined(
            samples, "teacher_tokens", lambda rows: pad_tokens(rows, teacher_pad_id)
        ),
        negative_images=_joined(
            samples, "negative_images", lambda rows: _stack_all(rows, samples[0].image)
        ),
        negative_tokens=_joined(
            samples, "negative_tokens", lambda rows: pad_tokens(list(chain(*rows)), pad_id)
        ),
    )


def _joined(
    samples: Sequence[Sample], name: str, join: Callable[[list[Any]], Tensor]
) -> Tensor | None:
    """A field of all samples; None where nobody asked for it, which is the same in all of them."""
    values = [getattr(sample, name) for sample in samples]
    return None if values[0] is None else join(values)


def _stack_all(rows: Sequence[Sequence[Tensor]], like: Tensor) -> UInt8[Tensor, "K 3 H W"]:
    pictures = list(chain(*rows))
    return torch.stack(pictures) if pictures else like.new_empty((0, *like.shape))
