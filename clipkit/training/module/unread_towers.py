"""Which towers an objective reads; the others are locked."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from clipkit.losses import CombinedLoss
from clipkit.models import JointEncoder, TowerEncoder
from clipkit.models.towers.freezing import is_locked, lock
from clipkit.types import Batch

_LOG: Final = logging.getLogger(__name__)


def lock_unread_towers(encoder: TowerEncoder, loss: CombinedLoss) -> None:
    """Lock every tower that neither a term with a weight nor a label head trains.

    Its gradients would be zero, and weight decay would change it all the same.
    """
    read = loss.read_modalities | _read_by_fusion(encoder, loss)
    if any(head.teaches_text_tower for head in encoder.heads.values()):
        read = read | {"text"}
    for name, tower in encoder.towers.items():
        if name in read or is_locked(tower):
            continue
        lock(tower)
        if name != "text":  # captions are left out on purpose if labels alone are learned
            _LOG.warning(
                "model.loss: no term with a weight reads the %s_tower, which is therefore locked; "
                "a term names what it reads in its modalities",
                name,
            )


def reads_captions(encoder: TowerEncoder, loss: CombinedLoss) -> bool:
    """Return whether a term with a weight needs the text tower, also by a fusion of texts."""
    return loss.reads_captions or "text" in _read_by_fusion(encoder, loss)


def without_unread(batch: Batch, encoder: TowerEncoder, loss: CombinedLoss) -> Batch:
    """Return the batch, without captions if the objective uses none."""
    if reads_captions(encoder, loss):
        return batch
    negatives = None if batch.negatives is None else replace(batch.negatives, tokens=None)
    return replace(batch, tokens=None, negatives=negatives)


def _read_by_fusion(encoder: TowerEncoder, loss: CombinedLoss) -> set[str]:
    if not isinstance(encoder, JointEncoder) or not loss.reads_fused:
        return set()
    return {*encoder.fused_names}
