"""Check that stored embeddings of a teacher have the same size, as a batch requires."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, final

from clipkit.errors import SampleError, ShardError
from clipkit.types import Sample

TRIED_SAMPLES: Final = 8
"""Number of samples whose most frequent sizes are expected."""
_NAMES: Final = {"image": "image", "text": "caption"}
"""Fields of ``TeacherSample`` with embeddings, and their names in messages."""


@final
class EmbeddingDims:
    """Compares the embeddings of every sample with those of the data set's first samples.

    The sizes of most of the first samples are expected of all. They depend only on the data, so
    every rank and worker refuses the same samples. Nothing is read if samples have no embeddings.

    Args:
        make: Creates the sample of an id; raises ``SampleError`` or ``ShardError``.
        first_ids: Ids of the first samples of the data set, at most ``TRIED_SAMPLES``.
    """

    def __init__(self, make: Callable[[int], Sample], first_ids: Sequence[int]) -> None:
        self._make = make
        self._first_ids = first_ids
        self._dims: dict[str, int] | None = None

    def check(self, sample: Sample) -> None:
        """Compare the sizes of a sample's embeddings with those expected."""
        if sample.teacher is None or (sample.teacher.image is None and sample.teacher.text is None):
            return
        if self._dims is None:
            self._dims = self._find()
        for name, what in _NAMES.items():
            embedding = getattr(sample.teacher, name)
            expected = self._dims.get(name)
            if embedding is not None and expected not in (None, len(embedding)):
                raise SampleError(
                    f"teacher's embedding of the {what}: expected {expected} numbers, as most of "
                    f"the first samples have, got {len(embedding)}"
                )

    def _find(self) -> dict[str, int]:
        found: dict[str, Counter[int]] = {name: Counter() for name in _NAMES}
        for sample_id in self._first_ids:
            try:
                sample = self._make(sample_id)
            except (SampleError, ShardError):
                continue
            for name, counter in found.items():
                if (embedding := getattr(sample.teacher, name, None)) is not None:
                    counter[len(embedding)] += 1
        return {name: dims.most_common(1)[0][0] for name, dims in found.items() if dims}
