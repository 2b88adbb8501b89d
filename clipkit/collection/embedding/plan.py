"""What to embed, with which options, and which part of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from clipkit.collection.embedding.sounds import may_have_sounds, sound_towers
from clipkit.collection.info import INFO_FILE, read_info
from clipkit.collection.shard_tables import COLUMNS
from clipkit.data.samples.faults import FaultOptions
from clipkit.data.shards.index import ShardIndex
from clipkit.data.text.captions import CaptionPicker
from clipkit.errors import ConfigError, check_at_least
from clipkit.evaluation import open_dataset
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.models import load_towers
from clipkit.models.checkpoints.encoder import LoadedTowers
from clipkit.models.checkpoints.kinds import as_dual
from clipkit.models.evaluating import check_precision

_MAX_DEFAULT_WORKERS: Final = 16
_CORES_PER_WORKER: Final = 4
"""On a machine without a GPU the towers need most of the cores."""


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """What to embed and with which options; the same for every process of a collection.

    Args:
        model: Name or path of the model, as ``load_model`` takes it.
        data: Source of the data, as ``open_dataset`` takes it.
        output: Folder of the collection.
        weights: Weights of a checkpoint, "average" or "raw"; None for the average if there is one.
        split: Folder inside the data.
        caption: Finds the captions of a sample; None for the lines of its ``.txt``.
        label_field: Where the class of a sample is: a member or a field of a JSON member.
        allow_outside: Whether the images of a table or folder may be outside of its folder.
        images_only: Whether captions are stored in the tables only, and not embedded.
        columns: Fields of the samples that become columns of the tables, such as "json:author".
        limit: Number of samples, from the first one on; None for all.
        precision: "fp32", or autocast to "bf16" or "fp16".
        batch_size: Images or texts per forward pass of a tower.
        num_workers: Processes that read and decode; None for a number by the machine's cores, 0
            for the process of the towers.
        faults: Largest share of bad samples in a shard, and number of shards that may be left out.

    Raises:
        ConfigError: If an option is out of range, or a column has the name of another one.

    Examples:
        >>> EmbedPlan("ViT-B-32", "data/val", "embeddings", columns=("json:color",)).limit is None
        True
    """

    model: str
    data: str
    output: Path | str
    weights: str | None = None
    split: str = "test"
    caption: CaptionPicker | None = None
    label_field: str = "cls"
    allow_outside: bool = False
    images_only: bool = False
    columns: tuple[str, ...] = ()
    limit: int | None = None
    precision: str = "fp32"
    batch_size: int = 64
    num_workers: int | None = None
    faults: FaultOptions = FaultOptions()

    def __post_init__(self) -> None:
        check_precision(self.precision)
        for name, least in (("batch_size", 1), ("num_workers", 0), ("limit", 1)):
            check_at_least(name, getattr(self, name), least)
        for number, name in enumerate(self.columns):
            if not name or name in COLUMNS or name in self.columns[:number]:
                raise ConfigError(
                    f"columns: expected different fields of the samples, such as json:author, and "
                    f"none of {', '.join(COLUMNS)}; got {name!r}"
                )

    def open_data(self) -> EvaluationDataset:
        """Open the data."""
        return open_dataset(
            self.data,
            self.split,
            caption=self.caption,
            label_field=self.label_field,
            allow_outside=self.allow_outside,
        )

    def load_encoder(
        self, device: str = "auto", data: EvaluationDataset | None = None
    ) -> LoadedTowers:
        """Load the model in evaluation mode: with its towers for sounds if they have any to read.

        A collection is continued as it was begun, with or without them.

        Args:
            device: A torch device, or "auto" for a GPU if there is one.
            data: The plan's data, as ``open_data`` returns them; None if they may have sounds.
        """
        loaded = load_towers(self.model, device, self.weights)
        is_pair = {"image", "text"} <= loaded.encoder.towers.keys()
        if sound_towers(loaded.encoder) and (not is_pair or self._has_sounds(data)):
            return loaded
        return LoadedTowers(as_dual(loaded.encoder, self.model), loaded.weights)

    def _has_sounds(self, data: EvaluationDataset | None) -> bool:
        """Return whether the collection has sounds by its record, or by the data without one."""
        if (Path(self.output) / INFO_FILE).exists():
            info = read_info(self.output)
            return bool(info.modalities) or not info.has_images
        return data is None or may_have_sounds(data, len(self.counts(data.index)))

    def counts(self, index: ShardIndex) -> tuple[int, ...]:
        """Return the number of samples of each shard that is embedded; ``limit`` cuts the last."""
        limit = index.num_samples if self.limit is None else self.limit
        starts = index.starts[:-1]
        lengths = index.counts.clip(max=limit - starts)
        return tuple(int(count) for count in lengths if count > 0)

    def recorded_options(self) -> dict[str, str]:
        """Return the options that change the files and have no other place in the record."""
        options = {"label_field": self.label_field}
        if self.limit is not None:
            options["limit"] = str(self.limit)
        if self.caption is not None:
            options["caption"] = json.dumps(_described(self.caption), sort_keys=True)
        return options


def default_workers(device: torch.device) -> int:
    """Return the number of worker processes by the cores that this rank has."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    if device.type != "cpu":
        return min(max(cores, 1), _MAX_DEFAULT_WORKERS)
    return 0 if cores < 2 else min(max(cores // _CORES_PER_WORKER, 1), _MAX_DEFAULT_WORKERS)


def _described(value: Any) -> Any:
    """Return a caption picker and its arguments as plain values."""
    if isinstance(value, CaptionPicker):
        arguments = {name: _described(argument) for name, argument in vars(value).items()}
        return {"class": type(value).__qualname__, **arguments}
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _described(item) for name, item in value.items()}
    is_plain = value is None or isinstance(value, str | int | float)
    return value if is_plain else type(value).__qualname__
