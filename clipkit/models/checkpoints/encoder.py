"""Load encoders from training checkpoints; save them in files that open_clip and others read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from torch import Tensor

from clipkit.atomic_files import write_json
from clipkit.errors import CheckpointError
from clipkit.hub import hub_file, is_hub_name, pinned
from clipkit.models.checkpoints.description import build_encoder, describe
from clipkit.models.checkpoints.kinds import as_dual, as_multimodal, loader_name
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.files.sharded import META, is_sharded, read_checkpoint
from clipkit.models.files.state_dicts import load_exactly, read_file, write_state_dict
from clipkit.models.files.structure import is_structure_only
from clipkit.models.joint.joint_encoder import JointEncoder
from clipkit.models.lora import add_lora_of_entry, lora_entry, merge_lora
from clipkit.models.multimodal_encoder import MultimodalEncoder
from clipkit.models.onnx_towers import FACTS_FILE, load_onnx
from clipkit.models.open_clip.config import CONFIG_FILE_NAME
from clipkit.models.open_clip.encoder import from_open_clip
from clipkit.models.open_clip.export import open_clip_config, open_clip_state
from clipkit.models.open_clip.weights import WEIGHTS_FILES
from clipkit.models.tower_encoder import TowerEncoder

KEY: Final = "clipkit"
"""Key of clipkit's entry in a checkpoint."""

PREFIXES: Final = {"average": "ema.", "raw": "encoder."}
"""Prefixes of names in a checkpoint: the trained weights, and their moving average."""

FORMAT_VERSION: Final = 1
DESCRIPTION_FILE_NAME: Final = "clipkit_encoder.json"
OPEN_CLIP_WEIGHTS_NAME: Final = WEIGHTS_FILES[0]
ENCODER_WEIGHTS_NAME: Final = "model.safetensors"


def encoder_entry(encoder: TowerEncoder) -> dict[str, Any]:
    """Return what a training checkpoint stores about its encoder under ``KEY``."""
    entry = {"format_version": FORMAT_VERSION, "encoder": describe(encoder)}
    adapters = lora_entry(encoder)
    return {**entry, "lora": adapters} if adapters else entry


class LoadedEncoder(NamedTuple):
    """An encoder, and which weights of the checkpoint it has.

    Args:
        encoder: Encoder in evaluation mode.
        weights: "average" or "raw"; None if the source contains only one set of weights (an
            export, a model of open_clip).
    """

    encoder: DualEncoder
    weights: str | None


class LoadedTowers(NamedTuple):
    """An encoder of any towers, and which weights of the checkpoint it has.

    Args:
        encoder: Encoder in evaluation mode.
        weights: As for ``LoadedEncoder``.
    """

    encoder: TowerEncoder
    weights: str | None


def load_encoder(path: Path | str, prefix: str | None = None) -> DualEncoder:
    """Load the encoder of a training checkpoint, or of a folder that ``clipkit export`` wrote.

    Needs neither Lightning nor, but for a model of the hub that is not in its cache, the network,
    and unpickles nothing but tensors. Adapters are merged into the weights.

    Args:
        path: A checkpoint of ``clipkit fit``, one file or in parts, a folder in the format
            "open_clip" or "safetensors" of the export, or ``hf-hub:OWNER/NAME[@REVISION]`` of a
            repository with the same files. A folder of an "onnx" format can be evaluated only.
        prefix: Prefix of the weights' names: "ema." for the moving average, which validation and
            ``best.ckpt`` of a run with ``ExponentialMovingAverage`` use, or "encoder." for the
            trained weights. None for the average if there is one.

    Returns:
        The encoder in evaluation mode, on the CPU; of one with more towers, image and text tower.

    Raises:
        CheckpointError: If the file is not such a checkpoint, is incomplete or of a newer version,
            has no such weights, or its weights do not fit its own description.
        ConfigError: If a model of the hub cannot be found or downloaded.

    Examples:
        >>> save_encoder(encoder, "export")
        >>> encoder = load_encoder("export")
    """
    return read_encoder(path, prefix).encoder


def load_multimodal_encoder(path: Path | str, prefix: str | None = None) -> MultimodalEncoder:
    """Load an encoder of any number of towers; arguments and errors as for ``load_encoder``.

    Returns:
        The encoder in evaluation mode, on the CPU, with all of its towers; of one with a fusion,
        what it is without the fusion.

    Examples:
        >>> save_encoder(MultimodalEncoder(encoder.towers), "export")
        >>> list(load_multimodal_encoder("export").towers)
        ['image', 'text']
    """
    return as_multimodal(read_towers(path, prefix).encoder, path)


def load_joint_encoder(path: Path | str, prefix: str | None = None) -> JointEncoder:
    """Load an encoder with a fusion; arguments and errors as for ``load_encoder``.

    Returns:
        The encoder in evaluation mode, on the CPU.

    Examples:
        >>> fusion = CrossAttentionFusion(width=16, depth=1, num_heads=2)
        >>> save_encoder(JointEncoder(encoder.towers, fusion), "export")
        >>> load_joint_encoder("export").fused_names
        ('text', 'image')
    """
    encoder, _ = read_towers(path, prefix)
    if not isinstance(encoder, JointEncoder):
        raise CheckpointError(
            f"{path}: expected a JointEncoder, got {type(encoder).__name__}; load it with "
            f"{loader_name(encoder)}, and add a fusion with clipkit.models.with_fusion"
        )
    return encoder


def read_encoder(path: Path | str, prefix: str | None = None) -> LoadedEncoder:
    """Load an encoder as ``load_encoder`` does, and report which weights it has."""
    encoder, weights = read_towers(path, prefix)
    return LoadedEncoder(as_dual(encoder, path), weights)


def read_towers(path: Path | str, prefix: str | None = None) -> LoadedTowers:
    """Load an encoder with all of its towers, and report which weights it has."""
    on_hub = is_hub_name(path)
    if on_hub or (Path(path).is_dir() and not is_sharded(Path(path))):
        if prefix == PREFIXES["average"]:
            raise CheckpointError(
                f"{path}: expected a checkpoint with an average of the weights, got an export, "
                f"which has one set of weights; omit --weights"
            )
        return LoadedTowers(_load_hub(str(path)) if on_hub else _load_folder(Path(path)), None)
    path, weights = Path(path), None
    if is_structure_only():
        encoder = _build(read_file(path / META if is_sharded(path) else path, mapped=True), path)
    else:
        checkpoint = read_checkpoint(path)
        encoder = _build(checkpoint, path)
        weights, own = _chosen_weights(checkpoint.get("state_dict", {}), prefix, path)
        load_exactly(encoder, own, str(path))
    for tower in encoder.towers.values():
        merge_lora(tower)
    return LoadedTowers(encoder.eval(), weights)


def _build(checkpoint: Any, path: Path) -> TowerEncoder:
    """Build the encoder that a checkpoint describes, with adapters, randomly initialised."""
    entry = _entry(checkpoint, str(path))
    encoder = build_encoder(entry["encoder"], str(path))
    if "lora" in entry:
        add_lora_of_entry(encoder, entry["lora"], str(path))
    return encoder


def _chosen_weights(
    state: Mapping[str, Any], prefix: str | None, path: Path
) -> tuple[str | None, dict[str, Any]]:
    """Return the kind of the weights, and the weights by name without the prefix."""
    candidates = list(PREFIXES.values()) if prefix is None else [prefix]
    for candidate in candidates:
        own = {k.removeprefix(candidate): v for k, v in state.items() if k.startswith(candidate)}
        if own:
            kinds = {value: kind for kind, value in PREFIXES.items()}
            return kinds.get(candidate), own
    if prefix == PREFIXES["average"]:
        raise CheckpointError(
            f"{path}: has no average of the weights; use the raw ones (--weights raw), or train "
            f"with the callback ExponentialMovingAverage"
        )
    raise CheckpointError(f"{path}: has no weights whose names begin with {candidates[-1]!r}")


def _entry(checkpoint: Any, where: str) -> dict[str, Any]:
    entry = checkpoint.get(KEY) if isinstance(checkpoint, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(entry.get("encoder"), Mapping):
        raise CheckpointError(
            f"{where}: expected a checkpoint of clipkit fit, but it does not describe an encoder; "
            f"for weights of open_clip specify the architecture, too: "
            f"from_open_clip(NAME, pretrained=PATH)"
        )
    version = entry.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: its format is version {version}, this clipkit reads up to "
            f"{FORMAT_VERSION}; install a newer clipkit"
        )
    return dict(entry)


def save_open_clip(encoder: DualEncoder, path: Path | str) -> None:
    """Write what ``open_clip.create_model(name, pretrained=path)`` reads.

    Next to the weights, ``open_clip_config.json`` is written with the preprocessing, so that
    ``open_clip.create_model("local-dir:FOLDER")`` needs no name. A label head is left out.

    Args:
        encoder: Encoder of two open_clip towers.
        path: File of the weights: ``.safetensors``, or any other suffix for ``torch.save``.

    Raises:
        ConfigError: If no configuration of open_clip can describe the encoder.
    """
    path = Path(path)
    config, state = open_clip_config(encoder), open_clip_state(encoder)
    write_state_dict(path, state)
    write_json(path.parent / CONFIG_FILE_NAME, config)


def save_encoder(encoder: TowerEncoder, folder: Path | str) -> None:
    """Write any encoder as ``model.safetensors`` with its description; ``load_encoder`` reads it.

    Args:
        encoder: Any encoder, label head included.
        folder: Folder of both files.
    """
    folder = Path(folder)
    write_state_dict(folder / ENCODER_WEIGHTS_NAME, encoder.state_dict())
    write_json(folder / DESCRIPTION_FILE_NAME, encoder_entry(encoder))


def _load_hub(name: str) -> TowerEncoder:
    """Load a model of the hub; all of its files are of one commit."""
    description = hub_file(name, DESCRIPTION_FILE_NAME, CONFIG_FILE_NAME)
    if description.name == CONFIG_FILE_NAME:
        return from_open_clip(pinned(name, description)).eval()
    if is_structure_only():
        return _load_folder(description.parent)
    return _load_folder(hub_file(pinned(name, description), ENCODER_WEIGHTS_NAME).parent)


def _load_folder(folder: Path) -> TowerEncoder:
    if (folder / CONFIG_FILE_NAME).is_file():
        paths = [folder / name for name in WEIGHTS_FILES]
        path = next((path for path in paths if path.is_file()), paths[0])
        return from_open_clip(str(folder), str(path)).eval()
    if (folder / FACTS_FILE).is_file():
        return load_onnx(folder)
    description = folder / DESCRIPTION_FILE_NAME
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder}: expected a folder that clipkit wrote, with a readable "
            f"{DESCRIPTION_FILE_NAME}: {error}"
        ) from error
    entry = _entry({KEY: content}, str(description))
    encoder = build_encoder(entry["encoder"], str(description))
    if not is_structure_only():
        weights: dict[str, Tensor] = read_file(folder / ENCODER_WEIGHTS_NAME)
        load_exactly(encoder, weights, str(folder / ENCODER_WEIGHTS_NAME))
    return encoder.eval()
