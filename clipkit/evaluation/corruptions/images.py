"""A data set with corrupted images."""

from __future__ import annotations

import io
from collections.abc import Hashable
from dataclasses import replace
from typing import final

import numpy as np
from PIL import Image

from clipkit.data.images.transforms import EvalTransform
from clipkit.data.samples.content import sample_errors
from clipkit.data.shards.index import ShardIndex
from clipkit.evaluation.corruptions.kinds import IMAGE_SIZE, check_corruption, corrupt
from clipkit.evaluation.datasets.dataset import EvaluationDataset, EvaluationSample
from clipkit.evaluation.datasets.queries import IMAGES


@final
class CorruptedImages:
    """The samples of a data set, of which each image is corrupted when it is read.

    The shorter side is scaled to 224 pixels and the centre is cut out, then the square is
    corrupted: it is the same for every model, whatever the size of its input.

    Args:
        data: The data set.
        kind: A key of ``CORRUPTIONS``.
        strength: 1 (weak) to 5 (strong).

    Raises:
        ConfigError: If kind or strength are unknown.

    Examples:
        >>> data = CorruptedImages(open_dataset("data/val"), "fog", 3)
        >>> data.name, data.sample(0).label
        ('val, fog 3', 0)
    """

    modality = IMAGES

    def __init__(self, data: EvaluationDataset, kind: str, strength: int) -> None:
        check_corruption(kind, strength)
        self.name = f"{data.name}, {kind} {strength}"
        self.variant = f"{kind} {strength}"
        self.index: ShardIndex = data.index
        self.identity: Hashable = (data.identity, self.variant)
        self.class_names, self.label_field = data.class_names, data.label_field
        self._data = data
        self._kind, self._strength = kind, strength
        self._transform = EvalTransform(IMAGE_SIZE)

    def __len__(self) -> int:
        return len(self._data)

    def sample(self, sample_id: int) -> EvaluationSample:
        """Read a sample, and corrupt its image."""
        sample = self._data.sample(sample_id)
        with sample_errors(self._data.name, sample.key):
            square = self._transform(sample.image, np.random.default_rng(0))
        pixels = square.permute(1, 2, 0).numpy()
        stored = io.BytesIO()
        corrupted = corrupt(pixels, self._kind, self._strength, sample.key)
        Image.fromarray(corrupted).save(stored, "PNG", compress_level=1)
        return replace(sample, image=stored.getvalue())
