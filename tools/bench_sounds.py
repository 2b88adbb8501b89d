"""Sounds per second on one core: clipkit against torchaudio's plain pipeline.

    pip install torchaudio     # in an environment of its own, if it wants another torch
    python tools/bench_sounds.py esc10/ogg --output sounds.json

The sounds of a folder are also stored as FLAC and WAV, and joined to sounds of a minute, in memory.
Both pipelines make spectrograms of 5 seconds with the same parameters from the same bytes, in turn,
in one thread of one process. The plain pipeline decodes a file completely (``torchaudio.load``, or
soundfile where torchcodec is not installed), averages the channels, resamples
(``transforms.Resample``), crops, and computes ``MelSpectrogram`` and ``AmplitudeToDB``. Seconds are
of the process, not of the clock. Prints and writes JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
import torch
import torchaudio

from clipkit.data import TrainSoundTransform
from clipkit.data.audio.formats import SOUND_SUFFIXES
from clipkit.data.rng import generator
from clipkit.mel import MelOptions

MELS: Final = {
    "32 kHz": MelOptions(),
    "16 kHz": MelOptions(sample_rate=16_000, hop=160, f_max=8_000.0),
    "48 kHz (CLAP's)": MelOptions(sample_rate=48_000, hop=480, num_frames=500),
    "44.1 kHz (not resampled)": MelOptions(sample_rate=44_100, hop=441, num_frames=500),
}
LONG_SECONDS: Final = 60
_BLOCK: Final = 2**16

Pipeline = Callable[[bytes, int], torch.Tensor]


def clipkit_pipeline(mel: MelOptions) -> Pipeline:
    """The transform of a training run: a random piece."""
    transform = TrainSoundTransform(mel)
    return lambda data, number: transform(data, generator(0, number))


def plain_pipeline(mel: MelOptions) -> Pipeline:
    """What the documentation of torchaudio shows, with a random crop."""
    spectrogram = torchaudio.transforms.MelSpectrogram(
        sample_rate=mel.sample_rate,
        n_fft=mel.window,
        hop_length=mel.hop,
        f_min=mel.f_min,
        f_max=mel.f_max,
        n_mels=mel.num_mels,
        norm="slaney" if mel.equal_area else None,
        mel_scale=mel.mel_scale,
    )
    decibels = torchaudio.transforms.AmplitudeToDB(top_db=None)
    resampler = lru_cache(torchaudio.transforms.Resample)

    def run(data: bytes, number: int) -> torch.Tensor:
        wave, rate = decoded(data)
        wave = wave.mean(0)
        if rate != mel.sample_rate:
            wave = resampler(rate, mel.sample_rate)(wave)
        missing = mel.length - len(wave)
        if missing > 0:
            wave = torch.nn.functional.pad(wave, (0, missing))
        start = int(generator(0, number).random() * (len(wave) - mel.length + 1))
        return decibels(spectrogram(wave[start : start + mel.length]))[:, : mel.num_frames]

    return run


def decoded(data: bytes) -> tuple[torch.Tensor, int]:
    """Channels and samples of a complete file, and its rate."""
    if HAS_TORCHCODEC:
        return torchaudio.load(io.BytesIO(data))
    values, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return torch.from_numpy(values.T), rate


def has_torchcodec() -> bool:
    try:
        import torchcodec  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return False
    return True


HAS_TORCHCODEC: Final = has_torchcodec()


def collections_of(folder: Path) -> dict[str, list[bytes]]:
    """Files by format, each with the same sounds, and long ones."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SOUND_SUFFIXES]
    originals = [path.read_bytes() for path in files]
    waves = [soundfile.read(io.BytesIO(data), dtype="float32") for data in originals]
    kinds = {"as they are": originals}
    for kind in ("FLAC", "WAV"):
        kinds[kind] = [stored(wave, rate, kind) for wave, rate in waves]
    rate = waves[0][1]
    repeats = -(-LONG_SECONDS * rate * len(waves) // sum(len(wave) for wave, _ in waves))
    num_long = max(1, len(waves) // repeats)
    for kind in ("FLAC", "OGG"):
        kinds[f"{kind} of a minute"] = [
            stored(
                np.concatenate([w for w, _ in waves[at * repeats : (at + 1) * repeats]]), rate, kind
            )
            for at in range(min(num_long, 10))
        ]
    return kinds


def stored(wave: np.ndarray, rate: int, kind: str) -> bytes:
    channels = 1 if wave.ndim == 1 else wave.shape[1]
    buffer = io.BytesIO()
    # In blocks: libsndfile 1.2.2 crashes when it writes a minute of Vorbis at once.
    with soundfile.SoundFile(buffer, "w", rate, channels, format=kind) as file:
        for start in range(0, len(wave), _BLOCK):
            file.write(wave[start : start + _BLOCK])
    return buffer.getvalue()


def rate_of(pipeline: Pipeline, sounds: Sequence[bytes]) -> float:
    start = time.process_time()
    for number, data in enumerate(sounds):
        pipeline(data, number)
    return len(sounds) / (time.process_time() - start)


def compare(mel: MelOptions, sounds: Sequence[bytes], rounds: int) -> dict[str, float]:
    """Medians of both rates, their ratio, and how far the spectrograms differ."""
    ours, plain = clipkit_pipeline(mel), plain_pipeline(mel)
    rate_of(ours, sounds[:3]), rate_of(plain, sounds[:3])
    pairs = [(rate_of(ours, sounds), rate_of(plain, sounds)) for _ in range(rounds)]
    difference = (ours(sounds[0], 0) - plain(sounds[0], 0)).abs()
    return {
        "clipkit_per_second": statistics.median(one for one, _ in pairs),
        "plain_per_second": statistics.median(other for _, other in pairs),
        "ratio": statistics.median(one / other for one, other in pairs),
        "ratio_least": min(one / other for one, other in pairs),
        "ratio_greatest": max(one / other for one, other in pairs),
        "largest_difference_decibels": float(difference.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of sounds, searched with its folders")
    parser.add_argument(
        "--rounds", type=int, default=5, help="times each pipeline reads all sounds"
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds = collections_of(args.folder)
    figures: dict[str, object] = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "versions": {
            "torch": torch.__version__,
            "torchaudio": torchaudio.__version__,
            "soundfile": soundfile.__version__,
            "libsndfile": soundfile.__libsndfile_version__,
            "soxr": soxr.__version__,
        },
        "plain_decoder": "torchaudio.load" if HAS_TORCHCODEC else "soundfile",
        "sounds": {kind: len(sounds) for kind, sounds in kinds.items()},
    }
    for name, mel in MELS.items():
        figures[name] = compare(mel, kinds["as they are"], args.rounds)
    for kind in list(kinds)[1:]:
        figures[f"32 kHz, {kind}"] = compare(MELS["32 kHz"], kinds[kind], args.rounds)
    text = json.dumps(figures, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
