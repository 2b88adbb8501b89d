"""``clipkit fit`` with images, captions and sounds, evaluated while it trains, and resumed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from clipkit.cli.main import main
from clipkit.models import load_towers
from tests.helpers import heard, tiny
from tests.helpers.factories import write_shard

NUM_STEPS = 6
BROKEN = "0009"  # its index has all three
MEL = heard.MEL.config()


def part(class_path, **options):
    return {"class_path": class_path, "init_args": options}


def pair(first, second):
    loss = part("clipkit.losses.ContrastiveLoss")
    return {"loss": part("clipkit.losses.ModalityPairLoss", loss=loss, first=first, second=second)}


def config(on_error: str) -> dict:
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
        std=20.0,
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


def evaluation(folder: Path) -> dict:
    field = part(
        "clipkit.data.Sounds",
        on_error="absent",
        transform=part("clipkit.data.EvalSoundTransform", mel=MEL),
    )
    heard_only = part(
        "clipkit.evaluation.open_dataset", source=f"{folder}/heard.tar", modality="sound"
    )
    evaluators = {
        "stamps": part("clipkit.evaluation.Retrieval", data=str(folder), fields=[field]),
        "sounds": part("clipkit.evaluation.ZeroShotClassification", data=heard_only,
                       class_names=list(heard.COLOURS)),
        "images": part("clipkit.evaluation.ZeroShotClassification", data=f"{folder}/seen.tar",
                       class_names=list(heard.COLOURS)),
    }  # fmt: skip
    return part(
        "clipkit.training.callbacks.ZeroShotEvaluation", evaluators=evaluators, every_n_steps=3
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """23 samples of which any may lack any modality; one has a broken sound."""
    root = tmp_path_factory.mktemp("sounds")
    samples = [(f"{n:04d}", heard.sample(n)) for n in range(23)]
    assert {"wav", "jpg", "txt"} <= samples[9][1].keys()
    samples[9][1]["wav"] = samples[9][1]["wav"][:30]
    write_shard(root / "test/0.tar", samples)
    write_shard(root / "heard.tar", [(k, m) for k, m in samples if "wav" in m and k != BROKEN])
    write_shard(root / "seen.tar", [(k, m) for k, m in samples if "jpg" in m])
    return root


def fit(folder: Path, run: Path, *more: str, on_error: str = "absent") -> int:
    run.mkdir(exist_ok=True)
    (run / "run.yaml").write_text(yaml.safe_dump(config(on_error)))
    saver = part("clipkit.training.callbacks.SaveCheckpoint", keep_every_n_steps=1)
    callbacks = [
        saver,
        part("clipkit.training.callbacks.KeyLog", path=str(run / "keys.txt")),
        evaluation(folder),
    ]
    logger = part("lightning.pytorch.loggers.CSVLogger", save_dir=str(run), name="", version="")
    return main([
        "fit", "-c", str(run / "run.yaml"),
        "--model.optimizer=torch.optim.AdamW", "--model.schedule=clipkit.optim.WarmupCosine",
        "--data.batch_size=6", "--trainer.accelerator=cpu", "--trainer.devices=1",
        f"--trainer.max_steps={NUM_STEPS}", f"--trainer.logger+={json.dumps(logger)}",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
        "--data.faults.max_bad_fraction=0.5",
        f"--data.train={folder}/test/0.tar", f"--trainer.default_root_dir={run}",
        *(f"--trainer.callbacks+={json.dumps(one)}" for one in callbacks), *more,
    ])  # fmt: skip


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def test_a_run_with_sounds_is_evaluated_in_all_modalities_and_resumes(folder, tmp_path, caplog):
    run = tmp_path / "run"
    assert fit(folder, run) == 0
    assert "0009" in caplog.text
    assert "member wav" in caplog.text
    keys = (run / "keys.txt").read_text().splitlines()
    assert any(BROKEN in line for line in keys)  # trained on without its sound
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("stamps/sound_to_text/recall_at_1")]
    assert [int(row["step"]) for row in rows] == [2, 5]
    for first in heard.MODALITIES:
        for second in set(heard.MODALITIES) - {first}:
            assert 0 <= float(rows[0][f"stamps/{first}_to_{second}/recall_at_10"]) <= 1
    assert 0 <= float(rows[0]["sounds/top1"]) <= 1
    assert 0 <= float(rows[0]["images/top1"]) <= 1

    again = tmp_path / "again"
    again.mkdir()
    assert fit(folder, again, f"--ckpt_path={run}/step=2.ckpt") == 0
    lines = (again / "keys.txt").read_text().splitlines()
    assert lines == [line for line in keys if int(line.split()[0]) > 2]
    expected = weights(run / f"step={NUM_STEPS}.ckpt")
    got = weights(again / f"step={NUM_STEPS}.ckpt")
    assert [name for name in expected if not torch.equal(got[name], expected[name])] == []
    encoder = load_towers(run / f"step={NUM_STEPS}.ckpt", "cpu").encoder
    assert encoder.towers["sound"].mel == heard.MEL


def test_a_sample_with_a_broken_sound_is_skipped_by_choice(folder, tmp_path, caplog):
    assert fit(folder, tmp_path, "--trainer.max_steps=4", on_error="skip") == 0
    assert "0009" in caplog.text
    assert not any(BROKEN in line for line in (tmp_path / "keys.txt").read_text().splitlines())
