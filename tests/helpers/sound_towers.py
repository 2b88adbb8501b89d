"""Tiny towers for sound and time, and input for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clipkit.mel import MelOptions
from clipkit.models import ClapSoundTower, TcnTower, TimmSoundTower, WhisperSoundTower

HTSAT: dict[str, Any] = {
    "model_type": "clap_audio_model", "spec_size": 64, "num_mel_bins": 16, "depths": [2, 2],
    "num_attention_heads": [2, 4], "hidden_size": 32, "patch_embeds_hidden_size": 16,
    "window_size": 4, "projection_dim": 24, "hidden_dropout_prob": 0.0,
}  # fmt: skip
"""HTS-AT for 16 mel bands and up to 256 frames."""
WHISPER: dict[str, Any] = {
    "model_type": "whisper", "num_mel_bins": 16, "d_model": 32, "encoder_layers": 2,
    "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "max_source_positions": 60,
    "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "vocab_size": 100,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "begin_suppress_tokens": None, "max_target_positions": 8,
}  # fmt: skip
"""Whisper for 16 mel bands and 120 frames."""


def mel(num_mels: int, num_frames: int) -> MelOptions:
    """Return the parameters of a spectrogram of a size."""
    return MelOptions(num_mels=num_mels, num_frames=num_frames)


BUILDERS: dict[str, Callable[[], Any]] = {
    "vit": lambda: TimmSoundTower("test_vit", 24, mel(48, 70), mean=-4.0, std=5.0),
    "resnet": lambda: TimmSoundTower("test_resnet", 24, mel(40, 50)),
    "clap": lambda: ClapSoundTower(HTSAT, pretrained=False, mel=mel(16, 100)),
    "clap_linear": lambda: ClapSoundTower(HTSAT, 12, False, "linear", mel(16, 256)),
    "whisper": lambda: WhisperSoundTower(WHISPER, 24, pretrained=False, num_frames=80),
    "tcn": lambda: TcnTower(24, mel(16, 40), width=20, num_blocks=3, dropout=0.0),
    "tcn_causal": lambda: TcnTower(
        12, input_shape=(6, 30), width=12, num_blocks=2, kernel_size=2, causal=True,
        pooling="last", dropout=0.2, mean=[1.0] * 6, std=2.0, projection="mlp",
    ),
}  # fmt: skip
"""Every kind of tower, by name."""


def build(name: str) -> Any:
    """Build a tower, the same each time, in training mode."""
    torch.manual_seed(0)
    return BUILDERS[name]()


def values(tower: Any, size: int = 3, seed: int = 1) -> Tensor:
    """Return random input with the level of logarithms of energy."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *tower.input_shape, generator=generator) * 3 - 4
