"""Sound towers that ``sound_quality.py`` and ``sound_unseen.py`` compare."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipkit.mel import MelOptions
from clipkit.models import ClapSoundTower, SignalTower, TcnTower, TimmSoundTower

MEL = MelOptions(sample_rate=16_000, num_mels=64, hop=320, f_max=8000.0, num_frames=200)
MEAN, STD = -40.0, 20.0
WIDTH = 128
HTSAT: dict[str, Any] = {
    "model_type": "clap_audio_model", "spec_size": 128, "num_mel_bins": MEL.num_mels,
    "depths": [2, 2, 2], "num_attention_heads": [2, 4, 8], "patch_embeds_hidden_size": 24,
    "hidden_size": 96, "window_size": 8, "projection_dim": WIDTH, "hidden_dropout_prob": 0.0,
}  # fmt: skip


class BandStatistics(SignalTower):
    """Mean and standard deviation of each band over time, without parameters: a floor."""

    embedding_dim, input_shape, mel = 2 * MEL.num_mels, (MEL.num_mels, MEL.num_frames), MEL

    def forward(self, values: Tensor) -> Tensor:
        """See ``SignalTower.forward``."""
        scaled = (values - MEAN) / STD
        return torch.cat([scaled.mean(2), scaled.std(2)], dim=1)

    def config(self) -> dict[str, Any]:
        """See ``Tower.config``."""
        return {}

    def layer_groups(self) -> list[list[str]]:
        """See ``Tower.layer_groups``."""
        return []


class OpenClipAudio(SignalTower):
    """The tower of open_clip over patches of a spectrogram, as large as the arm "vit"."""

    embedding_dim, input_shape, mel = WIDTH, (MEL.num_mels, MEL.num_frames), MEL

    def __init__(self, checkout: Path) -> None:
        super().__init__()
        self.package = open_clip_audio(checkout)
        config = self.package.CLIPAudioCfg(
            model_type="naflexvit", mel_bins=MEL.num_mels, patch_freq=16, patch_time=16,
            naflexvit_cfg={"embed_dim": 64, "depth": 6, "num_heads": 2, "mlp_ratio": 3.0},
        )  # fmt: skip
        self.tower = self.package.AudioTower(config, WIDTH)

    def forward(self, values: Tensor) -> Tensor:
        """See ``SignalTower.forward``."""
        frames = ((values - MEAN) / STD).transpose(1, 2)
        samples = [self.package.mel_to_patches(sample, 16, 16) for sample in frames]
        names = ("patches", "patch_coord", "patch_valid")
        features: Tensor = self.tower({n: torch.stack([s[n] for s in samples]) for n in names})
        return features

    def config(self) -> dict[str, Any]:
        """See ``Tower.config``."""
        return {}

    def layer_groups(self) -> list[list[str]]:
        """See ``Tower.layer_groups``."""
        return [[name for name, _ in self.named_parameters()]]


def open_clip_audio(checkout: Path) -> Any:
    """Import the audio package of a checkout alone: the installed open_clip stays what it is."""
    folder = checkout / "src" / "open_clip" / "audio"
    spec = importlib.util.spec_from_file_location(
        "open_clip_audio", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def towers(checkout: Path | None) -> dict[str, Callable[[], SignalTower]]:
    """Sound tower of each arm, with weights by the seed that was set."""
    arms: dict[str, Callable[[], SignalTower]] = {
        "statistics": BandStatistics,
        "untrained": lambda: TimmSoundTower("test_vit", WIDTH, MEL, mean=MEAN, std=STD),
        "vit": lambda: TimmSoundTower("test_vit", WIDTH, MEL, mean=MEAN, std=STD),
        "cnn": lambda: TimmSoundTower("test_efficientnet", WIDTH, MEL, mean=MEAN, std=STD),
        "tcn": lambda: TcnTower(WIDTH, MEL, width=96, num_blocks=5, mean=MEAN, std=STD),
        "htsat": lambda: ClapSoundTower(HTSAT, pretrained=False, mel=MEL),
    }
    if checkout is not None:
        arms["open_clip"] = lambda: OpenClipAudio(checkout)
    return arms


UNTRAINED = ("statistics", "untrained")
