"""Contents of checkpoints in addition to Lightning's, and checks that they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import CheckpointError
from clipkit.models import TowerEncoder
from clipkit.models.checkpoints.encoder import PREFIXES, encoder_entry
from clipkit.models.files.state_dicts import mismatch

_TOKENIZER: Final = "clipkit.data.tokenizer_from_name"
_ENCODER: Final = PREFIXES["raw"]
AVERAGE: Final = PREFIXES["average"]
"""Prefix of averaged weights in a checkpoint's state_dict."""
PACE: Final = "pace"
"""Key of the samples per step at the first launch, and the number of such steps so far."""


def take_out_averages(checkpoint: dict[str, Any]) -> None:
    """Move averaged weights from the state_dict to ``checkpoint["ema."]``, without prefix."""
    state = checkpoint.get("state_dict", {})
    names = [name for name in state if name.startswith(AVERAGE)]
    checkpoint[AVERAGE] = {name.removeprefix(AVERAGE): state.pop(name) for name in names}


def module_key(name: str) -> str:
    """Return the name in the module's state_dict of a weight, or of an average's weight.

    Examples:
        >>> module_key("ema.image_tower.proj")
        'encoder.image_tower.proj'
    """
    return _ENCODER + name.removeprefix(AVERAGE) if name.startswith(AVERAGE) else name


def run_entry(
    encoder: TowerEncoder, tokenizer: Tokenizer | None, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return clipkit's entry of a checkpoint: description of the encoder, options of the run."""
    entry = encoder_entry(encoder)
    if tokenizer is not None:
        init_args = {"name": tokenizer.name, "context_length": tokenizer.context_length}
        entry["tokenizer"] = {"class_path": _TOKENIZER, "init_args": init_args}
    return {**entry, "config": dict(config)}


def check_architecture(expected: Mapping[str, Tensor], checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights do not fit, before torch lists every name."""
    given = checkpoint.get("state_dict")
    if not isinstance(given, Mapping):
        raise CheckpointError("ckpt_path: expected a checkpoint of clipkit, got no state_dict")
    if not any(name.startswith(_ENCODER) for name in given):
        raise CheckpointError(
            "ckpt_path: expected a checkpoint of clipkit fit, got weights without an encoder; "
            "to start from another model's weights, set --model.encoder"
        )
    problem = mismatch(_tensors(expected), _tensors(given))
    if problem:
        raise CheckpointError(f"ckpt_path: {problem}; the configuration must build the same model")


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights only; a loss checks its other state."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
