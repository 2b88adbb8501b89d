"""Between two models of one architecture: WiSE-FT."""

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
    """The model whose weights are ``(1 - alpha) * start + alpha * end``.

    WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903): between a model and its own fine-tuned
    successor there often are weights that keep the generality of the one and most of the gain of
    the other. Running means and variances are interpolated like weights, counters are the end's. A
    label head that ``start`` lacks is the end's.

    Args:
        start: The model before fine-tuning.
        end: The model after it.
        alpha: 0 gives the start, 1 the end.

    Returns:
        A new encoder in evaluation mode, on the devices of ``end``'s weights.

    Raises:
        ConfigError: If ``alpha`` is not within 0 to 1.
        CheckpointError: If the two are of different architectures, or their label heads name a
            class differently.

    Examples:
        >>> half = interpolate(encoder, encoder, 0.5)
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha: expected 0 to 1, got {alpha}")
    _check_classes(start.label_head, end.label_head)
    mixed = build_encoder(describe(end), "interpolate")
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
    """The weights of :func:`interpolate`, by name."""
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
