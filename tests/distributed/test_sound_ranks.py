"""``clipkit fit`` with images, captions and sounds on two ranks: losses of one, and its resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers import sound_fit, tiny
from tests.helpers.commands import command_on_ranks
from tests.helpers.sound_fit import NUM_STEPS

CONFIG = sound_fit.config(dropout=0.0)  # dropout differs between numbers of ranks
FINAL = f"step={NUM_STEPS}.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound_fit.write_samples(tmp_path_factory.mktemp("sounds"))


def fit_on_ranks(folder: Path, run: Path, *more: str) -> None:
    words = sound_fit.words(folder, run, CONFIG)
    ranks = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=3"]
    statuses = command_on_ranks([*words, *ranks, *more], 2)
    assert [status for status, _ in statuses] == [0, 0]


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    fit_on_ranks(folder, folder / "two")
    return folder / "two"


def samples_of_steps(run: Path) -> dict[int, set[str]]:
    steps: dict[int, set[str]] = {}
    for line in (run / "keys.txt").read_text().splitlines():
        step, _, key = line.split()
        steps.setdefault(int(step), set()).add(key)
    return steps


def test_two_ranks_have_samples_losses_and_weights_of_one(folder: Path, two: Path) -> None:
    one = folder / "one"
    assert sound_fit.fit(folder, one, CONFIG) == 0
    assert samples_of_steps(two) == samples_of_steps(one)
    expected, found = sound_fit.losses(one), sound_fit.losses(two)
    assert sorted(found) == sorted(expected) == list(range(NUM_STEPS))
    for step, terms in expected.items():
        assert set(terms) >= {"train/loss", "train/sound_image", "train/st"}
        assert found[step] == pytest.approx(terms, rel=1e-4, abs=1e-5), step
    wanted, got = (tiny.comparable(sound_fit.weights(run / FINAL)) for run in (one, two))
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_two_ranks_resume_exactly(folder: Path, two: Path, tmp_path: Path) -> None:
    fit_on_ranks(folder, tmp_path, f"--ckpt_path={two}/step=3.ckpt")
    later = {step: keys for step, keys in samples_of_steps(two).items() if step > 3}
    assert samples_of_steps(tmp_path) == later
    expected = sound_fit.losses(two)
    assert sound_fit.losses(tmp_path) == {step: expected[step] for step in (3, 4, 5)}
    want, got = (sound_fit.weights(run / FINAL) for run in (two, tmp_path))
    assert [name for name in want if not torch.equal(got[name], want[name])] == []
