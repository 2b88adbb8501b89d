"""Load an encoder by the name of a checkpoint, an export or a model of open_clip."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from clipkit.errors import CheckpointError, ConfigError, first_line
from clipkit.hub import is_hub_name
from clipkit.models.checkpoints.encoder import (
    PREFIXES,
    LoadedEncoder,
    LoadedTowers,
    read_towers,
)
from clipkit.models.checkpoints.kinds import as_dual
from clipkit.models.open_clip.encoder import from_open_clip

_FILE_ENDINGS: Final = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


def load_model(name: Path | str, device: str = "auto", weights: str | None = None) -> LoadedEncoder:
    """Load an encoder in evaluation mode, as ``--model`` of the command line does.

    Args:
        name: Checkpoint of ``clipkit fit``, folder of an export, ``hf-hub:OWNER/NAME[@REVISION]``,
            or ``NAME[@PRETRAINED]`` of open_clip, where ``NAME`` may be the path of a JSON
            configuration.
        device: A torch device, or "auto" for a GPU if there is one.
        weights: "average" for the moving average of a checkpoint's weights, "raw" for its trained
            weights; None for the average if there is one.

    Returns:
        The encoder, and which weights of the checkpoint it has.

    Raises:
        CheckpointError: If the file is missing, is no checkpoint, or does not have such weights.
        ConfigError: If open_clip or the hub does not have the model, or the device cannot be used.

    Examples:
        >>> save_encoder(encoder, "export")
        >>> load_model("export", "cpu").weights is None
        True
    """
    encoder, own = load_towers(name, device, weights)
    return LoadedEncoder(as_dual(encoder, name), own)


def load_towers(name: Path | str, device: str = "auto", weights: str | None = None) -> LoadedTowers:
    """Load an encoder with all of its towers; arguments and errors as for ``load_model``.

    Returns:
        The encoder, a ``MultimodalEncoder`` if it has more than two towers, and which weights of
        the checkpoint it has.

    Examples:
        >>> save_encoder(MultimodalEncoder(encoder.towers), "export")
        >>> list(load_towers("export", "cpu").encoder.towers)
        ['image', 'text']
    """
    name, target = str(name), _device(device)
    if is_read_by_path(name):
        loaded = read_towers(name, None if weights is None else PREFIXES[weights])
        return LoadedTowers(loaded.encoder.to(target).eval(), loaded.weights)
    if name.endswith(_FILE_ENDINGS) and "@" not in name:
        raise CheckpointError(f"{name}: no such file; expected a checkpoint of clipkit")
    if weights == "average":
        raise ConfigError(
            f"--weights: expected a checkpoint with an average of the weights, got {name}, a model "
            f"of open_clip; omit --weights"
        )
    architecture, _, pretrained = name.partition("@")
    return LoadedTowers(from_open_clip(architecture, pretrained or None).to(target).eval(), None)


def is_read_by_path(name: str) -> bool:
    """Return whether a model is read by ``load_encoder``, not built from an open_clip name."""
    return is_hub_name(name) or (Path(name).exists() and not name.endswith(".json"))


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device: {name!r} cannot be used: {first_line(error)}") from error
    return name
