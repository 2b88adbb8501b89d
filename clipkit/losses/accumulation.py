"""The gradient of a big batch with the activations of a small one, exact for every loss.

A contrastive loss is no mean over samples: adding up the gradients of micro-batches would compare
each picture with the captions of its own micro-batch only. Here all embeddings are made first,
keeping no activations; the loss sees the whole batch; and the backward pass makes one micro-batch's
activations at a time anew, with the random numbers of its first pass (Gao et al. 2021,
arXiv:2101.06983, "GradCache").

It is one graph, so the loss is differentiated as usual: each parameter gets its gradient once, and
DDP reduces once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipkit.errors import ConfigError
from clipkit.types import Batch, Embeddings


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Cut a batch into micro-batches; the last may be smaller.

    Args:
        batch: Samples.
        size: Samples of a micro-batch.

    Yields:
        Batches that share the memory of ``batch``, without its cursor.

    Raises:
        ConfigError: If ``size`` is not positive.
    """
    if size < 1:
        raise ConfigError(f"micro_batch_size: expected a positive number, got {size}")
    for start in range(0, len(batch), size):
        part: dict[str, Any] = {"cursor": None}
        stop = min(start + size, len(batch))
        for field in fields(batch):
            value = getattr(batch, field.name)
            if field.name in ("negative_images", "negative_tokens"):
                part[field.name] = _share(value, start / len(batch), stop / len(batch))
            elif isinstance(value, Tensor | tuple):
                part[field.name] = value[start:stop]
        yield replace(batch, **part)


@runtime_checkable
class Staged(Protocol):
    """An encoder that says which part of its work is done sample by sample."""

    def embed(self, batch: Batch) -> Embeddings:
        """What is done for each sample."""
        ...

    def score(self, embeddings: Embeddings) -> Embeddings:
        """What is done once a step, with the embeddings of all samples."""
        ...


def embed_in_micro_batches(
    encoder: Callable[[Batch], Embeddings], batch: Batch, micro_batch_size: int
) -> Embeddings:
    """``encoder(batch)``, with the activations of ``micro_batch_size`` samples at a time.

    Costs a second forward pass. Dropout and dropped patches repeat exactly (torch's random numbers;
    not numpy's). Batch normalisation sees micro-batches, and updates its statistics twice.

    Args:
        encoder: Not wrapped in DDP; wrap a :class:`MicroBatchedEncoder` instead. Where it is
            :class:`Staged`, its ``score`` sees the whole batch at once.
        batch: The whole batch of this rank.
        micro_batch_size: Samples whose activations are held at a time.

    Returns:
        Embeddings of the whole batch, to be given to any loss.

    Examples:
        >>> embeddings = embed_in_micro_batches(encoder.train(), batch, micro_batch_size=2)
        >>> CombinedLoss(ContrastiveLoss())(embeddings, batch)["loss"].backward()
    """
    if len(batch) <= micro_batch_size:
        return encoder(batch)
    embed = encoder.embed if isinstance(encoder, Staged) else encoder
    parts = [
        # checkpoint() looks at tensors for the device whose random numbers it has to keep.
        checkpoint(_embed, part.images, embed, part, use_reentrant=False)
        for part in split_batch(batch, micro_batch_size)
    ]
    joined = _join(parts)
    return encoder.score(joined) if isinstance(encoder, Staged) else joined


@final
class MicroBatchedEncoder(nn.Module):
    """An encoder that is given big batches and works in micro-batches; DDP may wrap it.

    Args:
        encoder: Makes embeddings of a batch.
        micro_batch_size: Samples whose activations are held at a time.
    """

    def __init__(self, encoder: nn.Module, micro_batch_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.micro_batch_size = micro_batch_size

    def forward(self, batch: Batch) -> Embeddings:
        """See :func:`embed_in_micro_batches`."""
        return embed_in_micro_batches(self.encoder, batch, self.micro_batch_size)


def _share(rows: Tensor | None, start: float, stop: float) -> Tensor | None:
    """The part of rows that belong to no sample, from one fraction of them to another."""
    if rows is None:
        return None
    return rows[round(start * len(rows)) : round(stop * len(rows))]


def _embed(_: Tensor, encoder: Callable[[Batch], Embeddings], part: Batch) -> Embeddings:
    return encoder(part)


def _join(parts: list[Embeddings]) -> Embeddings:
    joined: dict[str, Tensor | None] = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if values[0] is None or values[0].ndim == 0:  # scale and bias are the same in all parts
            joined[field.name] = values[0]
        else:
            joined[field.name] = torch.cat(values)
    return Embeddings(**joined)  # type: ignore[arg-type]
