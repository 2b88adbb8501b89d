"""Interpolate the weights of two models of one architecture (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clipkit.class_names import conflict
from clipkit.errors import CheckpointError, ConfigError
from clipkit.models.checkpoints.description import build_encoder, describe
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.files.state_dicts import mismatch
from clipkit.models.heads.label_head import LabelHead

_HEAD = "label_head."


def interpolate(start: DualEncoder, end: DualEncoder, alpha: float) -> DualEncoder:
    """Return a model with the weights ``(1 - alpha) * start + alpha * end``.

    WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903): between a model and its fine-tuned version
    there are often weights that keep the generality of the first and most of the gain of the
    second. Running means and variances are interpolated like weights; counters, and a label head
    that ``start`` lacks, are copied from ``end``.

    Args:
        start: Model before fine-tuning.
        end: Model after fine-tuning.
        alpha: Weight of ``end``: 0 returns ``start``, 1 returns ``end``.

    Returns:
        A new encoder in evaluation mode, on the devices of the weights of ``end``.

    Raises:
        ConfigError: If ``alpha`` is not within 0 to 1.
        CheckpointError: If the architectures differ, or the label heads name a class differently.

    Examples:
        >>> half = interpolate(encoder, encoder, 0.5)
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha: expected 0 to 1, got {alpha}")
    _check_classes(start.label_head, end.label_head)
    mixed = build_encoder(describe(end), "interpolate")
    assert isinstance(mixed, DualEncoder), "a description builds the kind that was described"
    mixed.load_state_dict(mixed_states(start.state_dict(), end.state_dict(), alpha))
    return mixed.to(end.log_logit_scale.device).eval()


def _check_classes(start: LabelHead | None, end: LabelHead | None) -> None:
    if start is None or end is None:
        return
    at = conflict(start.class_names, end.class_names)
    if at is not None:
        raise CheckpointError(
            f"interpolate: class {at} is {start.class_names[at]!r} for the label head of start and "
            f"{end.class_names[at]!r} for that of end; mix models of the same classes"
        )


@torch.no_grad()
def mixed_states(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Return the weights of ``interpolate`` by name."""
    has_head = any(name.startswith(_HEAD) for name in start)
    shared = {name: value for name, value in end.items() if has_head or not name.startswith(_HEAD)}
    needed = {name: value for name, value in start.items() if name in end or _HEAD not in name}
    if problem := mismatch(shared, needed):
        raise CheckpointError(f"interpolate: start and end differ: {problem}")
    return {
        name: torch.lerp(needed[name].to(value), value, alpha)
        if name in shared and value.is_floating_point()
        else value
        for name, value in end.items()
    }
