"""Towers that run the ONNX graphs of an export, for evaluation and embedding on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, Self, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import CheckpointError, ConfigError, first_line
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.towers.base import ImageTower, TextTower, Tower, as_triple, check_length

IMAGE_FILE: Final = "image.onnx"
TEXT_FILE: Final = "text.onnx"
FACTS_FILE: Final = "preprocessing.json"


def load_onnx(folder: Path) -> DualEncoder:
    """Load an ONNX export as an encoder that can be measured, but neither trained nor exported.

    Raises:
        CheckpointError: If a file is missing or damaged.
        ConfigError: If onnxruntime is not installed.
    """
    path = folder / FACTS_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        towers = _OnnxImageTower(folder, facts), _OnnxTextTower(folder, facts)
        scale, bias = facts["logit_scale"], facts["logit_bias"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise CheckpointError(
            f"{path}: expected the file that clipkit export wrote: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    return DualEncoder(*towers, logit_scale=scale, logit_bias=bias, max_logit_scale=None).eval()


class _Graph(Tower):
    """A tower without parameters, which can be neither trained nor built again."""

    def config(self) -> dict[str, Any]:
        """Refuse: a graph cannot be built again."""
        _refuse()

    def layer_groups(self) -> list[list[str]]:
        """Return no group: a graph has no parameters."""
        return []

    def train(self, mode: bool = True) -> Self:
        """Refuse training mode."""
        if mode:
            _refuse()
        return super().train(mode)


@final
class _OnnxImageTower(_Graph, ImageTower):
    """The graph of ``image.onnx``, which normalises pixels itself."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        super().__init__()
        image = facts["image"]
        self.embedding_dim = int(facts["embedding_dim"])
        self.image_size = int(image["size"][0])
        self.image_mean, self.image_std = as_triple(image["mean"]), as_triple(image["std"])
        self.interpolation, self.resize_mode = image["interpolation"], image["resize_mode"]
        self._session = _session(folder / IMAGE_FILE)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Embed normalised images, which are turned back into the pixels that they were."""
        mean, std = (
            torch.tensor(values, device=images.device).view(3, 1, 1)
            for values in (self.image_mean, self.image_std)
        )
        pixels = ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return _run(self._session, "pixels", pixels)


@final
class _OnnxTextTower(_Graph, TextTower):
    """The graph of ``text.onnx``, which pads texts itself if its tower needs that."""

    trims_exactly = True

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        super().__init__()
        text = facts["text"]
        self.embedding_dim = int(facts["embedding_dim"])
        self.context_length, self.vocab_size = int(text["context_length"]), int(text["vocab_size"])
        self.pad_id, self.tokenizer_name = int(text["pad_id"]), str(text["tokenizer"])
        self._session = _session(folder / TEXT_FILE)

    def forward(self, tokens: Int64[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        """Embed captions; see ``TextTower.forward``."""
        check_length(tokens, self.context_length)
        return _run(self._session, "tokens", tokens)


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"{path}: needs onnxruntime; pip install 'clipkit[onnx]'") from error
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise CheckpointError(f"{path}: onnxruntime cannot run it: {first_line(error)}") from error


def _run(session: Any, name: str, values: Tensor) -> Float[Tensor, "B D"]:
    (embeddings,) = session.run(None, {name: values.cpu().numpy()})
    return torch.from_numpy(embeddings).to(values.device)


def _refuse() -> NoReturn:
    raise ConfigError(
        "model: an ONNX export can be evaluated and embedded with, but neither trained, mixed nor "
        "exported; use the checkpoint that it was made from"
    )
