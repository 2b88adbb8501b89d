"""A run that is stopped anywhere and resumed sees exactly what an undisturbed one would see."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from clipkit.models import from_open_clip
from clipkit.training import MixtureOptions, MixtureSource, PairDataModule
from clipkit.training.callbacks import KeyLog, SaveCheckpoint
from tests.helpers import tiny

STEPS = 13  # 23 pairs in batches of 4: five batches an epoch, so this ends in the third


class Crash(Callback):
    """Raises in the middle of a step, once its batch was fetched."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


def fit(
    shards: Path, run: Path, *callbacks: Callback, batch_size=4, val=False, ckpt=None, **options
):
    """Train; returns the lines of the key log and the module."""
    options = {"max_steps": STEPS, **options}
    trainer = tiny.trainer(run, KeyLog(str(run / "keys.txt")), *callbacks, **options)
    module = tiny.module()
    data = tiny.data(shards, batch_size, val=val)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    return (run / "keys.txt").read_text().splitlines(), module


def weights_equal(first, second) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_steps": -1, "max_epochs": 3},
        {"val": True},
        {"accumulate_grad_batches": 2},
        {"limit_train_batches": 3},
    ],
    ids=["steps", "epochs", "validation", "accumulation", "short epochs"],
)
def test_resumed_after_any_step(shards, tmp_path, options):
    whole, module = fit(shards, tmp_path, SaveCheckpoint(keep_every_n_steps=1), **options)
    steps = sorted(int(path.stem.split("=")[1]) for path in tmp_path.glob("step=*.ckpt"))
    assert len(steps) >= 8
    for step in steps[:-1]:
        lines, again = fit(shards, tmp_path, ckpt=tmp_path / f"step={step}.ckpt", **options)
        assert lines == whole, f"resumed after step {step}"
        assert weights_equal(module, again), f"resumed after step {step}"


def test_dropped_patches_are_the_same_after_a_resume(shards, tmp_path):
    """Random numbers of a step follow from its place in the stream."""

    def run(ckpt=None, seed=0):
        torch.manual_seed(seed)  # whatever state a process is in
        module = tiny.module()
        module.encoder = from_open_clip(tiny.CONFIG, patch_dropout=0.5)
        module.encoder.load_state_dict(tiny.encoder().state_dict())
        save = SaveCheckpoint(keep_every_n_steps=3)
        trainer = tiny.trainer(tmp_path, save, max_steps=7)
        trainer.fit(module, datamodule=tiny.data(shards), ckpt_path=ckpt)
        return module

    whole = run()
    for step in (3, 6):
        assert weights_equal(whole, run(tmp_path / f"step={step}.ckpt", seed=step))


def test_mixture_resumed_after_any_step(shards, tmp_path):
    """Two sources at 3 to 1, through several epochs."""

    def run(folder, ckpt=None, save=None):
        sources = [
            MixtureSource("first", str(shards / "train" / "00000.tar"), weight=3),
            MixtureSource("second", str(shards / "train" / "00001.tar"), weight=1),
        ]
        callbacks = [KeyLog(str(folder / "keys.txt")), *([save] if save else [])]
        trainer = tiny.trainer(folder, *callbacks, max_steps=STEPS)
        data = PairDataModule(mixture=MixtureOptions(sources), batch_size=4)
        trainer.fit(tiny.module(), datamodule=data, ckpt_path=ckpt)
        return (folder / "keys.txt").read_text().splitlines()

    whole = run(tmp_path, save=SaveCheckpoint(keep_every_n_steps=1))
    first = sum(int(line.split()[2]) < 9 for line in whole)
    assert first == len(whole) * 3 // 4
    for step in range(1, STEPS):
        assert run(tmp_path, ckpt=tmp_path / f"step={step}.ckpt") == whole, f"after step {step}"


@pytest.mark.parametrize("batch_size", [3, 5, 7])
def test_a_mixture_resumed_with_another_batch_size_drops_nothing(shards, tmp_path, batch_size):
    """An epoch has 16 samples, which none of these divides: steps reach into the next epoch."""

    def run(folder, size, epochs, ckpt=None, **options):
        sources = [
            MixtureSource("first", str(shards / "train" / "00000.tar"), weight=3),
            MixtureSource("second", str(shards / "train" / "00001.tar"), weight=1),
        ]
        callbacks = [KeyLog(str(folder / "keys.txt")), SaveCheckpoint(every_n_steps=1)]
        trainer = tiny.trainer(folder, *callbacks, max_epochs=epochs, max_steps=-1, **options)
        mixture = MixtureOptions(sources, epoch_samples=16)
        data = PairDataModule(mixture=mixture, batch_size=size)
        trainer.fit(tiny.module(), datamodule=data, ckpt_path=ckpt)
        keys = [line.split()[2] for line in (folder / "keys.txt").read_text().splitlines()]
        return keys, trainer

    whole, _ = run(tmp_path / "whole", 4, 6)
    assert len(whole) == 6 * 16
    folder = tmp_path / "run"
    first, _ = run(folder, 4, 1, limit_train_batches=2)
    assert first == whole[:8]
    keys, trainer = run(folder, batch_size, 3, folder / "last.ckpt")
    assert keys == whole[: len(keys)]
    assert 3 * 16 <= len(keys) < 3 * 16 + batch_size
    assert trainer.current_epoch == 3
    keys, _ = run(folder, 4, 5, folder / "last.ckpt")
    assert keys == whole[: len(keys)]
    assert 5 * 16 <= len(keys) < 5 * 16 + 4


def test_an_epoch_gives_no_sample_twice(shards, tmp_path):
    lines, _ = fit(shards, tmp_path)
    keys = [line.split()[2] for line in lines]
    for epoch in range(2):
        assert len(set(keys[20 * epoch : 20 * (epoch + 1)])) == 20
    assert keys[:20] != keys[20:40]


@pytest.mark.parametrize("step", [3, 5, 8])
def test_resumed_after_an_exception(shards, tmp_path, step):
    whole, module = fit(shards, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="crash"):
        fit(shards, tmp_path / "run", Crash(step), SaveCheckpoint())
    lines, again = fit(shards, tmp_path / "run", ckpt=tmp_path / "run" / "last.ckpt")
    assert lines == whole
    assert weights_equal(module.encoder, again.encoder)


class PressCtrlC(Callback):
    """In the last batch of a window of accumulated gradients."""

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == 3 and not trainer.fit_loop._should_accumulate():
            raise KeyboardInterrupt


@pytest.mark.parametrize("window", [2, 3])
def test_ctrl_c_inside_a_window_loses_none_of_its_samples(shards, tmp_path, window):
    options = {"accumulate_grad_batches": window, "max_steps": 6}
    whole, module = fit(shards, tmp_path / "whole", **options)
    with pytest.raises(SystemExit):
        fit(shards, tmp_path / "run", PressCtrlC(), SaveCheckpoint(), **options)
    last = tmp_path / "run" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    lines, again = fit(shards, tmp_path / "run", ckpt=last, **options)
    assert lines == whole
    assert weights_equal(module.encoder, again.encoder)


def test_resumed_after_sigterm(shards, tmp_path):
    """What a scheduler sends before it takes the machine away, in the middle of a step."""
    whole, module = fit(shards, tmp_path / "whole")

    class Terminate(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            if trainer.global_step == 7:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        fit(shards, tmp_path / "run", Terminate(), SaveCheckpoint())
    last = tmp_path / "run" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 8
    lines, again = fit(shards, tmp_path / "run", ckpt=last)
    assert lines == whole
    assert weights_equal(module.encoder, again.encoder)


def test_resumed_twice(shards, tmp_path):
    whole, module = fit(shards, tmp_path / "whole")
    run = tmp_path / "run"
    for step, ckpt in ((4, None), (7, run / "last.ckpt")):
        with pytest.raises(RuntimeError, match="crash"):
            fit(shards, run, Crash(step), SaveCheckpoint(), ckpt=ckpt)
    lines, again = fit(shards, run, ckpt=run / "last.ckpt")
    assert lines == whole
    assert weights_equal(module.encoder, again.encoder)


def test_resumed_from_the_last_step_of_a_run_that_is_made_longer(shards, tmp_path):
    whole, _ = fit(shards, tmp_path / "whole")
    for steps in (7, 10):  # in the middle and at the end of the second epoch
        run = tmp_path / str(steps)
        fit(shards, run, SaveCheckpoint(), max_steps=steps)
        lines, _ = fit(shards, run, ckpt=run / "last.ckpt")
        assert lines == whole


def test_resumed_with_another_batch_size(shards, tmp_path):
    """Batches of 2 instead of 4, from the middle of an epoch: the same samples in the same order.

    max_steps counts steps of the first start's size, so it means the same twenty samples.
    """
    whole, _ = fit(shards, tmp_path / "whole", max_steps=5)
    fit(shards, tmp_path / "run", SaveCheckpoint(every_n_steps=1), max_steps=3)
    lines, _ = fit(
        shards, tmp_path / "run", batch_size=2, ckpt=tmp_path / "run" / "last.ckpt", max_steps=5
    )
    keys = [[line.split()[2] for line in run] for run in (whole, lines)]
    assert keys[0] == keys[1]


@pytest.fixture
def one_thread():
    """A forked process must not use several, and weights compare bit for bit at one number only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_killed_and_resumed(shards, tmp_path):
    """SIGKILL at arbitrary moments, again and again: the run ends as if nothing had happened."""
    whole, module = fit(shards, tmp_path / "whole", max_steps=40)
    run, log = tmp_path / "run", tmp_path / "run" / "keys.txt"

    def train() -> None:
        last = run / "last.ckpt"
        ckpt = last if last.exists() else None
        fit(shards, run, SaveCheckpoint(every_n_steps=1), max_steps=40, ckpt=ckpt)

    for lines_before_the_kill in (18, 70, 110):
        process = mp.get_context("fork").Process(target=train)
        process.start()
        deadline = time.monotonic() + 120
        while not (log.exists() and log.read_text().count("\n") >= lines_before_the_kill):
            assert process.is_alive(), "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.join()
        assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] < 40
    lines, again = fit(shards, run, max_steps=40, ckpt=run / "last.ckpt")
    assert lines == whole
    assert Counter(line.split()[0] for line in whole) == {str(n + 1): 4 for n in range(40)}
    assert weights_equal(module.encoder, again.encoder)


def test_a_resume_survives_who_asks_for_the_number_of_steps(shards, tmp_path):
    """Lightning sets its loaders up where an optimizer's builder reads this, before the restore."""

    def run(ckpt=None):
        log = KeyLog(str(tmp_path / "keys.txt"))
        trainer = tiny.trainer(tmp_path, log, SaveCheckpoint(keep_every_n_steps=3), max_steps=STEPS)
        module = tiny.module()
        build, asked = module._build_optimizer, []

        def ask_first(groups):
            asked.append(trainer.estimated_stepping_batches)
            return build(groups)

        module._build_optimizer = ask_first
        trainer.fit(module, datamodule=tiny.data(shards), ckpt_path=ckpt)
        assert asked == [STEPS]
        return (tmp_path / "keys.txt").read_text()

    whole = run()
    for step in (3, 9):
        assert run(tmp_path / f"step={step}.ckpt") == whole


def test_batches_that_workers_had_ready_are_made_again(shards, tmp_path):
    def run(ckpt=None):
        log = KeyLog(str(tmp_path / "keys.txt"))
        trainer = tiny.trainer(tmp_path, log, SaveCheckpoint(keep_every_n_steps=4), max_steps=STEPS)
        trainer.fit(tiny.module(), datamodule=tiny.data(shards, num_workers=2), ckpt_path=ckpt)
        return (tmp_path / "keys.txt").read_text().splitlines()

    whole = run()
    assert whole == fit(shards, tmp_path / "alone")[0]
    assert run(tmp_path / "step=8.ckpt") == whole


def test_a_run_without_a_checkpoint_path_begins_anew(shards, tmp_path):
    """Even in the folder of a run that crashed."""
    whole, _ = fit(shards, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="crash"):
        fit(shards, tmp_path / "run", Crash(6), SaveCheckpoint(every_n_steps=1))
    lines, _ = fit(shards, tmp_path / "run", SaveCheckpoint(every_n_steps=1))
    assert lines == whole
