"""Weights of CLAP's audio branch in the files of LAION's training code (``laion_clap``)."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from clipkit.errors import CheckpointError
from clipkit.models.files.state_dicts import read_state_dict

_LOG: Final = logging.getLogger(__name__)
FILE_SUFFIXES: Final = (".pt", ".pth", ".bin", ".safetensors")
_BRANCH: Final = "audio_branch."
_ENCODER: Final = "audio_model.audio_encoder."
_SPEC_SIZE: Final = 256
"""Height of the image that a spectrogram is folded to in the published models."""
_PUBLISHED: Final = (64, 4, 8)
"""Mel bands, size of a patch and patches along a window of the published models."""
_MASK: Final = re.compile(r"^layers\.(\d+)\.blocks\.\d+\.attn_mask$")
_RENAMED: Final = (
    (re.compile(r"^bn0\."), "batch_norm."),
    (re.compile(r"\.norm1\."), ".layernorm_before."),
    (re.compile(r"\.norm2\."), ".layernorm_after."),
    (re.compile(r"\.attn\.proj\."), ".attention.output.dense."),
    (re.compile(r"\.attn\.relative_position_"), ".attention.self.relative_position_"),
    (re.compile(r"\.mlp\.fc1\."), ".intermediate.dense."),
    (re.compile(r"\.mlp\.fc2\."), ".output.dense."),
)
_QKV: Final = re.compile(r"^(.+)\.attn\.qkv\.(weight|bias)$")
_PROJECTION: Final = {"audio_projection.0.": "linear1.", "audio_projection.2.": "linear2."}
_TABLE: Final = "layers.{}.blocks.0.attn.relative_position_bias_table"


def is_weights_file(model: object) -> bool:
    """Return whether a model is named by a file of weights, not by a folder or on the hub."""
    return isinstance(model, str) and model.endswith(FILE_SUFFIXES) and not Path(model).is_dir()


def read_audio_weights(path: str) -> dict[str, Tensor]:
    """Read the audio branch and its projection, under the names of the file without prefixes.

    Raises:
        CheckpointError: If the file cannot be read, or contains no audio branch of CLAP.
    """
    state = {name.removeprefix("module."): value for name, value in read_state_dict(path).items()}
    kept = {n: v for n, v in state.items() if n.startswith((_BRANCH, *_PROJECTION))}
    if not any(name.startswith(_BRANCH) for name in kept):
        raise CheckpointError(
            f"{path}: expected weights of laion_clap, with names such as "
            f"'{_BRANCH}patch_embed.proj.weight', got {', '.join(list(state)[:3]) or 'none'}; name "
            f"a folder for a model of transformers"
        )
    return kept


def architecture_of(weights: Mapping[str, Tensor], path: str) -> dict[str, Any]:
    """Return the configuration of ``ClapAudioConfig`` that shapes of weights determine.

    Args:
        weights: What ``read_audio_weights`` returns.
        path: Name of the file, for messages.

    Raises:
        CheckpointError: If a weight is missing or has an impossible shape.
    """
    own = {name.removeprefix(_BRANCH): value for name, value in weights.items()}
    try:
        width, _, patch, _ = own["patch_embed.proj.weight"].shape
        stages = 1 + max(int(n.split(".")[1]) for n in own if n.startswith("layers."))
        blocks = [{n.split(".")[3] for n in own if n.startswith(f"layers.{stage}.blocks.")}
                  for stage in range(stages)]  # fmt: skip
        heads = [int(own[_TABLE.format(stage)].shape[1]) for stage in range(stages)]
        window = (math.isqrt(own[_TABLE.format(0)].shape[0]) + 1) // 2
        num_mels = int(own["bn0.weight"].shape[0])
        return {
            "model_type": "clap_audio_model",
            "spec_size": _spec_size(own, (num_mels, int(patch), window), path),
            "num_mel_bins": num_mels,
            "patch_size": int(patch),
            "patch_stride": [int(patch), int(patch)],
            "patch_embeds_hidden_size": int(width),
            "hidden_size": int(width) * 2 ** (stages - 1),
            "depths": [len(numbers) for numbers in blocks],
            "num_attention_heads": heads,
            "window_size": window,
            "mlp_ratio": own["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / int(width),
            "projection_dim": int(own["audio_projection.0.weight"].shape[0]),
        }
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path}: expected the complete audio branch of laion_clap (HTSAT): "
            f"{type(error).__name__}: {error}"
        ) from error


def _spec_size(own: Mapping[str, Tensor], sizes: tuple[int, int, int], path: str) -> int:
    """Return the height of the image that a spectrogram is folded to, by the masks of windows.

    Args:
        own: Weights of the audio branch, by name.
        sizes: Mel bands, size of a patch and patches along a window.
        path: Name of the file, for messages.
    """
    _, patch, window = sizes
    for name, mask in own.items():
        if found := _MASK.match(name):  # each stage halves the number of patches
            return (math.isqrt(mask.shape[0]) * window * patch) << int(found.group(1))
    if sizes != _PUBLISHED:
        _LOG.warning(
            "%s: has no masks of windows (layers.0.blocks.1.attn_mask), which tell the size of its "
            "input, and is none of the published models; assuming spectrograms that are folded to "
            "%d pixels",
            path,
            _SPEC_SIZE,
        )
    return _SPEC_SIZE


def to_transformers_names(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return weights under the names of ``ClapAudioModelWithProjection``.

    Weights that it does not have are left out: those of the classes, of feature fusion and of the
    spectrogram.

    Args:
        weights: What ``read_audio_weights`` returns.
        wanted: Weights of the model, by name.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        for start, layer in _PROJECTION.items():
            if name.startswith(start):
                renamed[f"audio_projection.{layer}{name.removeprefix(start)}"] = value
        if not name.startswith(_BRANCH):
            continue
        own = name.removeprefix(_BRANCH)
        if match := _QKV.match(own):
            block, kind = match.groups()
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            for part, rows in parts:
                renamed[f"{_ENCODER}{block}.attention.self.{part}.{kind}"] = rows
            continue
        for pattern, replacement in _RENAMED:
            own = pattern.sub(replacement, own)
        renamed[f"{_ENCODER}{own}"] = value
    return {name: value.float() if value.is_floating_point() else value
            for name, value in renamed.items() if name in wanted}  # fmt: skip
