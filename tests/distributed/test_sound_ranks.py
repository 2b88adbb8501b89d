"""``clipkit fit`` and ``embed`` with images, captions and sounds: two ranks do as one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipkit.cli.main import main
from clipkit.models import save_encoder
from tests.helpers import sound_collections, sound_fit, tiny
from tests.helpers.commands import command_on_ranks
from tests.helpers.ranks import run_ranks

NUM_STEPS, MIDDLE = 4, 2
CONFIG = sound_fit.config(dropout=0.0)  # dropout differs between numbers of ranks
FINAL = f"step={NUM_STEPS}.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound_fit.write_samples(tmp_path_factory.mktemp("sounds"))


def fits(rank: int, world_size: int, runs: list[list[str]]) -> list[int]:
    return [main(words) for words in runs]


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """A run on two ranks; ``resumed`` next to it continues from its middle."""
    two, ranks = folder / "two", ["--trainer.devices=2", "--trainer.strategy=ddp"]
    ranks += ["--data.batch_size=3", f"--trainer.max_steps={NUM_STEPS}"]
    words = [sound_fit.words(folder, run, CONFIG) + ranks for run in (two, folder / "resumed")]
    words[1].append(f"--ckpt_path={two}/step={MIDDLE}.ckpt")
    assert run_ranks(fits, 2, words, joined=False) == [[0, 0]] * 2
    return two


def samples_of_steps(run: Path) -> dict[int, set[str]]:
    steps: dict[int, set[str]] = {}
    for line in (run / "keys.txt").read_text().splitlines():
        step, _, key = line.split()
        steps.setdefault(int(step), set()).add(key)
    return steps


def test_two_ranks_have_samples_losses_and_weights_of_one(folder: Path, two: Path) -> None:
    one = folder / "one"
    assert sound_fit.fit(folder, one, CONFIG, f"--trainer.max_steps={NUM_STEPS}") == 0
    assert samples_of_steps(two) == samples_of_steps(one)
    expected, found = sound_fit.losses(one), sound_fit.losses(two)
    assert sorted(found) == sorted(expected) == list(range(NUM_STEPS))
    for step, terms in expected.items():
        assert set(terms) >= {"train/loss", "train/sound_image", "train/st"}
        assert found[step] == pytest.approx(terms, rel=1e-4, abs=1e-5), step
    wanted, got = (tiny.comparable(sound_fit.weights(run / FINAL)) for run in (one, two))
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_two_ranks_resume_exactly(folder: Path, two: Path) -> None:
    resumed = folder / "resumed"
    later = {step: keys for step, keys in samples_of_steps(two).items() if step > MIDDLE}
    assert samples_of_steps(resumed) == later
    expected = sound_fit.losses(two)
    assert sound_fit.losses(resumed) == {step: expected[step] for step in range(MIDDLE, NUM_STEPS)}
    want, got = (sound_fit.weights(run / FINAL) for run in (two, resumed))
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


def test_two_ranks_embed_sounds_as_one_does(tmp_path: Path) -> None:
    save_encoder(sound_collections.encoder(), tmp_path / "model")
    sound_collections.write_data(tmp_path / "data")
    words = [
        "embed", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "data"),
        "--device", "cpu", "--num-workers", "0", "--max-bad-fraction", "0.5", "--output",
    ]  # fmt: skip
    assert main([*words, str(tmp_path / "1")]) == 0
    two = command_on_ranks([*words, str(tmp_path / "2")], 2)
    assert [status for status, _ in two] == [0, 0]
    assert [said.count("7 images, 5 sounds and ") for _, said in two] == [1, 0]
    one, both = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "12"
    )
    assert {"0.sound.f16.npy", "1.sound.f16.npy"} <= one.keys()
    assert both == one
