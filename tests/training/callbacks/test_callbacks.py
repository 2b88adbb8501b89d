"""Each callback, under a real trainer where it matters."""

from __future__ import annotations

import io
import time

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from torch import nn

from clipkit.errors import CheckpointError, ConfigError
from clipkit.evaluation import Evaluator
from clipkit.models.checkpoints.encoder import load_encoder
from clipkit.models.flops import EncoderFlops
from clipkit.models.parameters import count_parameters
from clipkit.training.callbacks import (
    ActivationCheckpointing,
    AddLora,
    ExponentialMovingAverage,
    KeyLog,
    LockTower,
    ProgressBar,
    SaveCheckpoint,
    Throughput,
    ZeroShotEvaluation,
)
from clipkit.training.callbacks.parameter_summary import parameter_table
from clipkit.training.callbacks.progress_bar import figures
from clipkit.training.checkpoints.io import AtomicCheckpointIO
from tests.helpers import tiny


class Errors(Evaluator):
    primary_metric, greater_is_better = "value", False

    def __init__(self):
        self.values = iter([3.0, 1.0, 2.0])

    def run(self, encoder):
        value = next(self.values)
        return {"value": value, "other": 7.0 - value}


class Plain(Evaluator):
    def run(self, encoder):
        return {"value": 0.0}


def fit(shards, run, *callbacks, val=False, ckpt=None, labels=False, **options):
    trainer = tiny.trainer(run, *callbacks, **{"max_steps": 6, **options})
    module = tiny.module(labels=labels)
    trainer.fit(module, datamodule=tiny.data(shards, val=val), ckpt_path=ckpt)
    return trainer, module


class TestKeyLog:
    def test_lines_name_step_rank_and_key(self, shards, tmp_path):
        fit(shards, tmp_path, KeyLog(str(tmp_path / "deep" / "keys.txt")))
        lines = (tmp_path / "deep" / "keys.txt").read_text().splitlines()
        assert [line.split()[:2] for line in lines] == [
            [str(step), "0"] for step in range(1, 7) for _ in range(4)
        ]
        assert {line.split()[2] for line in lines} <= {f"{i:06d}" for i in range(23)}

    def test_accumulated_batches_belong_to_one_step(self, shards, tmp_path):
        fit(shards, tmp_path, KeyLog(str(tmp_path / "k")), accumulate_grad_batches=2, max_steps=3)
        lines = (tmp_path / "k").read_text().splitlines()
        # five batches an epoch: two windows of two, and one of one
        assert [sum(line.startswith(f"{n} ") for line in lines) for n in (1, 2, 3)] == [8, 8, 4]

    def test_half_a_line_of_a_killed_run_is_dropped(self, shards, tmp_path):
        log = tmp_path / "k"
        fit(shards, tmp_path, KeyLog(str(log)), SaveCheckpoint(), max_steps=2)
        whole = log.read_text()
        log.write_text(whole + "2")
        fit(shards, tmp_path, KeyLog(str(log)), ckpt=tmp_path / "last.ckpt", max_steps=3)
        assert log.read_text().startswith(whole + "3 0 ")


class TestSaveCheckpoint:
    def test_by_steps_with_those_that_stay(self, shards, tmp_path):
        fit(shards, tmp_path, SaveCheckpoint(keep_every_n_steps=4))
        assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "step=4.ckpt"}
        steps = [
            torch.load(tmp_path / name)["global_step"] for name in ("last.ckpt", "step=4.ckpt")
        ]
        assert steps == [6, 4]

    def test_by_minutes(self, shards, tmp_path, monkeypatch):
        saved = []
        monkeypatch.setattr(
            SaveCheckpoint,
            "save",
            lambda self, trainer, *_: saved.append(trainer.global_step) or True,
        )
        fit(shards, tmp_path, SaveCheckpoint(every_n_minutes=1e-9))
        assert saved[:6] == [1, 2, 3, 4, 5, 6]
        saved.clear()
        fit(shards, tmp_path, SaveCheckpoint(every_n_minutes=60))
        assert saved == [6]

    def test_best_of_a_metric(self, shards, tmp_path):
        trainer, _ = fit(
            shards,
            tmp_path,
            SaveCheckpoint(monitor="val/loss", mode="min"),
            val=True,
            val_check_interval=2,
        )
        best = torch.load(tmp_path / "best.ckpt")
        score = -best["callbacks"]["SaveCheckpoint"]["best"]
        assert score <= float(trainer.callback_metrics["val/loss"]) + 1e-6

    @pytest.mark.parametrize(
        ("monitor", "mode", "best"),
        [("error", None, 1.0), ("error/value", None, 1.0), ("error/other", None, 6.0),
         ("error", "max", 3.0)],
    )  # fmt: skip
    def test_an_evaluator_by_name_is_its_primary_metric(
        self, shards, tmp_path, monitor, mode, best
    ):
        """The metric goes 3, 1, 2 and the other one the opposite way; smaller is better."""
        evaluation = ZeroShotEvaluation({"error": Errors()})
        saver = SaveCheckpoint(monitor=monitor, mode=mode)
        fit(shards, tmp_path, evaluation, saver, val=True, val_check_interval=2)
        assert abs(saver.state_dict()["best"]) == best

    def test_an_evaluator_without_primary_metric_is_refused_at_once(self, shards, tmp_path):
        evaluation = ZeroShotEvaluation({"plain": Plain()})
        with pytest.raises(ConfigError, match=r"'plain' declares no primary_metric.*plain/KEY"):
            fit(shards, tmp_path, evaluation, SaveCheckpoint(monitor="plain"), max_steps=1)
        assert not (tmp_path / "last.ckpt").exists()

    def test_never_inside_a_window_of_accumulated_gradients(self, shards, tmp_path):
        fit(
            shards,
            tmp_path,
            SaveCheckpoint(every_n_minutes=1e-9),
            KeyLog(str(tmp_path / "k")),
            accumulate_grad_batches=2,
            max_steps=2,
        )
        stored = torch.load(tmp_path / "last.ckpt")
        assert stored["PairDataModule"]["train"]["position"] == 16

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SIGTERMException, ValueError])
    def test_interrupted_run_is_saved(self, shards, tmp_path, error):
        class Interrupt(Callback):
            def on_before_backward(self, trainer, pl_module, loss):
                if trainer.global_step == 3:
                    raise error("stop")

        with pytest.raises((SystemExit, error)):
            fit(shards, tmp_path, Interrupt(), SaveCheckpoint())
        assert torch.load(tmp_path / "last.ckpt")["global_step"] == 3

    def test_weights_ahead_of_the_cursor_are_not_saved(self, shards, tmp_path):
        """Between the optimizer's step and the commit a checkpoint would repeat the batch."""

        class Break(Callback):
            def on_train_batch_end(self, trainer, *_):
                if trainer.global_step == 3:
                    raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            fit(shards, tmp_path, Break(), SaveCheckpoint())
        assert not (tmp_path / "last.ckpt").exists()

    @pytest.mark.parametrize("name", ["every_n_steps", "every_n_minutes", "keep_every_n_steps"])
    def test_numbers_are_checked(self, name):
        with pytest.raises(ConfigError, match=name):
            SaveCheckpoint(**{name: 0})


class TestAtomicCheckpointIO:
    def test_a_full_disk_leaves_the_former_checkpoint(self, tmp_path, monkeypatch):
        writer, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
        version = {"pytorch-lightning_version": "2"}
        writer.save_checkpoint({"step": 1, **version}, path)

        def full(checkpoint, target, *_, **__):
            target.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space"):
            writer.save_checkpoint({"step": 2, **version}, path)
        assert writer.load_checkpoint(path)["step"] == 1
        assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]

    def test_half_a_checkpoint_is_named(self, tmp_path):
        (tmp_path / "half.ckpt").write_bytes(b"PK\x03\x04 and no more")
        with pytest.raises(CheckpointError, match=r"half\.ckpt: expected a complete checkpoint"):
            AtomicCheckpointIO().load_checkpoint(tmp_path / "half.ckpt")


class TestAverageWeights:
    def test_average_is_saved_beside_the_weights_and_goes_on_exactly(self, shards, tmp_path):
        class Crash(Callback):
            def on_before_backward(self, trainer, pl_module, loss):
                if trainer.global_step == 3:
                    raise ValueError("crash")

        average = ExponentialMovingAverage(decay=0.5)
        fit(shards, tmp_path / "whole", average, SaveCheckpoint())
        last = tmp_path / "run" / "last.ckpt"
        with pytest.raises(ValueError, match="crash"):
            fit(shards, last.parent, ExponentialMovingAverage(decay=0.5), Crash(), SaveCheckpoint())
        fit(shards, last.parent, ExponentialMovingAverage(decay=0.5), SaveCheckpoint(), ckpt=last)

        whole, again = (
            load_encoder(path, prefix="ema.") for path in (tmp_path / "whole" / "last.ckpt", last)
        )
        for expected, got in zip(whole.parameters(), again.parameters(), strict=True):
            assert torch.equal(expected, got)
        weights = load_encoder(last, prefix="encoder.")
        assert not torch.equal(again.log_logit_scale, weights.log_logit_scale)

    def test_validation_looks_at_the_average(self, shards, tmp_path):
        seen = {}

        class Look(Callback):
            def on_validation_epoch_start(self, trainer, pl_module):
                seen["validation"] = pl_module.encoder.log_logit_scale.item()

            def on_train_batch_end(self, trainer, pl_module, *_):
                seen["training"] = pl_module.encoder.log_logit_scale.item()

        callbacks = (ExponentialMovingAverage(decay=0.9), Look(), SaveCheckpoint())
        _, module = fit(shards, tmp_path, *callbacks, val=True, max_steps=5)
        average = load_encoder(tmp_path / "last.ckpt", prefix="ema.").log_logit_scale.item()
        assert seen["validation"] == pytest.approx(average, abs=1e-7)
        assert seen["training"] != seen["validation"]
        assert module.encoder.log_logit_scale.item() == seen["training"]

    def test_decay_is_checked_before_training(self, shards, tmp_path):
        with pytest.raises(ConfigError, match="decay"):
            fit(shards, tmp_path, ExponentialMovingAverage(decay=1.0))


class TestZeroShotEvaluation:
    class Count(Evaluator):
        def __init__(self) -> None:
            self.runs = 0

        def run(self, encoder):
            self.runs += 1
            return {"top1": float(self.runs)}

    @pytest.mark.parametrize(
        ("every", "val", "runs"), [(None, False, 1), (2, False, 3), (4, False, 2), (None, True, 2)]
    )
    def test_runs_when_it_should(self, shards, tmp_path, every, val, runs):
        """Six steps, an epoch after five: at the end at the latest, never twice for one state."""
        evaluator = self.Count()
        callback = ZeroShotEvaluation({"count": evaluator}, every_n_steps=every)
        trainer, _ = fit(shards, tmp_path, callback, val=val)
        assert evaluator.runs == runs
        if val:
            assert trainer.callback_metrics["count/top1"] == 1.0

    def test_needs_an_evaluator(self):
        with pytest.raises(ConfigError, match="at least one"):
            ZeroShotEvaluation({})


class TestLockTower:
    @pytest.mark.parametrize("tower", ["image_tower", "text_tower"])
    def test_locked_tower_stays_as_it_was(self, shards, tmp_path, tower):
        before = {k: v.clone() for k, v in tiny.encoder().state_dict().items()}
        _, module = fit(shards, tmp_path, LockTower(tower))
        moved = {
            name.split(".")[0]
            for name, value in module.encoder.state_dict().items()
            if not torch.equal(value, before[name])
        }
        other = {"image_tower": "text_tower", "text_tower": "image_tower"}[tower]
        assert moved == {other, "log_logit_scale"}


class TestThroughput:
    def test_waiting_for_data_is_told_from_work(self, shards, tmp_path):
        """A step that takes 50 ms and data that is there: nearly no waiting; validation is none."""

        class Slow(Callback):
            def on_before_backward(self, trainer, pl_module, loss):
                time.sleep(0.05)

            def on_validation_epoch_start(self, trainer, pl_module):
                time.sleep(0.5)

        values = {}

        class Keep(Callback):
            def on_train_batch_end(self, trainer, *_):
                values.update({k: float(v) for k, v in trainer.callback_metrics.items()})

        callbacks = (Slow(), Throughput(), Keep())
        fit(shards, tmp_path, *callbacks, val=True, val_check_interval=2, max_steps=5)
        assert 0 <= values["throughput/data_wait_share"] < 0.5
        assert 0 < values["throughput/samples_per_second"] < 4 / 0.05

    @pytest.mark.parametrize("recompute", [False, True])
    def test_operations_are_those_of_the_steps(self, shards, tmp_path, recompute):
        """The rate times the duration, which the samples per second give, is the count."""
        values = {}

        class Keep(Callback):
            def on_train_batch_end(self, trainer, module, outputs, batch, *_):
                values.update({k: float(v) for k, v in trainer.callback_metrics.items()})
                values["tokens"] = batch.tokens.shape[1]

        blocks = [ActivationCheckpointing()] if recompute else []
        fit(shards, tmp_path, *blocks, Throughput(peak_tflops=2.0), Keep(), max_steps=1)
        flops = EncoderFlops(tiny.encoder())
        per_pair = flops.image(16) + flops.text(values["tokens"])
        rate = values["throughput/samples_per_second"] * per_pair / 1e12
        assert values["throughput/tflops_per_second"] == pytest.approx(rate, rel=1e-6)
        assert values["throughput/mfu"] == pytest.approx(rate / 2, rel=1e-6)

    def test_parameters_that_come_later_are_said(self, shards, tmp_path, caplog):
        callbacks = (Throughput(peak_tflops=2.0), AddLora())
        fit(shards, tmp_path, *callbacks, max_steps=1)
        assert "list Throughput last" in caplog.text
        assert callbacks[0]._flops is None


class TestProgressBar:
    def test_bar_ends_full_on_a_terminal(self, shards, tmp_path):
        bar, screen = ProgressBar(), io.StringIO()
        bar._console = Console(file=screen, force_terminal=True, width=120)
        fit(shards, tmp_path, bar, Throughput(), enable_progress_bar=True)
        text = screen.getvalue()
        assert "100%" in text
        assert "step 6 loss" in text
        assert "samples/s" in text

    def test_lines_elsewhere(self, shards, tmp_path):
        bar, screen = ProgressBar(), io.StringIO()
        bar._console = Console(file=screen, force_terminal=False, width=120)
        fit(shards, tmp_path, bar, enable_progress_bar=True)
        assert screen.getvalue().startswith("training 17% step 1 loss")

    def test_figures_that_were_not_logged_are_left_out(self):
        assert figures({"train/loss": 2.0, "other": 1.0}) == "loss 2.000"


def test_parameters_are_counted_by_part():
    encoder = tiny.encoder(labels=True)
    encoder.text_tower.requires_grad_(False)
    counts = count_parameters(encoder)
    assert set(counts) == {"log_logit_scale", "image_tower", "text_tower", "label_head"}
    assert counts["log_logit_scale"] == (1, 1)
    assert counts["text_tower"][0] > 49408 * 16
    assert counts["text_tower"][1] == 0
    assert sum(all_ for all_, _ in counts.values()) == sum(p.numel() for p in encoder.parameters())
    assert parameter_table(counts).row_count == 5


def test_shared_parameters_count_once():
    layer = nn.Linear(2, 2, bias=False)
    assert count_parameters(nn.ModuleDict({"a": layer, "b": layer})) == {"a": (4, 4)}
