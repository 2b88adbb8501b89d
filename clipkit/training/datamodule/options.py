"""Options of the data module in groups, as YAML nests them under ``data``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clipkit.data.images.transforms import ImageTransform
from clipkit.data.order.mixture import Stage
from clipkit.data.packing.tables.columns import TableColumns
from clipkit.data.samples.fields import SampleField
from clipkit.data.storage.cache import ShardCache
from clipkit.data.text.captions import CaptionPicker

# Not slotted: jsonargparse reads the defaults of a nested group from an instance's __dict__.


@dataclass(frozen=True)
class PairOptions:
    """Selection and content of training samples.

    Args:
        transform: Transform of training images, from a file to pixels; None for random crops at the
            size of the image tower.
        caption: Picks the text of a training sample; None for its ``.txt``.
        label_field: Where the class of a sample is stored, in training and validation: a member
            (``"cls"``) or a field of a JSON member (``"json:category"``).
        fields: Further parts of a sample that the objective needs, such as ``clipkit.data.Group``.
        num_threads: Number of samples that each worker prepares at the same time.
        per_class: Number of training samples per class, selected by ``data.seed``, for few-shot
            training; None for all samples. With ``clipkit.data.Answers`` among the fields, a class
            is a most frequent answer.
        balance_classes: Whether every class is sampled equally often, independent of its size.
        mask: File of ``clipkit shards filter`` that says which samples of ``data.train`` to train
            on, or several files, of which all must keep a sample; None for all samples.
    """

    transform: ImageTransform | None = None
    caption: CaptionPicker | None = None
    label_field: str = "cls"
    fields: Sequence[SampleField] = ()
    num_threads: int = 1
    per_class: int | None = None
    balance_classes: bool = False
    mask: str | list[str] | None = None

    @property
    def selects(self) -> bool:
        """Whether some samples are left out or repeated."""
        return self.per_class is not None or self.balance_classes


@dataclass(frozen=True)
class ValidationOptions:
    """Options of validation that differ from training.

    Args:
        batch_size: Largest number of pairs in a validation batch of one process; None for
            ``data.batch_size``. Validation pairs are divided into batches of nearly equal size.
        transform: Transform of validation images, from a file to pixels; None for the transform of
            the image tower.
        caption: Picks the text of a validation sample; None for its ``.txt``.
    """

    batch_size: int | None = None
    transform: ImageTransform | None = None
    caption: CaptionPicker | None = None


@dataclass(frozen=True, slots=True)
class MixtureSource:
    """One of several data sets that are mixed in exact proportions; see ``clipkit.data.Mixture``.

    Args:
        name: Name of the source in counters and checkpoints.
        urls: Shards of the source, or a table or folder of images.
        weight: Share of the samples that come from this source, relative to the other weights.
        epochs: Number of passes over this source per epoch of the mixture, instead of a weight.
        mask: File of ``clipkit shards filter`` that says which samples of this source are trained
            on, or several files, of which all must keep a sample; None for all samples.
    """

    name: str
    urls: str | list[str]
    weight: float | None = None
    epochs: float | None = None
    mask: str | list[str] | None = None


@dataclass(frozen=True)
class MixtureOptions:
    """Several training sources instead of ``data.train``.

    Args:
        sources: Sources that are mixed in exact proportions; none to train on ``data.train``.
        stages: Weights of the sources from later steps on: a curriculum.
        epoch_samples: Number of samples that count as an epoch; None for the samples of all sources
            together.
    """

    sources: Sequence[MixtureSource] = ()
    stages: Sequence[Stage] = ()
    epoch_samples: int | None = None


@dataclass(frozen=True)
class WebDatasetOptions:
    """Reading of ``data.train`` with webdataset, for data that no exact index can serve.

    Args:
        num_samples: Number of samples that count as an epoch, over all ranks; None to read with
            ``PairStream``, in an exact order. See ``clipkit.data.WebDatasetSource``.
        resampled: Whether each worker draws shards at random, with replacement.
        pipeline: Function ``(urls, seed, handler)`` that returns your own
            ``webdataset.DataPipeline``, by its import path; None for that of clipkit.
    """

    num_samples: int | None = None
    resampled: bool = False
    pipeline: Callable[..., Any] | None = None


@dataclass(frozen=True)
class StorageOptions:
    """How shards, tables and images are read.

    Args:
        cache: Local cache of remote shards, and its size; None for the default cache.
        allow_pipe: Whether ``pipe:COMMAND`` among the shards may run a command on this machine.
        allow_outside: Whether the images of a table or folder may be outside of its folder,
            directly or by a symbolic link.
        columns: Columns of tables with images and captions, if their names are not recognised.
        counts: File or URL with the number of samples of each shard, so that remote shards need not
            be read before training: open_clip's ``sizes.json``, energon's ``.info.json`` or a wids
            index. None, and for shards that it does not list, for such files next to the shards.
    """

    cache: ShardCache | None = None
    allow_pipe: bool = False
    allow_outside: bool = False
    webdataset: WebDatasetOptions = WebDatasetOptions()
    columns: TableColumns = TableColumns()
    counts: str | None = None


RENAMED: Final = {
    "train_transform": "samples.transform",
    "train_caption": "samples.caption",
    "label_field": "samples.label_field",
    "fields": "samples.fields",
    "num_threads": "samples.num_threads",
    "samples_per_class": "samples.per_class",
    "balance_classes": "samples.balance_classes",
    "val_batch_size": "validation.batch_size",
    "val_transform": "validation.transform",
    "val_caption": "validation.caption",
    "shuffle_window": "order.shuffle_window",
    "length_window_batches": "order.length_bucket_batches",
    "batch_size_stages": "order.batch_size_stages",
    "max_bad_fraction": "faults.max_bad_fraction",
    "max_bad_shards": "faults.max_bad_shards",
    "fault_log": "faults.log",
    "cache": "storage.cache",
    "allow_pipe": "storage.allow_pipe",
    "allow_outside": "storage.allow_outside",
    "mixture_stages": "mixture.stages",
    "mixture_epoch_samples": "mixture.epoch_samples",
}
"""Options of version 0.1, and where they are nested now."""
