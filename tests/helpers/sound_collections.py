"""Shards of images with sounds, an encoder with a tower for sounds, and a collection of both."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from clipkit.collection.embedding import (
    EmbedPlan,
    EmbedReport,
    Part,
    embed_collection,
    start_collection,
)
from clipkit.mel import MelOptions
from clipkit.models import MultimodalEncoder, TcnTower, TowerEncoder, save_encoder, with_towers
from tests.helpers import tiny
from tests.helpers.evaluation_data import sample
from tests.helpers.factories import write_shard
from tests.helpers.sounds import encoded, sound_bytes, tone

MEL = MelOptions(sample_rate=8000, f_max=4000, hop=160, window=512, num_mels=16, num_frames=40)


@cache
def encoder() -> MultimodalEncoder:
    """Image, text and sound; always the same."""
    pairs = tiny.encoder()
    torch.manual_seed(1)
    tower = TcnTower(pairs.embedding_dim, MEL, width=8, num_blocks=2)
    return with_towers(pairs, {"sound": tower}).eval()


@cache
def text_and_sound() -> MultimodalEncoder:
    """The same without the tower for images."""
    towers = {name: tower for name, tower in encoder().towers.items() if name != "image"}
    return MultimodalEncoder(towers).eval()


def members(number: int, *, image: bool = True, sound: bool = True) -> dict[str, bytes]:
    """A sample; every third sound is FLAC of another length."""
    given = sample(number)
    if not image:
        given = {name: given[name] for name in ("txt", "cls")}
    hz = 200.0 + 150 * number
    if sound and number % 3 == 0:
        given["flac"] = encoded(tone(1.5, 16_000, hz, seed=number), 16_000)
    elif sound:
        given["wav"] = sound_bytes(0.6, hz=hz, seed=number)
    return given


def write_data(folder: Path) -> Path:
    """Two shards; samples 1 and 6 lack a sound, 2 an image, 4 has a broken sound."""
    given = [members(n, image=n != 2, sound=n not in (1, 6)) for n in range(8)]
    given[4]["wav"] = b"RIFF broken"
    keyed = [(f"s{number}", each) for number, each in enumerate(given)]
    write_shard(folder / "0.tar", keyed[:5])
    write_shard(folder / "1.tar", keyed[5:])
    return folder


def embed(
    data: Path,
    output: Path,
    model: TowerEncoder | None = None,
    part: Part | None = None,
    name: str = "sounds",
    **options,
) -> EmbedReport:
    """Embed data as the command does."""
    from clipkit.data import FaultOptions

    defaults = {"batch_size": 3, "num_workers": 0, "faults": FaultOptions(max_bad_fraction=0.5)}
    plan = EmbedPlan(name, str(data), output, **{**defaults, **options})
    opened, model = plan.open_data(), model or encoder()
    info = start_collection(plan, model, None, opened)
    return embed_collection(plan, info, model, opened, part)


def write_served(folder: Path) -> Path:
    """Write ``model``, ``data`` and ``collection`` into a folder; return the collection."""
    save_encoder(encoder(), folder / "model")
    write_data(folder / "data")
    embed(folder / "data", folder / "collection", name=str(folder / "model"))
    return folder / "collection"
