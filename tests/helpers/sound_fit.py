"""``clipkit fit`` with images, captions and sounds, of which any sample may lack any."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import torch
import yaml

from clipkit.cli.main import main
from tests.helpers import heard, tiny
from tests.helpers.factories import write_shard

NUM_STEPS = 6
BROKEN = "0009"  # its index has all three
MEL = heard.MEL.config()
MODEL_WORDS = (
    "--model.optimizer=torch.optim.AdamW",
    "--model.schedule=clipkit.optim.WarmupCosine",
    "--data.batch_size=6",
    "--data.faults.max_bad_fraction=0.5",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    f"--trainer.max_steps={NUM_STEPS}",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)


def part(class_path: str, **options: Any) -> dict[str, Any]:
    """A class with options, as configurations write it."""
    return {"class_path": class_path, "init_args": options}


def pair(first: str, second: str) -> dict[str, Any]:
    """A loss term of a pair of modalities."""
    loss = part("clipkit.losses.ContrastiveLoss")
    return {"loss": part("clipkit.losses.ModalityPairLoss", loss=loss, first=first, second=second)}


def config(on_error: str = "absent", dropout: float = 0.1) -> dict[str, Any]:
    """Three towers, a loss for every pair, and samples that may lack anything."""
    sounds = part(
        "clipkit.data.Sounds",
        on_error=on_error,
        transform=part(
            "clipkit.data.TrainSoundTransform",
            mel=MEL,
            augmentations=[part("clipkit.data.RandomGain"), part("clipkit.data.RandomNoise")],
            masks={"max_frames": 3, "max_mels": 2},
        ),
    )
    tower = part(
        "clipkit.models.TcnTower", embedding_dim=16, mel=MEL, width=8, num_blocks=1, mean=-40.0,
        std=20.0, dropout=dropout,
    )  # fmt: skip
    return {
        "model": {
            "encoder": part(
                "clipkit.models.with_towers",
                encoder=part("clipkit.models.from_open_clip", name=tiny.CONFIG),
                towers={"sound": tower},
            ),
            "loss": {
                "contrastive": part("clipkit.losses.ContrastiveLoss"),
                "terms": {"sound_image": pair("sound", "image"), "st": pair("sound", "text")},
            },
        },
        "data": {
            "samples": {
                "transform": part("clipkit.data.OptionalImage",
                                  transform=part("clipkit.data.TrainTransform", size=16)),
                "caption": part("clipkit.data.OptionalCaption"),
                "fields": [sounds, part("clipkit.data.CaptionMask")],
            },
        },
    }  # fmt: skip


def write_samples(root: Path) -> Path:
    """23 samples of which any may lack any modality; one has a broken sound."""
    samples = [(f"{n:04d}", heard.sample(n)) for n in range(23)]
    assert {"wav", "jpg", "txt"} <= samples[int(BROKEN)][1].keys()
    samples[int(BROKEN)][1]["wav"] = samples[int(BROKEN)][1]["wav"][:30]
    write_shard(root / "test/0.tar", samples)
    write_shard(root / "heard.tar", [(k, m) for k, m in samples if "wav" in m and k != BROKEN])
    write_shard(root / "seen.tar", [(k, m) for k, m in samples if "jpg" in m])
    return root


def words(folder: Path, run: Path, given: dict[str, Any], *callbacks: dict[str, Any]) -> list[str]:
    """A run as words for ``clipkit``; it logs its keys, its losses, and a checkpoint per step."""
    run.mkdir(exist_ok=True)
    (run / "run.yaml").write_text(yaml.safe_dump(given))
    logger = part("lightning.pytorch.loggers.CSVLogger", save_dir=str(run), name="", version="")
    added = [
        part("clipkit.training.callbacks.SaveCheckpoint", keep_every_n_steps=1),
        part("clipkit.training.callbacks.KeyLog", path=str(run / "keys.txt")),
        *callbacks,
    ]
    return [
        "fit", "-c", str(run / "run.yaml"), *MODEL_WORDS,
        f"--trainer.logger+={json.dumps(logger)}",
        f"--data.train={folder}/test/0.tar", f"--trainer.default_root_dir={run}",
        *(f"--trainer.callbacks+={json.dumps(one)}" for one in added),
    ]  # fmt: skip


def fit(folder: Path, run: Path, given: dict[str, Any], *more: str) -> int:
    """Run it in this process."""
    return main([*words(folder, run, given), *more])


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint."""
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def losses(run: Path) -> dict[int, dict[str, float]]:
    """Value of the loss and of every term by step, as logged."""
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return {
        int(row["step"]): {
            name: float(value)
            for name, value in row.items()
            if name.startswith("train/") and "rate" not in name and value
        }
        for row in rows
    }
