"""What is known of data and model before a fine-tuning run is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TuningData:
    """What is known of the data before a run.

    Args:
        train: Where the training data lie.
        val: Where the validation data lie; None for none.
        num_samples: Training samples.
        class_counts: Training samples of each class, by number; empty where there are no classes.
        class_names: Names of the classes, by number; none where the data do not name them.
        has_captions: Whether the samples have captions of their own, beside their class's name.
        multi_label: Whether a sample may have several classes.
        label_field: Where a sample's class is.
    """

    train: str
    val: str | None
    num_samples: int
    class_counts: Sequence[int] = ()
    class_names: Sequence[str] = ()
    has_captions: bool = True
    multi_label: bool = False
    label_field: str = "cls"


@dataclass(frozen=True, slots=True)
class Start:
    """The model that a run starts from.

    Args:
        encoder: As a configuration names it: class_path and init_args.
        embedding_dim: Components of its embeddings.
        image_size: Pixels of its pictures.
        interpolation: How pictures are brought to that size.
        num_groups: Layer groups of each tower, by name.
    """

    encoder: Mapping[str, Any]
    embedding_dim: int
    image_size: int
    interpolation: str
    num_groups: Mapping[str, int]
