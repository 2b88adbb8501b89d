"""``--weights``: whatever reads a checkpoint takes the average where there is one, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from clipkit.cli.main import main
from clipkit.collection import read_info
from clipkit.errors import CheckpointError, ConfigError
from clipkit.evaluation import Evaluator
from clipkit.models import from_checkpoint, load_encoder, save_encoder
from clipkit.models.checkpoints.encoder import PREFIXES
from clipkit.training.callbacks import ExponentialMovingAverage, SaveCheckpoint, ZeroShotEvaluation
from tests.helpers import tiny

CHOICES = {None: "average", "average": "average", "raw": "raw"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shards) -> dict[str, Path]:
    """Checkpoints of a run with an average, and of one without."""
    root = tmp_path_factory.mktemp("runs")
    for name, callbacks in (("with", [ExponentialMovingAverage(decay=0.9)]), ("without", [])):
        trainer = tiny.trainer(root / name, *callbacks, SaveCheckpoint(), max_steps=4)
        trainer.fit(tiny.module(learning_rate=0.05), datamodule=tiny.data(shards))
    return {name: root / name / "last.ckpt" for name in ("with", "without")}


def option(weights: str | None) -> list[str]:
    return [] if weights is None else [f"--weights={weights}"]


def assert_same(encoder, expected) -> None:
    for name, value in expected.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name


@pytest.mark.parametrize(("weights", "kind"), CHOICES.items())
class TestChoice:
    def test_evaluate(self, runs, shards, tmp_path, capsys, weights, kind):
        words = ["evaluate", "--model", str(runs["with"]), "--data", f"{shards}/val/*.tar"]
        output = tmp_path / "numbers.json"
        words += ["--task=retrieval", f"--output={output}", *option(weights)]
        assert main([*words, f"--report={tmp_path}/report"]) == 0
        assert f"({kind} weights)" in (tmp_path / "report" / "report.html").read_text()
        record = json.loads(output.read_text())
        assert record["weights"] == kind
        assert f"last.ckpt ({kind} weights) on" in capsys.readouterr().out
        # the same numbers as those of an encoder that has these weights only
        save_encoder(load_encoder(runs["with"], PREFIXES[kind]), tmp_path / "only")
        words[2] = str(tmp_path / "only")
        words = [word for word in words if not word.startswith("--weights")]
        assert main(words) == 0
        alone = json.loads(output.read_text())
        assert alone["metrics"] == record["metrics"]
        assert alone["weights"] is None

    def test_embed(self, runs, shards, tmp_path, capsys, weights, kind):
        words = ["--data", f"{shards}/val/*.tar", "--output", str(tmp_path / "out")]
        assert main(["embed", "--model", str(runs["with"]), *words, *option(weights)]) == 0
        assert read_info(tmp_path / "out").weights == kind
        assert f"({kind} weights)" in capsys.readouterr().out
        save_encoder(load_encoder(runs["with"], PREFIXES[kind]), tmp_path / "only")
        words[-1] = str(tmp_path / "alone")
        assert main(["embed", "--model", str(tmp_path / "only"), *words]) == 0
        images, alone = (
            np.load(next((tmp_path / name).glob("*.images.f16.npy"))) for name in ("out", "alone")
        )
        np.testing.assert_array_equal(images, alone)

    def test_export(self, runs, tmp_path, capsys, weights, kind):
        output = tmp_path / "out"
        words = ["export", "--model", str(runs["with"]), "--format=safetensors"]
        assert main([*words, f"--output={output}", *option(weights)]) == 0
        assert_same(load_encoder(output), load_encoder(runs["with"], PREFIXES[kind]))
        assert f"({kind} weights)" in capsys.readouterr().out
        text = {"average": "moving average over the steps", "raw": "of the last step"}[kind]
        assert f"| Weights | {text} |" in (output / "README.md").read_text()

    def test_interpolate(self, runs, tmp_path, capsys, weights, kind):
        words = ["interpolate", f"--start={runs['with']}", f"--end={runs['with']}", "--keep=0.5"]
        assert main([*words, f"--output={tmp_path}", *option(weights)]) == 0
        assert_same(load_encoder(tmp_path / "model"), load_encoder(runs["with"], PREFIXES[kind]))
        assert capsys.readouterr().out.count(f"({kind} weights)") == 2

    def test_finetune(self, runs, shards, tmp_path, capsys, weights, kind):
        words = ["finetune", f"--train={shards}/train", f"--model={runs['with']}"]
        assert main([*words, f"--output={tmp_path}", "--print", *option(weights)]) == 0
        text = (tmp_path / "finetune.yaml").read_text()
        assert f"# starts from {runs['with']} ({kind} weights)\n" in text
        start = yaml.safe_load(text)["model"]["encoder"]["init_args"]
        assert start["prefix"] == PREFIXES[kind]


def test_average_is_what_python_loads(runs, caplog):
    average, raw = (load_encoder(runs["with"], prefix) for prefix in ("ema.", "encoder."))
    assert_same(load_encoder(runs["with"]), average)
    assert_same(from_checkpoint(runs["with"]), average)
    assert "starting from the average weights" in caplog.text
    assert not torch.equal(average.log_logit_scale, raw.log_logit_scale)
    assert_same(load_encoder(runs["without"]), load_encoder(runs["without"], "encoder."))


def test_an_average_that_is_not_there_is_refused(runs, tmp_path, capsys):
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt: has no average.*ExponentialMovingAverage"
    ):
        load_encoder(runs["without"], "ema.")
    save_encoder(tiny.encoder(), tmp_path / "export")
    with pytest.raises(CheckpointError, match="got an export"):
        load_encoder(tmp_path / "export", "ema.")
    words = ["embed", "--weights=average", "--data=x", "--output", str(tmp_path / "out")]
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.CONFIG))
    from clipkit.models import load_model

    with pytest.raises(ConfigError, match=r"--weights: .*a model of open_clip"):
        load_model(str(tmp_path / "tiny.json"), "cpu", "average")
    assert load_model(str(tmp_path / "tiny.json"), "cpu", "raw").weights is None
    assert main([*words, "--model", str(runs["without"])]) != 0
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_whose_average_is_not_used_is_said(runs, shards, tmp_path, caplog):
    ckpt, data = str(runs["with"]), tiny.data(shards, val=True)
    tiny.trainer(tmp_path).validate(tiny.module(), datamodule=data, ckpt_path=ckpt)
    assert "using the raw weights" in caplog.text
    caplog.clear()
    trainer = tiny.trainer(tmp_path, ExponentialMovingAverage())
    trainer.validate(tiny.module(), datamodule=data, ckpt_path=ckpt)
    tiny.trainer(tmp_path).validate(tiny.module(), datamodule=data, ckpt_path=str(runs["without"]))
    assert "raw weights" not in caplog.text


class Scale(Evaluator):
    """An evaluator that measures the scale of the encoder it is given."""

    def run(self, encoder):
        return {"scale": float(encoder.logit_scale)}


def test_every_measure_and_prediction_of_a_run_uses_the_average(shards, tmp_path):
    """During steps, at validation, at the end of the fit, and in ``predict``."""
    average = ExponentialMovingAverage(decay=0.9)
    seen: list[tuple[float, float]] = []

    class Compare(Scale):
        def run(self, encoder):
            held = average._average
            assert held is not None
            seen.append((float(encoder.log_logit_scale), float(held.weights["log_logit_scale"])))
            return super().run(encoder)

    measure = ZeroShotEvaluation({"scale": Compare()}, every_n_steps=2)
    module, data = tiny.module(learning_rate=0.05), tiny.data(shards, val=True)
    trainer = tiny.trainer(tmp_path, average, measure, SaveCheckpoint(), max_steps=6)
    trainer.fit(module, datamodule=data)
    assert len(seen) >= 4
    assert all(measured == held for measured, held in seen)
    own = float(module.encoder.log_logit_scale)
    assert own != seen[-1][0]
    outputs: Any = trainer.predict(module, datamodule=data, ckpt_path=str(tmp_path / "last.ckpt"))
    assert float(module.encoder.log_logit_scale) == own
    expected = load_encoder(tmp_path / "last.ckpt", "ema.").train()
    batch = next(iter(data.val_dataloader()))
    torch.testing.assert_close(outputs[0]["image"], expected.encode_image(batch.images).detach())
