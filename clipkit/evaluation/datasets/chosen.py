"""Some of the samples of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from clipkit.evaluation.datasets.dataset import EvaluationDataset, EvaluationSample


@final
class ChosenSamples:
    """Samples of a data set that have an image and a caption, numbered from 0.

    Args:
        data: The data set.
        ids: Position of each sample in the data set.
        num_lacking: Number of samples that lack one of both, for the name.
    """

    def __init__(self, data: EvaluationDataset, ids: Sequence[int], num_lacking: int) -> None:
        self.name = data.name
        if num_lacking:
            self.name += f", without {num_lacking:,} samples that lack an image or a caption"
        self.modality, self.class_names = data.modality, data.class_names
        self._data, self._ids = data, ids

    def sample(self, sample_id: int) -> EvaluationSample:
        """Read one sample; see ``EvaluationDataset.sample``."""
        return self._data.sample(self._ids[sample_id])

    def without_file(self, sample_id: int) -> EvaluationSample:
        """Read one sample but its file; see ``EvaluationDataset.without_file``."""
        return self._data.without_file(self._ids[sample_id])
