"""Decoding of a data set's images in chunks, with the image transform of an encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clipkit.data.images.transforms import EvalTransform
from clipkit.data.samples.content import sample_errors
from clipkit.distributed.collectives import rank, world_size
from clipkit.errors import ClipkitError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models import DualEncoder
from clipkit.models.inputs import transform_of

_UNUSED_SEED: Final = 0  # the evaluation transform draws no random number


@dataclass(slots=True)
class Chunk:
    """Batch of decoded samples.

    Args:
        images: Pixels, 0 to 255.
        captions: Captions of each sample.
        labels: Class of each sample; ``IGNORE_LABEL`` if it has none.
        keys: Name of each sample.
    """

    images: UInt8[Tensor, "B 3 H W"]
    captions: list[tuple[str, ...]]
    labels: list[int]
    keys: list[str]


def ids_of_rank(data: EvaluationDataset, options: EmbedOptions) -> range:
    """Return the samples of this rank; over all ranks, each sample occurs exactly once."""
    count = len(data) if options.limit is None else min(len(data), options.limit)
    return range(rank(), count, world_size())


class _Decoded(Dataset[Chunk | ClipkitError]):
    """Samples of this rank, decoded in the workers of the loader.

    An error is returned as a value: raised in a worker, it would arrive as the text of a traceback.
    """

    def __init__(
        self, data: EvaluationDataset, ids: Sequence[int], transform: EvalTransform
    ) -> None:
        self._data = data
        self._ids = ids
        self._transform = transform

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Chunk | ClipkitError:
        try:
            return self._decoded(index)
        except ClipkitError as error:
            return error

    def _decoded(self, index: int) -> Chunk:
        sample = self._data.sample(self._ids[index])
        with sample_errors(self._data.name, sample.key):
            image = self._transform(sample.image, np.random.default_rng(_UNUSED_SEED))
        return Chunk(image[None], [sample.captions], [sample.label], [sample.key])


def _join_chunks(items: list[Chunk | ClipkitError]) -> Chunk | ClipkitError:
    chunks: list[Chunk] = []
    for item in items:
        if isinstance(item, ClipkitError):
            return item
        chunks.append(item)
    return Chunk(
        torch.cat([chunk.images for chunk in chunks]),
        [chunk.captions[0] for chunk in chunks],
        [chunk.labels[0] for chunk in chunks],
        [chunk.keys[0] for chunk in chunks],
    )


def decoded_chunks(
    encoder: DualEncoder, data: EvaluationDataset, ids: Sequence[int], options: EmbedOptions
) -> Iterator[Chunk]:
    """Decode samples in batches, in the order of ``ids``."""
    loader = DataLoader(
        _Decoded(data, ids, transform_of(encoder.image_tower)),
        batch_size=options.batch_size,
        num_workers=min(options.num_workers, len(ids)),
        collate_fn=_join_chunks,
        # With its own generator the loader does not draw from the global one: an evaluation
        # during a run does not change the run's random numbers.
        generator=torch.Generator(),
        pin_memory=encoder.log_logit_scale.is_cuda,
    )
    shown: Iterable[Chunk | ClipkitError] = loader
    if options.progress and rank() == 0:
        shown = track(loader, description=f"Embedding {data.name}", total=len(loader))
    return _without_errors(shown)


def _without_errors(items: Iterable[Chunk | ClipkitError]) -> Iterator[Chunk]:
    for item in items:
        if isinstance(item, ClipkitError):
            raise item
        yield item
