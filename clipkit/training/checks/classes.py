"""Adopt class names from the data, and compare those of data, label head and checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from clipkit.class_names import conflict, listed_names
from clipkit.errors import CheckpointError, ConfigError
from clipkit.models import LabelHead, PrototypeLabelHead
from clipkit.models.checkpoints.encoder import KEY

_LOG: Final = logging.getLogger(__name__)


def heads_of_labels(heads: Mapping[str, LabelHead], read: Collection[str]) -> list[LabelHead]:
    """Return the label heads that have the classes of the data.

    Args:
        heads: Label heads by the name of the modality that they score.
        read: Names of those that a term of the objective reads; empty if none is known.

    Returns:
        The heads that are read; all of them if none is known to be.
    """
    return [head for name, head in heads.items() if name in read or not read]


def adopt_class_names(head: LabelHead, names: Sequence[str]) -> None:
    """Set the class names of a label head to those of the data, or check that they agree."""
    if not any(names):
        if any(head.class_names):
            _LOG.warning(
                "model.encoder: the label head has class names (%s), the data have none: class "
                "numbers of the data are used as those of the head",
                listed_names(head.class_names),
            )
        return
    if len(names) > head.num_classes:
        raise ConfigError(
            f"model.encoder.label_head: expected num_classes of at least {len(names)}, as the data "
            f"name classes 0 to {len(names) - 1} ({listed_names(names)}), got {head.num_classes}"
        )
    _check_names(head, names)
    own = [*head.class_names, *[""] * (head.num_classes - len(head.class_names))]
    given = [*names, *[""] * (head.num_classes - len(names))]
    # The names of the data have priority: texts of the head may differ.
    head.class_names = tuple(b or a for a, b in zip(own, given, strict=True))


def check_class_names(
    head: LabelHead, checkpoint: Mapping[str, Any], modality: str = "image"
) -> None:
    """Compare the class names of a checkpoint with those of the head that loads it.

    Args:
        head: Label head that loads the checkpoint.
        checkpoint: A training checkpoint.
        modality: Name of the modality that the head scores.
    """
    stored = _stored_names(checkpoint, modality)
    if not stored:
        if any(head.class_names):
            _LOG.warning(
                "ckpt_path: the checkpoint has no class names (clipkit wrote no names into "
                "earlier ones); its numbers are used as those of the data (%s)",
                listed_names(head.class_names),
            )
        return
    at = conflict(head.class_names, stored)
    if at is not None:
        raise CheckpointError(
            f"ckpt_path: class {at} is {stored[at]!r} in the checkpoint and "
            f"{head.class_names[at]!r} in the data; number the classes as in training: set "
            f"data.train to a folder or table with all its classes, or a table with their numbers"
        )
    if not any(head.class_names) and len(stored) == head.num_classes:
        head.class_names = tuple(stored)


def _check_names(head: LabelHead, names: Sequence[str]) -> None:
    """Refuse different names of a number; texts of the head may differ."""
    for number, (given, own) in enumerate(zip(names, head.class_names, strict=False)):
        if not given or not own or given == own:
            continue
        is_renamed = given not in head.class_names and own not in names
        if not (is_renamed and isinstance(head, PrototypeLabelHead)):
            raise ConfigError(
                f"model.encoder.label_head: class {number} is {own!r} for the label head and "
                f"{given!r} in the data; use the same numbers, or start with a new head"
            )
        text = "model.encoder.label_head: class %d is %r in its texts and %r in the data"
        _LOG.warning(text, number, own, given)


def _stored_names(checkpoint: Mapping[str, Any], modality: str) -> list[str]:
    encoder: Any = checkpoint
    for name in (KEY, "encoder", "init_args"):
        encoder = encoder.get(name) if isinstance(encoder, Mapping) else None
    if not isinstance(encoder, Mapping):
        return []
    heads = encoder.get("label_heads", {"image": encoder.get("label_head")})
    part = heads.get(modality) if isinstance(heads, Mapping) else None
    if not isinstance(part, Mapping):
        return []
    arguments = part.get("init_args")
    inside = arguments.get("class_names") if isinstance(arguments, Mapping) else None
    names = part.get("class_names", inside)
    return [str(name) for name in names] if isinstance(names, list) else []
