"""Gradient of a large batch with the activations of a small one, exact for every loss.

A contrastive loss is not a mean over samples: with accumulated gradients of micro-batches, each
image would be compared with the texts of its micro-batch only. Here all embeddings are computed
first, without activations; the loss uses the complete batch; and the backward pass recomputes the
activations of one micro-batch at a time, with the random numbers of the first pass (Gao et al.
2021, arXiv:2101.06983, "GradCache").

It is one graph, so the loss is differentiated as usual: each parameter gets its gradient once, and
DDP reduces once per step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipkit.errors import ConfigError
from clipkit.token_sequences import TokenSequence
from clipkit.types import (
    Batch,
    Embeddings,
    ModalityBatch,
    ModalityEmbeddings,
    NegativeBatch,
    TeacherBatch,
)


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Split a batch into micro-batches; the last may be smaller."""
    if size < 1:
        raise ConfigError(f"micro_batch_size: expected a positive number, got {size}")
    sizes = dict.fromkeys(("rank_sizes", "num_pairs", "pair_sizes", "num_joint", "joint_sizes"))
    for start in range(0, len(batch), size):
        part: dict[str, Any] = {"cursor": None, "candidates": None, **sizes}  # no tower reads them
        stop = min(start + size, len(batch))
        for field in fields(batch):
            value = None if field.name in part else getattr(batch, field.name)
            if isinstance(value, NegativeBatch):
                share = start / len(batch), stop / len(batch)
                images, tokens = (_share(some, *share) for some in (value.images, value.tokens))
                part[field.name] = NegativeBatch(images, tokens)
            elif isinstance(value, TeacherBatch):
                rows = (value.image, value.text, value.pixels, value.tokens)
                parts = (None if row is None else row[start:stop] for row in rows)
                part[field.name] = TeacherBatch(*parts)
            elif field.name == "modalities" and value is not None:
                part[field.name] = {
                    name: ModalityBatch(one.values[start:stop], one.present[start:stop])
                    for name, one in value.items()
                }
            elif isinstance(value, Tensor | tuple):
                part[field.name] = value[start:stop]
        yield replace(batch, **part)


@runtime_checkable
class Staged(Protocol):
    """An encoder with a part that runs per sample and a part that runs once per step."""

    def embed(self, batch: Batch) -> Embeddings:
        """Compute the embeddings of each sample."""
        ...

    def score(self, embeddings: Embeddings) -> Embeddings:
        """Compute what uses the embeddings of all samples, once per step."""
        ...


def embed_in_micro_batches(
    encoder: Callable[[Batch], Embeddings], batch: Batch, micro_batch_size: int
) -> Embeddings:
    """Compute ``encoder(batch)`` with the activations of ``micro_batch_size`` samples at a time.

    Costs a second forward pass. Dropout and dropped patches repeat exactly (torch's random numbers;
    not numpy's). Batch normalisation uses micro-batches, and updates its statistics twice.

    Args:
        encoder: Encoder without DDP; wrap a ``MicroBatchedEncoder`` instead. The ``score`` of a
            ``Staged`` encoder runs on the complete batch.
        batch: Complete batch of this rank.
        micro_batch_size: Number of samples whose activations are held at a time.

    Returns:
        Embeddings of the complete batch, for any loss.

    Examples:
        >>> embeddings = embed_in_micro_batches(encoder.train(), batch, micro_batch_size=2)
        >>> CombinedLoss(ContrastiveLoss())(embeddings, batch)["loss"].backward()
    """
    if len(batch) <= micro_batch_size:
        return encoder(batch)
    embed = encoder.embed if isinstance(encoder, Staged) else encoder
    parts = [
        # checkpoint() finds the device whose random state it has to keep by its tensor arguments.
        checkpoint(lambda _, part: embed(part), part.images, part, use_reentrant=False)
        for part in split_batch(batch, micro_batch_size)
    ]
    joined = _join(parts)
    return encoder.score(joined) if isinstance(encoder, Staged) else joined


@final
class MicroBatchedEncoder(nn.Module):
    """An encoder that processes large batches in micro-batches; DDP may wrap it.

    Args:
        encoder: Encoder that returns the embeddings of a batch.
        micro_batch_size: Number of samples whose activations are held at a time.
    """

    def __init__(self, encoder: nn.Module, micro_batch_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.micro_batch_size = micro_batch_size

    def forward(self, batch: Batch) -> Embeddings:
        """Compute the embeddings of a batch; see ``embed_in_micro_batches``."""
        return embed_in_micro_batches(self.encoder, batch, self.micro_batch_size)


def _share(rows: Tensor | None, start: float, stop: float) -> Tensor | None:
    """Return the rows between two fractions of rows that do not belong to samples."""
    if rows is None:
        return None
    return rows[round(start * len(rows)) : round(stop * len(rows))]


def _join(parts: list[Embeddings]) -> Embeddings:
    names = [field.name for field in fields(parts[0])]
    return Embeddings(**{name: _joined([getattr(part, name) for part in parts]) for name in names})


def _joined(values: list[Any]) -> Any:
    """Join a field of all parts; scale, bias and fusion are the same in all."""
    first = values[0]
    if first is None or (isinstance(first, Tensor) and first.ndim == 0):
        return first
    if isinstance(first, TokenSequence):
        has_mask = first.mask is not None  # patches of images of any shape, and texts
        masks = torch.cat([one.mask for one in values]) if has_mask else None
        return TokenSequence(torch.cat([one.values for one in values]), masks)
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, ModalityEmbeddings):
        rows = [one.values for one in values], [one.present for one in values]
        return ModalityEmbeddings(*map(torch.cat, rows))
    if not isinstance(first, dict):
        return first  # the fusion of a joint encoder is the same in all
    return {name: _joined([value[name] for value in values]) for name in first}
