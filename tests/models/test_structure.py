"""Encoders without weights have the structure of those with weights, and read no weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from clipkit.models import (
    DualEncoder,
    PrototypeLabelHead,
    TimmImageTower,
    TransformersTextTower,
    from_checkpoint,
    from_open_clip,
    load_encoder,
    save_encoder,
    save_open_clip,
    structure_only,
)
from clipkit.models.checkpoints import encoder as encoder_files
from clipkit.models.checkpoints.encoder import KEY, encoder_entry
from clipkit.models.lora import add_lora
from tests.helpers import tiny

RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
LONGER = {**tiny.CONFIG, "text_cfg": {**tiny.CONFIG["text_cfg"], "context_length": 24}}
BERT = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "vocab_size": 100, "max_position_embeddings": 32,
}  # fmt: skip


def trunks(folder: Path) -> DualEncoder:
    """Of timm and of transformers."""
    text = TransformersTextTower(
        BERT, 16, pretrained=False, context_length=16, tokenizer_name="transformers:./bert"
    )
    return DualEncoder(TimmImageTower("test_vit", 16, image_size=64), text)


def resnet(folder: Path) -> DualEncoder:
    head = PrototypeLabelHead(16, ["red", "blue"])
    head.read_texts(lambda texts: torch.ones(len(texts), 3, dtype=torch.int64))
    return from_open_clip({**tiny.CONFIG, "vision_cfg": RESNET}, label_head=head)


def exported(folder: Path) -> DualEncoder:
    return load_encoder(folder / "export")


def of_open_clip(folder: Path) -> DualEncoder:
    return from_open_clip(LONGER, str(folder / "weights.pt"), context_length=32)


def folder_of_open_clip(folder: Path) -> DualEncoder:
    return load_encoder(folder / "open_clip")


def checkpoint(folder: Path) -> DualEncoder:
    return from_checkpoint(folder / "run.ckpt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of file with weights."""
    folder = tmp_path_factory.mktemp("files")
    encoder = from_open_clip(LONGER)
    save_encoder(encoder, folder / "export")
    save_open_clip(encoder, folder / "open_clip" / "open_clip_model.safetensors")
    save_open_clip(encoder, folder / "weights.pt")
    adapted = tiny.encoder(labels=True)
    add_lora(adapted.text_tower, rank=2)
    state = {f"encoder.{name}": value for name, value in adapted.state_dict().items()}
    torch.save({KEY: encoder_entry(adapted), "state_dict": state}, folder / "run.ckpt")
    return folder


def structure(encoder: DualEncoder) -> list[tuple[str, torch.Size, torch.dtype, bool]]:
    tensors: Any = chain(encoder.named_parameters(), encoder.named_buffers())
    return [(name, t.shape, t.dtype, t.requires_grad) for name, t in tensors]


@pytest.mark.parametrize(
    "build", [trunks, resnet, exported, of_open_clip, folder_of_open_clip, checkpoint]
)
def test_the_structure_is_that_of_an_encoder_with_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[[Path], DualEncoder]
) -> None:
    expected = structure(build(folder))

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("weights were read")

    monkeypatch.setattr(open_clip, "load_checkpoint", refuse)
    monkeypatch.setattr(encoder_files, "load_exactly", refuse)
    with structure_only():
        encoder = build(folder)
    assert structure(encoder) == expected
    tensors = [*encoder.parameters(), *encoder.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
