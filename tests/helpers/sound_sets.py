"""Data sets of sounds in their published forms, with short tones, and an encoder for them."""

from __future__ import annotations

from pathlib import Path

import torch

from clipkit.mel import MelOptions
from clipkit.models import LinearLabelHead, MultimodalEncoder, TcnTower, with_towers
from tests.helpers.evaluation_data import tiny_encoder
from tests.helpers.sounds import sound_bytes

MEL = MelOptions(sample_rate=8000, num_mels=16, window=256, hop=80, f_max=4000.0, num_frames=20)
ESC = {"dog": 0, "chainsaw": 41, "crackling_fire": 12}
"""Classes with their numbers in ESC-50; the first two are of ESC-10."""


def sound_encoder(seed: int = 0) -> MultimodalEncoder:
    """Three towers with random weights, a label head on sounds, and a scale of sounds and texts."""
    torch.manual_seed(seed)
    tower = TcnTower(24, MEL, width=16, num_blocks=2, dropout=0.0, mean=-40.0, std=20.0)
    head = LinearLabelHead(24, 3)
    head.class_names = ("chainsaw", "crackling fire", "dog")
    encoder = with_towers(tiny_encoder(seed), {"sound": tower}, {"sound": head}, ["sound:text"])
    with torch.no_grad():
        encoder.log_pair_scales["sound:text"].fill_(1.0)
    return encoder


def tone_of(number: int, seed: int) -> bytes:
    """The tone of a class, never twice the same file."""
    return sound_bytes(0.2, 8000, hz=300.0 + 40 * number, seed=seed)


def write_esc50(root: Path, folds: int = 3, per_class: int = 4) -> Path:
    """ESC-50 with three classes: ``folds`` folds of ``per_class`` sounds each."""
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, folds + 1):
        for name, number in ESC.items():
            for take in range(per_class):
                file = f"{fold}-{number}{take}-A-{number}.wav"
                (root / "audio" / file).write_bytes(
                    tone_of(number, 100 * fold + number + 60 * take)
                )
                in_esc10 = name != "crackling_fire"
                rows.append(f"{file},{fold},{number},{name},{in_esc10},{fold}{number}{take},A")
    (root / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return root


def write_urbansound8k(root: Path) -> Path:
    """UrbanSound8K with two classes and two folds."""
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    (root / "metadata").mkdir(parents=True)
    for fold in (1, 2):
        folder = root / "audio" / f"fold{fold}"
        folder.mkdir(parents=True)
        for number, name in enumerate(("air_conditioner", "car_horn")):
            file = f"{fold}{number}-{number}-0-0.wav"
            (folder / file).write_bytes(tone_of(number, 10 * fold + number))
            rows.append(f"{file},{fold}{number},0.0,4.0,1,{fold},{number},{name}")
    (root / "metadata" / "UrbanSound8K.csv").write_text("\n".join(rows) + "\n")
    return root


def write_fsd50k(root: Path) -> Path:
    """FSD50K with three labels, of which a sound has one or two."""
    truth = root / "FSD50K.ground_truth"
    truth.mkdir(parents=True)
    labels = ("Accordion", "Bark", "Dog")
    (truth / "vocabulary.csv").write_text(
        "".join(f"{number},{label},/m/0{number}\n" for number, label in enumerate(labels))
    )
    parts = {
        "dev": [(1, "Accordion", "train"), (2, '"Bark,Dog"', "train"), (3, "Dog", "val")],
        "eval": [(4, "Accordion", ""), (5, '"Bark,Dog"', ""), (6, "Dog", "")],
    }
    for part, rows in parts.items():
        folder = root / f"FSD50K.{part}_audio"
        folder.mkdir()
        of_dev = part == "dev"
        lines = ["fname,labels,mids" + ",split" * of_dev]
        for number, names, split in rows:
            (folder / f"{number}.wav").write_bytes(tone_of(number, number))
            lines.append(f"{number},{names},/m/x" + f",{split}" * of_dev)
        (truth / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return root
