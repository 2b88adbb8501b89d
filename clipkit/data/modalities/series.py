"""Series of numbers, such as those of sensors, as a modality of samples."""

from __future__ import annotations

from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.data.modalities.field import ModalityField, OnError
from clipkit.data.samples.arrays import read_array
from clipkit.data.shards.members import read_value
from clipkit.errors import ConfigError, SampleError, check_at_least, check_choice

_NUM_AXES = 2


@final
class Series(ModalityField):
    """Series of numbers ``[num_features, num_frames]``: ``batch.modalities["series"]``.

    For a ``TcnTower(input_shape=(num_features, num_frames))``. A longer series gives a random
    stretch in training and its centre in validation; a shorter one is a fault, because padding
    would be read as measured values. Values are not normalised: the tower does that.

    Args:
        num_features: Number of values per frame, such as sensors or axes.
        num_frames: Number of frames that the tower reads.
        field: A NumPy member ("npy"), or a field of a JSON member ("json:current") as a table with
            lists gives it: a list of frames for each feature, or one list for a single feature.
        name: Name of the modality: that of its tower.
        crop: Stretch of a longer series: "random", "centre" or "start"; validation uses "centre" in
            place of "random". Series that are fused frame by frame need one of the other two,
            because random stretches are drawn for each series.
        on_error: What a series that cannot be used does: "skip" leaves out the sample, "absent"
            keeps it without its series. Either is logged, and counts for ``faults``.

    Raises:
        ConfigError: If an option cannot be used.

    Examples:
        >>> series = Series(num_features=1, num_frames=3, field="json:current", crop="start")
        >>> series.read(b'{"current": [0.5, 1, 2, 4]}', np.random.default_rng(0))
        tensor([[0.5000, 1.0000, 2.0000]])
    """

    def __init__(
        self,
        num_features: int,
        num_frames: int,
        field: str = "npy",
        name: str = "series",
        crop: Literal["random", "centre", "start"] = "random",
        on_error: OnError = "skip",
    ) -> None:
        member, _, key = field.partition(":")
        if not member or (":" in field) != (bool(key) and member.endswith("json")):
            raise ConfigError(
                f"Series.field: expected a NumPy member such as npy, or a field of a JSON member "
                f"such as json:current, got {field!r}"
            )
        check_at_least("Series.num_features", num_features, 1)
        check_at_least("Series.num_frames", num_frames, 1)
        check_choice("Series.crop", crop, ("random", "centre", "start"))
        super().__init__(name, [member], on_error)
        self.num_features, self.num_frames = num_features, num_frames
        self.field, self.crop = field, crop

    def read(
        self, data: bytes, rng: np.random.Generator
    ) -> Float[Tensor, "num_features num_frames"]:
        """See ``ModalityField.read``."""
        values = self._array(data)
        longest = values.shape[-1] if values.ndim == _NUM_AXES else 0
        if values.shape[:1] != (self.num_features,) or longest < self.num_frames:
            raise SampleError(
                f"expected {self.num_features} features of at least {self.num_frames} frames, "
                f"[features, frames], got {list(values.shape)}"
            )
        spare = longest - self.num_frames
        start = {"centre": spare // 2, "start": 0}.get(self.crop)
        if start is None:
            start = int(rng.integers(spare + 1))
        stretch = values[:, start : start + self.num_frames]
        with np.errstate(over="ignore"):  # infinity is refused with its reason
            return torch.from_numpy(np.array(stretch, dtype=np.float32))

    def empty(self) -> Float[Tensor, "num_features num_frames"]:
        """See ``ModalityField.empty``."""
        return torch.zeros(self.num_features, self.num_frames)

    def for_evaluation(self) -> Series:
        """See ``SampleField.for_evaluation``."""
        crop = "centre" if self.crop == "random" else self.crop
        return Series(
            self.num_features, self.num_frames, self.field, self.name, crop, self.on_error
        )

    def _array(self, data: bytes) -> np.ndarray:
        """Return the values with a first axis of features, also of a single one."""
        (member,) = self.members
        if ":" not in self.field:
            values = read_array(data)
        else:
            listed: Any = read_value({member: data}, self.field)
            if listed is None:
                raise SampleError(f"no field {self.field}")
            try:
                values = np.asarray(listed)
            except ValueError:  # lists of different lengths
                raise SampleError(f"{self.field}: expected lists of the same length") from None
            if values.dtype.kind not in "iuf":
                raise SampleError(f"{self.field}: expected lists of numbers, got {listed!r:.60}")
        return values[None] if values.ndim == 1 else values
