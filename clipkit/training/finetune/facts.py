"""Inspect the data and the model of a fine-tuning run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkit.data.packing.class_numbers import MOST_CLASSES
from clipkit.data.packing.hub import hub_address, pinned
from clipkit.data.packing.packed_cache import class_names_in
from clipkit.data.packing.sources import Source, open_source
from clipkit.data.shards.members import read_classes, read_label
from clipkit.errors import DataError, SampleError
from clipkit.models.checkpoints.encoder import PREFIXES
from clipkit.models.checkpoints.named import is_read_by_path, load_model
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.patches import TokenBudget
from clipkit.types import IGNORE_LABEL


@dataclass(frozen=True, slots=True)
class FinetuneData:
    """Facts about the data of a fine-tuning run.

    Args:
        train: Path of the training data.
        val: Path of the validation data; None if there are none.
        num_samples: Number of training samples.
        class_counts: Number of training samples per class number; empty if there are no classes.
        class_names: Name of each class by its number; empty if the data name no classes.
        has_captions: Whether any sample has a caption that is not the name of its class.
        multi_label: Whether a sample may have several classes.
        label_field: Member or JSON field with the class of a sample.
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
class BaseModelInfo:
    """Facts about the model that is fine-tuned.

    Args:
        encoder: The model in a configuration: ``class_path`` and ``init_args``.
        embedding_dim: Number of components of its embeddings.
        image_size: Height and width of its images in pixels.
        interpolation: Interpolation that resizes images to that size.
        num_groups: Number of layer groups per tower.
        weights: "average" or "raw", the weights of a checkpoint; None if there is only one set.
        budget: How many patches an image may have, if the model reads images of any shape.
    """

    encoder: Mapping[str, Any]
    embedding_dim: int
    image_size: int
    interpolation: str
    num_groups: Mapping[str, int]
    weights: str | None = None
    budget: TokenBudget | None = None


def inspect_data(
    train: Path | str, val: Path | str | None = None, *, allow_outside: bool = False
) -> FinetuneData:
    """Count the samples and classes of training data, and check whether they have captions.

    Args:
        train: CSV, TSV or Parquet table, folder with one folder per class, shards, or
            ``hf://datasets/OWNER/NAME``, whose newest commit is used from here on.
        val: Validation data of the same kinds; None for none.
        allow_outside: Whether the images of a table may be outside of its folder.

    Raises:
        DataError: If the data cannot be read, or samples have neither a caption nor the name of a
            class.

    Examples:
        >>> data = inspect_data("photos/labels.csv")
        >>> data.num_samples, data.class_names, data.multi_label
        (4, ('blue', 'green', 'red', 'yellow'), True)
    """
    for option, path in (("--train", train), ("--val", val)):
        if path is not None and hub_address(path) is None and not Path(path).exists():
            raise DataError(f"{option}: {path}: no such file or folder")
    train, val = pinned(str(train)), None if val is None else pinned(str(val))
    source = open_source(train, allow_outside=allow_outside)
    names = class_names_in(source.files)
    counts, num_captions, num_named, num_lists = _count(source, names)
    if counts and max(counts) >= MOST_CLASSES:
        raise DataError(
            f"{train}: class number {max(counts)}: expected less than {MOST_CLASSES}, because a "
            f"label head has a score for every number; number the classes from 0, or name them"
        )
    multi_label, has_captions = num_lists > 0, num_captions > num_named
    missing = len(source.items) - num_captions
    if missing and not (multi_label and not has_captions):
        raise DataError(
            f"{train}: {missing} of {len(source.items)} samples have neither a caption nor the "
            f"name of a class; add a column caption or class_name to the table"
        )
    return FinetuneData(
        train=train,
        val=val,
        num_samples=len(source.items),
        class_counts=[counts[n] for n in range(max(len(names), max(counts, default=-1) + 1))],
        class_names=names,
        has_captions=has_captions,
        multi_label=multi_label,
    )


def _count(source: Source, names: Sequence[str]) -> tuple[Counter[int], int, int, int]:
    """Count the samples of each class, and those with captions, names of classes, and lists.

    Returns:
        Samples by class number; samples with a caption; those whose caption is the names of their
        classes; those with a list of classes.
    """
    counts: Counter[int] = Counter()
    num_captions = num_named = num_lists = 0
    for item in source.items:
        texts = item.texts()
        label, several = read_label(texts, "cls"), None
        with suppress(SampleError):  # its JSON has no valid list of classes
            several = read_classes(texts)
        classes = several or ([] if label == IGNORE_LABEL else [label])
        counts.update(classes)
        num_lists += several is not None
        caption = texts.get("txt", b"").decode("utf-8", "replace").strip()
        num_captions += bool(caption)
        num_named += bool(caption) and caption == ", ".join(
            names[number] for number in classes if number < len(names)
        )
    return counts, num_captions, num_named, num_lists


def inspect_model(model: str, weights: str | None = None) -> BaseModelInfo:
    """Load a model and return what a configuration needs to start from it.

    Args:
        model: Name of the model; see ``clipkit.models.load_model``.
        weights: "average" or "raw" weights of a checkpoint; None for the average if there is one.

    Raises:
        ClipkitError: If the model cannot be loaded.
    """
    encoder, kind = load_model(model, "cpu", weights)
    return model_info(encoder, encoder_config(model, kind), kind)


def model_info(
    encoder: TowerEncoder, config: Mapping[str, Any], weights: str | None
) -> BaseModelInfo:
    """Return what a configuration needs to start from an encoder of images and texts.

    Args:
        encoder: The encoder.
        config: The same in a configuration.
        weights: As in ``BaseModelInfo``.
    """
    towers = {"image_tower": encoder.image_tower, "text_tower": encoder.text_tower}
    return BaseModelInfo(
        encoder=config,
        embedding_dim=encoder.embedding_dim,
        image_size=encoder.image_tower.image_size,
        interpolation=encoder.image_tower.interpolation,
        num_groups={name: len(tower.layer_groups()) for name, tower in towers.items()},
        weights=weights,
        budget=encoder.image_tower.budget,
    )


def encoder_config(
    model: str, weights: str | None, loader: str = "from_checkpoint"
) -> dict[str, Any]:
    """Return the entry of a configuration that loads a model.

    Args:
        model: Name of the model; see ``clipkit.models.load_model``.
        weights: "average" or "raw" weights of a checkpoint; None if it has only one set.
        loader: Function of ``clipkit.models`` that loads a checkpoint.
    """
    if is_read_by_path(model):
        init_args = {"path": model} | ({"prefix": PREFIXES[weights]} if weights else {})
        return {"class_path": f"clipkit.models.{loader}", "init_args": init_args}
    name, _, pretrained = model.partition("@")
    options = {"name": name, "pretrained": pretrained or None}
    return {"class_path": "clipkit.models.from_open_clip", "init_args": options}
