"""Describe an encoder for its model card: towers, what each of them reads, scales."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from clipkit.models import ImageTower, JointEncoder, SignalTower, TextTower, Tower, TowerEncoder


def architecture(encoder: TowerEncoder) -> Iterator[tuple[str, str]]:
    """Yield names and values that describe the encoder, and what each of its towers reads."""
    for name, tower in encoder.towers.items():
        title = f"{name.capitalize()} tower"
        yield title, f"{type(tower).__name__}, {_count(tower)} parameters"
    if isinstance(encoder, JointEncoder):
        yield "Fusion", f"{type(encoder.fusion).__name__}, {_count(encoder.fusion)} parameters"
    yield "Parameters", _count(encoder)
    yield "Embedding", f"{encoder.embedding_dim} components"
    for name, tower in encoder.towers.items():
        yield from _inputs(name, tower)
    yield "Logit scale", f"{float(encoder.logit_scale.detach()):.4g}"
    for pair, scale in encoder.pair_scales.items():
        yield f"Logit scale of {pair}", f"{float(scale.detach()):.4g}"
    if encoder.logit_bias is not None:
        yield "Logit bias", f"{float(encoder.logit_bias.detach()):.4g}"


def _inputs(name: str, tower: Tower) -> Iterator[tuple[str, str]]:
    """Yield the preprocessing of a modality."""
    if isinstance(tower, ImageTower):
        yield "Images", _images(tower)
        mean, std = _numbers(tower.image_mean), _numbers(tower.image_std)
        yield "Mean, standard deviation", f"{mean}; {std}"
    elif isinstance(tower, TextTower):
        yield "Captions", f"up to {tower.context_length} tokens, vocabulary of {tower.vocab_size:,}"
    elif isinstance(tower, SignalTower) and tower.mel is not None:
        mel, title = tower.mel, "Sounds" if name == "sound" else f"Sounds ({name})"
        length = f"{mel.seconds:.4g} seconds at {mel.sample_rate:,} Hz, one channel"
        yield title, f"{length}: the centre of a longer sound, a shorter one repeated"
        options = [f"{option} {str(value).lower()}" for option, value in asdict(mel).items()]
        size = f"{mel.num_mels} bands x {mel.num_frames} frames"
        yield f"{title}: log-mel spectrogram", f"{size}; {', '.join(options)}"
    elif isinstance(tower, SignalTower):
        yield name.capitalize(), f"values of shape {' x '.join(map(str, tower.input_shape))}"


def _images(tower: ImageTower) -> str:
    if (budget := tower.budget) is not None:
        side = budget.patch_size
        return (
            f"any shape, up to {budget.max_tokens} patches of {side} x {side} pixels, "
            f"{tower.interpolation}"
        )
    return (
        f"{tower.image_size} x {tower.image_size} pixels, {tower.interpolation}, "
        f"resize mode {tower.resize_mode}"
    )


def _count(module: Any) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
