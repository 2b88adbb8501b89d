"""What a run uses of a source of training batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from clipkit.data.order.image_sizes import ImageSizeStage
from clipkit.data.order.partition import EpochPartition
from clipkit.data.shards.masks.sample_mask import MaskSummary
from clipkit.data.stream.checks import CaptionFacts
from clipkit.data.text.tokenizer import Encoder
from clipkit.types import Batch


class PairSource(Protocol):
    """A source of training batches: ``PairStream`` or ``WebDatasetSource``.

    Examples:
        >>> shards = WebDatasetShards("data/train", num_samples=9)
        >>> source: PairSource = WebDatasetSource(shards, tokenizer=OpenClipTokenizer(),
        ...                                       batch_size=4, image_size=64)
        >>> source.is_exact
        False
    """

    @property
    def is_exact(self) -> bool:
        """Whether every sample comes once per epoch, and a resume starts at the next sample."""
        ...

    @property
    def partition(self) -> EpochPartition:
        """Partition of epochs into steps."""
        ...

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and position after the last committed batch."""
        ...

    @property
    def num_samples(self) -> int:
        """Number of samples in an epoch, over all ranks."""
        ...

    @property
    def num_shards(self) -> int:
        """Number of shards; 0 if it is unknown."""
        ...

    @property
    def masks(self) -> Sequence[MaskSummary]:
        """Masks of the data, or of the sources of a mixture."""
        ...

    def __len__(self) -> int:
        """Return the number of batches of this rank in the epoch of the next batch."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches from here to the epoch's end."""
        ...

    def commit(self, batch: Batch) -> None:
        """Record that a batch has been trained on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last commit: plain types, the same on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
        ...

    def set_image_sizes(self, stages: Sequence[ImageSizeStage]) -> None:
        """Make the images of some steps smaller, from the next iteration on.

        Workers decode and resize such images to their size. Order, crops and captions stay the
        same. A transform without ``at_size`` returns images of its own size in every step.

        Args:
            stages: Stages in ascending order; none for images of one size.
        """
        ...

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of an epoch; a position within that epoch stays."""
        ...

    def close(self) -> None:
        """End the worker processes; the next iteration starts others, after the last commit."""
        ...

    def read_captions(self, tokenizer: Encoder, num_samples: int = 256) -> CaptionFacts:
        """Read some captions."""
        ...

    def sync_faults(self) -> None:
        """Share the bad samples of each rank with all ranks; call it on every rank."""
        ...

    def counters(self) -> dict[str, int]:
        """Count bad, padded and dropped samples, and others of this source, for logs."""
        ...
