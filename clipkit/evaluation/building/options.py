"""Options of building an evaluation set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.data.images.perceptual_hash import NUM_BITS
from clipkit.data.text.captions import CaptionPicker
from clipkit.errors import check_at_least, check_range

CLASS: Final = "class"
LANGUAGE: Final = "language"
NONE: Final = "none"
AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class SampleFields:
    """Where captions, class and further values of a sample are stored.

    Args:
        caption: Finds the captions of a sample; None for the lines of its ``.txt``.
        label: Member or field with the class number: "cls" or "json:category".
        language: Field with the language of the captions, such as "json:language"; None if there
            is none. Languages are never guessed.
        license: Field with the licence of the image, such as "json:license"; None if there is none.
    """

    caption: CaptionPicker | None = None
    label: str = "cls"
    language: str | None = None
    license: str | None = None


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How samples are divided into training and test data.

    Args:
        test_size: Share of test samples if it is a float (1.0 for test data only), their number if
            it is an integer.
        seed: Seed of the selection.
        stratify: What has the same shares in both splits: "class", "language", a field such as
            "json:category", or "none". "auto" takes the class if there are classes, else the
            language if there is a field for it.
        groups: Fields whose equal values stay in one split, such as "json:patient".
    """

    test_size: float = 0.2
    seed: int = 0
    stratify: str = AUTO
    groups: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class DuplicateOptions:
    """What counts as a duplicate. Duplicates stay in one split.

    Args:
        image_distance: Number of bits of a perceptual hash, of 128, in which copies of an image may
            differ; None to compare no images.
        caption_similarity: Share of common words from which captions are near-duplicates; None to
            compare no captions.
        embedding_similarity: Cosine similarity of the images' embeddings from which images are
            near-duplicates, if there is a model; None to compare no embeddings.
    """

    image_distance: int | None = 24
    caption_similarity: float | None = 0.9
    embedding_similarity: float | None = 0.95

    def __post_init__(self) -> None:
        if self.image_distance is not None:
            check_range("image_distance", self.image_distance, 0, NUM_BITS // 2)
        if self.caption_similarity is not None:
            check_range("caption_similarity", self.caption_similarity, 0.3, 1.0)
        if self.embedding_similarity is not None:
            check_range("embedding_similarity", self.embedding_similarity, 0.3, 1.0)


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How the evaluation set is written.

    Args:
        name: Title of the data card; None for the name of the folder.
        license: Licence of the data, such as "cc-by-4.0"; None if it is unknown or in a field.
        num_negatives: Number of hard negative captions, and of hard negative images, for each test
            sample; 0 for none.
        image_size: Length in pixels to which the shorter side of larger images is reduced; None
            keeps every file as it is.
        samples_per_shard: Number of samples in each shard but the last.
        overwrite: Whether an existing folder is replaced.
    """

    name: str | None = None
    license: str | None = None
    num_negatives: int = 5
    image_size: int | None = None
    samples_per_shard: int = 10_000
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num_negatives", 0), ("image_size", 1), ("samples_per_shard", 1)):
            check_at_least(name, getattr(self, name), least)
