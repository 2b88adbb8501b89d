"""What a run's checkpoints hold besides Lightning's own, and whether one fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import CheckpointError
from clipkit.models import DualEncoder
from clipkit.models.checkpoints.encoder import PREFIXES, encoder_entry
from clipkit.models.files.state_dicts import mismatch

_TOKENIZER: Final = "clipkit.data.tokenizer_from_name"
_ENCODER: Final = PREFIXES["raw"]
AVERAGE: Final = PREFIXES["average"]
"""Before the names of averaged weights in a checkpoint's state_dict."""
PACE: Final = "pace"
"""In clipkit's entry: the samples of a step at the run's first start, and such steps so far."""


def take_out_averages(checkpoint: dict[str, Any]) -> None:
    """Move averaged weights from the state_dict to ``checkpoint["ema."]``, by their plain names.

    Args:
        checkpoint: What Lightning loaded; changed in place.
    """
    state = checkpoint.get("state_dict", {})
    names = [name for name in state if name.startswith(AVERAGE)]
    checkpoint[AVERAGE] = {name.removeprefix(AVERAGE): state.pop(name) for name in names}


def module_key(name: str) -> str:
    """The name in the module's state_dict of a weight in a checkpoint, or of what it averages.

    Examples:
        >>> module_key("ema.image_tower.proj")
        'encoder.image_tower.proj'
    """
    return _ENCODER + name.removeprefix(AVERAGE) if name.startswith(AVERAGE) else name


def run_entry(
    encoder: DualEncoder, tokenizer: Tokenizer | None, config: Mapping[str, Any]
) -> dict[str, Any]:
    """What a checkpoint holds for clipkit itself: how to build the encoder, and the run's options.

    Args:
        encoder: What is trained.
        tokenizer: What its captions were tokenized with; None where nobody knows.
        config: The resolved configuration.

    Returns:
        Plain types; see ``clipkit.models.checkpoints.encoder.encoder_entry``.
    """
    entry = encoder_entry(encoder)
    if tokenizer is not None:
        init_args = {"name": tokenizer.name, "context_length": tokenizer.context_length}
        entry["tokenizer"] = {"class_path": _TOKENIZER, "init_args": init_args}
    return {**entry, "config": dict(config)}


def check_architecture(expected: Mapping[str, Tensor], checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights do not fit, before torch lists every name.

    Args:
        expected: The module's own weights.
        checkpoint: What Lightning loaded.

    Raises:
        CheckpointError: Naming the first parameters that do not fit.
    """
    given = checkpoint.get("state_dict")
    if not isinstance(given, Mapping):
        raise CheckpointError("ckpt_path: expected a checkpoint of clipkit, got no state_dict")
    if not any(name.startswith(_ENCODER) for name in given):
        raise CheckpointError(
            "ckpt_path: expected a checkpoint of clipkit fit, got weights without an encoder; "
            "to start from another model's weights, give them to --model.encoder"
        )
    problem = mismatch(_tensors(expected), _tensors(given))
    if problem:
        raise CheckpointError(f"ckpt_path: {problem}; the configuration must build the same model")


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights alone; what a loss remembers beside them it checks itself."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
