"""Options of a stream in groups, as Python and YAML nest them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clipkit.data.order.partition import BatchSizeStage, Tail
from clipkit.data.samples.fields import SampleField
from clipkit.data.samples.maker import Caption

# Not slotted: jsonargparse reads the defaults of a nested group from an instance's __dict__.


@dataclass(frozen=True)
class OrderOptions:
    """The order of samples in an epoch, and how it is divided into batches.

    Args:
        shuffle: True for a new random order in every epoch; False for the order of the shards, the
            same in every epoch, in which bad samples are left out and not replaced.
        tail: What happens to the last samples of an epoch, too few for a complete step: "drop";
            "pad" (fill the step with the epoch's first samples, counted as padded); "keep" (a
            smaller batch, divided among the ranks, of which some may get none); "even" (all steps
            of nearly equal size, at most one sample per rank above the batch size, and none without
            samples). None for "drop" when shuffling and "keep" otherwise. An epoch of a mixture has
            no such samples: its last step contains the first ones of the next epoch.
        shuffle_window: Number of consecutive samples of a lane that are shuffled together; None
            chooses it from the size of the data. For ``WebDatasetSource``, the number of samples in
            the shuffle buffer of a worker; None for 1000.
        length_bucket_batches: Number of consecutive steps whose samples are sorted by caption
            length and redistributed, so that the captions of a batch have similar lengths; None
            for no sorting. Needs ``shuffle``. Images that keep their resolution (``enlarge=False``
            of ``NaFlexTrainTransform``) are sorted by their number of patches instead.
        batch_size_stages: Smaller batches for the first samples of a run, in ascending order.
    """

    shuffle: bool = True
    tail: Tail | None = None
    shuffle_window: int | None = None
    length_bucket_batches: int | None = None
    batch_size_stages: Sequence[BatchSizeStage] = ()


@dataclass(frozen=True)
class SampleOptions:
    """Options of the conversion of members to samples.

    Args:
        caption: Function that picks the text of a sample among its members; None for its ``.txt``.
        label_field: Where the class of a sample is stored: a member (``"cls"``) or a field of a
            JSON member (``"json:category"``).
        fields: Further parts of a sample that the objective needs, such as ``Group``.
        num_threads: Number of samples that each worker prepares at the same time.
    """

    caption: Caption | None = None
    label_field: str = "cls"
    fields: Sequence[SampleField] = ()
    num_threads: int = 1

    def for_evaluation(self) -> SampleOptions:
        """Return these options with fields that change their values in no random way."""
        return replace(self, fields=[field.for_evaluation() for field in self.fields])
