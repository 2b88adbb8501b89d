"""What the decoding and the embedding of images need of a data set."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from clipkit.data.shards.index import ShardIndex
from clipkit.evaluation.datasets.dataset import EvaluationSample
from clipkit.evaluation.datasets.queries import QueryModality


class SampleSource(Protocol):
    """Images with random access, such as an ``EvaluationDataset``."""

    @property
    def name(self) -> str:
        """Return the name of the data in messages."""

    @property
    def modality(self) -> QueryModality:
        """Return what the samples are: images, sounds or another modality."""

    def sample(self, sample_id: int) -> EvaluationSample:
        """Read one sample."""


class ShownSamples(SampleSource, Protocol):
    """Images that a page shows, with the names of their classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the name of each class by its number; empty if the data have no names."""

    def without_file(self, sample_id: int) -> EvaluationSample:
        """Read key, captions and class of one sample, but not its file."""


class DataSource(SampleSource, Protocol):
    """Images of known number that have an identity, so that their embeddings can be kept."""

    @property
    def index(self) -> ShardIndex | None:
        """Return the shards that identify the data; None if nothing does."""

    @property
    def variant(self) -> str:
        """Return what distinguishes the samples from those of the shards; "" for nothing."""

    @property
    def identity(self) -> Hashable:
        """Return what is equal for data of this process that have the same samples."""

    def __len__(self) -> int:
        """Return the number of samples."""


class ImageData(DataSource, Protocol):
    """Images with classes: an ``EvaluationDataset``, or one whose images are changed."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the name of each class by its number; empty if the data have no names."""

    @property
    def label_field(self) -> str:
        """Return where the class of a sample is, for messages."""
