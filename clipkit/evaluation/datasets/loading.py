"""Decoding of a data set's images or sounds in chunks, with the transform of an encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clipkit.data.samples.content import sample_errors
from clipkit.distributed.collectives import gather_sizes, rank, world_size
from clipkit.distributed.texts import gather_texts
from clipkit.errors import ClipkitError
from clipkit.evaluation.datasets.sample_source import DataSource, SampleSource
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.patches import TokenBudget, join_images

_UNUSED_SEED: Final = 0  # the evaluation transform draws no random number


@dataclass(slots=True)
class Chunk:
    """Batch of decoded samples."""

    # pixels, 0 to 255; patches of images of any shape, if there are grids; or the inputs of the
    # data's modality
    values: UInt8[Tensor, "B 3 H W"] | UInt8[Tensor, "B patches values"] | Float[Tensor, "B *rest"]
    grids: Int64[Tensor, "B 2"] | None  # rows and columns of patches of each image
    captions: list[tuple[str, ...]]  # captions of each sample
    labels: list[int]  # class of each sample; ``IGNORE_LABEL`` if it has none
    keys: list[str]  # name of each sample
    files: list[str]  # digest of each sample's file, equal for equal images; empty unless asked for

    def on(self, device: torch.device) -> tuple[Tensor, Int64[Tensor, "B 2"] | None]:
        """Return values and grids on a device: the arguments of ``QueryInputs.encode``."""
        grids = None if self.grids is None else self.grids.to(device)
        return self.values.to(device), grids


def ids_of_rank(data: DataSource, options: EmbedOptions) -> range:
    """Return the samples of this rank; over all ranks, each sample occurs exactly once."""
    count = len(data) if options.limit is None else min(len(data), options.limit)
    return range(rank(), count, world_size())


def texts_in_data_order(texts: Sequence[str], device: torch.device) -> tuple[str, ...]:
    """Gather a text of each sample of ``ids_of_rank``, in the order of the data, on every rank."""
    sizes = [size[0] for size in gather_sizes(len(texts), device=device)]
    gathered = gather_texts(texts, sizes, device)
    starts = [sum(sizes[:of_rank]) for of_rank in range(world_size())]
    # Sample number n is the one at place n // world_size of rank n % world_size.
    return tuple(
        gathered[starts[number % world_size()] + number // world_size()]
        for number in range(len(gathered))
    )


_Item = tuple[Tensor, tuple[str, ...], int, str, str] | ClipkitError
"""Input of the tower, captions, class, key and digest of a sample, or why there are none."""
_DIGEST_BYTES: Final = 8


class _Decoded(Dataset[_Item]):
    """Samples of this rank, decoded in the workers of the loader.

    An error is returned as a value: raised in a worker, it would arrive as the text of a traceback.
    """

    def __init__(
        self,
        data: SampleSource,
        ids: Sequence[int],
        transform: Callable[[bytes, np.random.Generator], Tensor],
        digests: bool,
    ) -> None:
        self._data = data
        self._ids = ids
        self._transform = transform
        self._digests = digests

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> _Item:
        try:
            sample = self._data.sample(self._ids[index])
            with sample_errors(self._data.name, sample.key):
                values = self._transform(sample.image, np.random.default_rng(_UNUSED_SEED))
        except ClipkitError as error:
            return error
        digest = ""
        if self._digests:
            digest = hashlib.blake2b(sample.image, digest_size=_DIGEST_BYTES).hexdigest()
        return values, sample.captions, sample.label, sample.key, digest


def _join(items: list[_Item], budget: TokenBudget | None) -> Chunk | ClipkitError:
    samples = []
    for item in items:
        if isinstance(item, ClipkitError):
            return item
        samples.append(item)
    values, captions, labels, keys, files = zip(*samples, strict=True)
    return Chunk(
        *join_images(values, budget), list(captions), list(labels), list(keys),
        [digest for digest in files if digest],
    )  # fmt: skip


def decoded_chunks(
    encoder: TowerEncoder,
    data: SampleSource,
    ids: Sequence[int],
    options: EmbedOptions,
    digests: bool = False,
) -> Iterator[Chunk]:
    """Decode samples in batches, in the order of ``ids``.

    Args:
        encoder: Encoder whose tower reads them.
        data: The samples.
        ids: Numbers of the samples.
        options: Batch size, number of workers, progress bar.
        digests: Whether to compute ``Chunk.files``, by which equal images are found.

    Raises:
        DataError: If a sample cannot be read.
    """
    inputs = data.modality.inputs(encoder)
    loader = DataLoader(
        _Decoded(data, ids, inputs.transform, digests),
        batch_size=options.batch_size,
        num_workers=min(options.num_workers, len(ids)),
        collate_fn=partial(_join, budget=inputs.budget),
        # With its own generator the loader does not draw from the global one: an evaluation
        # during a run does not change the run's random numbers.
        generator=torch.Generator(),
        pin_memory=encoder.log_logit_scale.is_cuda,
    )
    shown: Iterable[Chunk | ClipkitError] = loader
    if options.progress and rank() == 0:
        shown = track(loader, description=f"Embedding {data.name}", total=len(loader))
    for chunk in shown:
        if isinstance(chunk, ClipkitError):
            raise chunk
        yield chunk
