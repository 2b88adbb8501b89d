"""Towers that run the ONNX graphs of an export, for evaluation and embedding on the CPU."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, Self, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import CheckpointError, ConfigError, first_line
from clipkit.mel import MelOptions
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.multimodal_encoder import MultimodalEncoder
from clipkit.models.towers.base import (
    ImageTower,
    SignalTower,
    TextTower,
    Tower,
    as_triple,
    check_length,
)

IMAGE_FILE: Final = "image.onnx"
TEXT_FILE: Final = "text.onnx"
FACTS_FILE: Final = "preprocessing.json"
FUSION: Final = "fusion"
"""Name of the graph of a joint encoder's fusion."""
LOGIT, CLASSES = "matching_logit", "class_logits"
"""Names of the outputs of that graph; the second is that of a label head on the fusion."""
TOKENS, MASK = "_tokens", "_mask"
"""Suffixes of the names of outputs: the tokens that are fused, and which are not padding."""


def graph_file(name: str) -> str:
    """Return the name of the file of a tower's graph, by the name of its modality."""
    return f"{name}.onnx"


def load_onnx(folder: Path) -> DualEncoder | MultimodalEncoder:
    """Load an ONNX export as an encoder that can be measured, but neither trained nor exported.

    Raises:
        CheckpointError: If a file is missing or damaged.
        ConfigError: If onnxruntime is not installed.
    """
    path = folder / FACTS_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        towers = _towers(folder, facts)
        scale, bias = facts["logit_scale"], facts["logit_bias"]
        pair_scales = {pair: float(one) for pair, one in facts.get("pair_scales", {}).items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise CheckpointError(
            f"{path}: expected the file that clipkit export wrote: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    image, text = towers.get("image"), towers.get("text")
    options = {"logit_scale": scale, "logit_bias": bias, "max_logit_scale": None}
    is_dual = "pair_scales" not in facts  # which every encoder of named towers has
    if is_dual and isinstance(image, ImageTower) and isinstance(text, TextTower):
        return DualEncoder(image, text, **options).eval()
    encoder = MultimodalEncoder(towers, pair_scales=list(pair_scales), **options)
    for pair, one in pair_scales.items():
        encoder.log_pair_scales[pair].data.fill_(math.log(one))
    return encoder.eval()


def _towers(folder: Path, facts: Mapping[str, Any]) -> dict[str, Tower]:
    """Return a tower for each graph, by the name of its modality."""
    is_dual = "pair_scales" not in facts
    towers: dict[str, Tower] = {}
    if is_dual or "image" in facts:
        towers["image"] = _OnnxImageTower(folder, facts)
    if is_dual or "text" in facts:
        towers["text"] = _OnnxTextTower(folder, facts)
    for name, described in facts.get("modalities", {}).items():
        towers[name] = _OnnxSignalTower(folder, facts, described)
    return towers


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


@final
class _OnnxSignalTower(_Graph, SignalTower):
    """The graph of a further modality, such as ``sound.onnx``."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        super().__init__()
        self.embedding_dim = int(facts["embedding_dim"])
        self.input_shape = tuple(int(size) for size in own["shape"])
        self.mel = None if own["mel"] is None else MelOptions.from_config(own["mel"])
        self._input = str(own["input"])
        self._session = _session(folder / Path(own["file"]).name)

    def forward(self, values: Float[Tensor, "B *rest"]) -> Float[Tensor, "B D"]:
        """Embed values; see ``SignalTower.forward``."""
        return _run(self._session, self._input, values.float())


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
    first = session.get_outputs()[0].name  # the others are tokens
    (embeddings,) = session.run([first], {name: values.cpu().numpy()})
    return torch.from_numpy(embeddings).to(values.device)


def _refuse() -> NoReturn:
    raise ConfigError(
        "model: an ONNX export can be evaluated and embedded with, but neither trained, mixed nor "
        "exported; use the checkpoint that it was made from"
    )
