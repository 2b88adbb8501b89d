"""``clipkit fit`` with images, captions and sounds, evaluated while it trains, and resumed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from clipkit.cli.main import main
from clipkit.models import load_towers
from tests.helpers import heard, sound_fit
from tests.helpers.sound_fit import BROKEN, NUM_STEPS, part


class Crash(Callback):
    """Raises in the middle of a step, once its batch was fetched."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


def evaluation(folder: Path) -> dict:
    field = part(
        "clipkit.data.Sounds",
        on_error="absent",
        transform=part("clipkit.data.EvalSoundTransform", mel=sound_fit.MEL),
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
    return sound_fit.write_samples(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def undisturbed(folder):
    run = folder / "undisturbed"
    assert main(sound_fit.words(folder, run, sound_fit.config(), evaluation(folder))) == 0
    return run


def keys_after(run: Path, step: int) -> list[str]:
    lines = (run / "keys.txt").read_text().splitlines()
    return [line for line in lines if int(line.split()[0]) > step]


def assert_same_end(undisturbed: Path, run: Path, step: int) -> None:
    """Samples, losses and weights after a step are exactly those of the undisturbed run."""
    assert (run / "keys.txt").read_text().splitlines() == keys_after(undisturbed, step)
    expected = sound_fit.losses(undisturbed)
    found = sound_fit.losses(run)
    assert len(expected) == NUM_STEPS
    assert set(expected[0]) >= {"train/loss", "train/sound_image", "train/st"}
    steps = range(min(found), NUM_STEPS)
    assert found == {number: expected[number] for number in steps}
    final = f"step={NUM_STEPS}.ckpt"
    want, got = (sound_fit.weights(each / final) for each in (undisturbed, run))
    assert got.keys() == want.keys()
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


def test_a_run_with_sounds_is_evaluated_in_all_modalities(undisturbed):
    assert any(BROKEN in line for line in keys_after(undisturbed, 0))  # without its sound
    with (undisturbed / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("stamps/sound_to_text/recall_at_1")]
    assert [int(row["step"]) for row in rows] == [2, 5]
    for first in heard.MODALITIES:
        for second in set(heard.MODALITIES) - {first}:
            assert 0 <= float(rows[0][f"stamps/{first}_to_{second}/recall_at_10"]) <= 1
    assert 0 <= float(rows[0]["sounds/top1"]) <= 1
    assert 0 <= float(rows[0]["images/top1"]) <= 1
    encoder = load_towers(undisturbed / f"step={NUM_STEPS}.ckpt", "cpu").encoder
    assert encoder.towers["sound"].mel == heard.MEL


def test_resumed_after_a_crash_in_the_middle_of_a_step(undisturbed, folder, tmp_path, caplog):
    """A step of the second epoch."""
    crash = part(f"{__name__}.Crash", step=4)
    with pytest.raises(RuntimeError, match="crash"):
        main(sound_fit.words(folder, tmp_path, sound_fit.config(), crash))
    words = sound_fit.words(folder, tmp_path, sound_fit.config())
    assert main([*words, f"--ckpt_path={tmp_path}/last.ckpt"]) == 0
    assert_same_end(undisturbed, tmp_path, 0)
    assert BROKEN in caplog.text
    assert "member wav" in caplog.text


def test_a_sample_with_a_broken_sound_is_skipped_by_choice(folder, tmp_path, caplog):
    given = sound_fit.config(on_error="skip")
    assert sound_fit.fit(folder, tmp_path, given, "--trainer.max_steps=4") == 0
    assert BROKEN in caplog.text
    assert not any(BROKEN in line for line in keys_after(tmp_path, 0))
