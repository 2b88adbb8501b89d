"""An order over the kept samples of masks, with the ids that samples have without a mask."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.order.base import SampleIds, SampleOrder
from clipkit.data.shards.masks.kept_samples import KeptSamples


@final
class MaskedOrder(SampleOrder):
    """Maps another order, over the numbers of the kept samples, to ids.

    It is the order that a copy of the data without the removed samples would have.

    Args:
        order: Order over the numbers of the kept samples.
        kept: Ids of the kept samples.
    """

    def __init__(self, order: SampleOrder, kept: KeptSamples) -> None:
        self._order = order
        self._kept = kept
        self.num_samples = order.num_samples
        self.is_endless = order.is_endless
        self.replaces = order.replaces

    def samples_at(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> SampleIds:
        """Return the kept samples at some positions."""
        return self._with_ids(self._order.samples_at(epoch, positions))

    def replacement(self, epoch: int, position: int, attempt: int) -> SampleIds | None:
        """Return another kept sample."""
        substitute = self._order.replacement(epoch, position, attempt)
        return None if substitute is None else self._with_ids(substitute)

    @property
    def lookahead(self) -> int:
        """Return the number of positions between windows."""
        return self._order.lookahead

    def source_counts(self, epoch: int, position: int) -> dict[str, int]:
        """Count the samples of each mixed source before a position."""
        return self._order.source_counts(epoch, position)

    def to_state(self) -> dict[str, Any]:
        """Return the state of the other order."""
        return self._order.to_state()

    def _with_ids(self, samples: SampleIds) -> SampleIds:
        return SampleIds(self._kept.ids(samples.ids), samples.passes)
