"""Hashes of models and data, by which results and cached embeddings name what they are of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.evaluation.datasets.associations import AssociationData
from clipkit.evaluation.datasets.choices import ChoiceData
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.models import TowerEncoder
from clipkit.models.checkpoints.description import describe

_DIGITS: Final = 32
_PREPROCESSING: Final = (
    "image_size", "image_mean", "image_std", "interpolation", "resize_mode", "budget",
)  # fmt: skip


def model_hash(encoder: TowerEncoder) -> str | None:
    """Return a hash of an encoder: weights, architecture, image transform and tokenizer.

    Args:
        encoder: The model.

    Returns:
        32 hexadecimal digits; None if the weights cannot be read (an ONNX graph, weights that are
        sharded over ranks).

    Examples:
        >>> len(model_hash(encoder))
        32
    """
    try:
        description: Mapping[str, Any] = describe(encoder)
    except ConfigError:
        return None
    tower = encoder.image_tower
    facts = [description, {name: str(getattr(tower, name)) for name in _PREPROCESSING}]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        if not isinstance(tensor, Tensor) or hasattr(tensor, "full_tensor"):
            return None
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()[:_DIGITS]


def data_hash(data: EvaluationDataset | ChoiceData | AssociationData) -> str:
    """Return a hash of keys, kinds and sizes of all members, the same on every machine.

    If only the numbers of samples are known (remote shards with a counts file), it is a hash of the
    names and sizes of the shards; for a table of pair choices or associations, of its keys and
    texts.

    Examples:
        >>> len(data_hash(open_dataset("data/val")))
        32
    """
    if data.index is None:
        return text_hash(*((data.key(n), data.texts(n)) for n in range(len(data))))
    return data.index.digest or data.index.fingerprint


def text_hash(*parts: object) -> str:
    """Return a hash of plain values.

    Examples:
        >>> text_hash("a", 1) == text_hash("a", 1), text_hash("a", 1) == text_hash("a1")
        (True, False)
    """
    text = json.dumps(parts, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
