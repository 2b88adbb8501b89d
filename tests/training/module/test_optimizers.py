"""Optimizers by class path, precisions and clipping, through the real command."""

from __future__ import annotations

import pytest
import torch

from clipkit.cli.main import main
from clipkit.errors import ConfigError
from clipkit.training.strategies.sharding import clip_gradients, gradient_norm
from tests.helpers import tiny


def weights(run):
    return torch.load(run / "last.ckpt", weights_only=True)["state_dict"]


def fit(shards, run, *more):
    words = [w for w in tiny.words(shards, run) if "optimizer=" not in w and "checkpoint" not in w]
    saving = "--trainer.callbacks+=clipkit.training.callbacks.SaveCheckpoint"
    assert main(["fit", *words, saving, *more]) == 0
    return weights(run)


@pytest.mark.parametrize("optimizer", ["timm.optim.Lamb", "timm.optim.Muon", "torch.optim.SGD"])
def test_optimizers_by_class_path(shards, tmp_path, optimizer):
    if optimizer.endswith("Muon"):
        pytest.importorskip("timm.optim.muon")
    state = fit(shards, tmp_path, f"--model.optimizer={optimizer}", "--model.optimizer.lr=0.01")
    start = tiny.module().state_dict()
    # the seed of the command is that of tiny: both start at the same weights
    name = "encoder.image_tower.visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert torch.isfinite(state[name]).all()
    assert 1e-5 < (state[name] - start[name]).abs().max() < 1


def test_fused_optimizers_are_clipped_in_mixed_precision(shards, tmp_path):
    """Lightning refuses; unclipped, SGD would go as far as the gradients are long."""
    options = ["--trainer.gradient_clip_val=1e-3", "--trainer.max_steps=1"]
    sgd = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1.0"]
    flat = ["--model.schedule.warmup=0"]
    states = [
        fit(shards, tmp_path / str(fused), *options, *sgd, *flat, f"--trainer.precision={p}",
            f"--model.optimizer.fused={fused}")
        for fused, p in (("true", "bf16-mixed"), ("false", "32-true"))
    ]  # fmt: skip
    start = dict(tiny.module().named_parameters())
    for state in states:
        moved = sum((state[name] - p.detach()).square().sum() for name, p in start.items())
        assert float(moved) ** 0.5 == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_at_0_is_no_clipping(shards, tmp_path, algorithm):
    sgd = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    clipping = {"0": "0", "off": "null"}
    states = [
        fit(shards, tmp_path / name, *sgd, f"--trainer.gradient_clip_val={value}",
            f"--trainer.gradient_clip_algorithm={algorithm}", "--trainer.max_steps=2")
        for name, value in clipping.items()
    ]  # fmt: skip
    for name, value in states[0].items():
        if torch.is_tensor(value):
            assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize("value", [-1.0, -0.0001, float("nan")])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_below_0_is_refused(shards, tmp_path, value, algorithm):
    trainer = tiny.trainer(
        tmp_path, max_steps=1, gradient_clip_val=value, gradient_clip_algorithm=algorithm
    )
    with pytest.raises(ConfigError, match=r"trainer\.gradient_clip_val: expected.*null.*got"):
        trainer.fit(tiny.module(), datamodule=tiny.data(shards))
    with pytest.raises(ConfigError, match="max_norm: expected more than 0"):
        clip_gradients([], value)


def test_norm_and_clipping_are_those_of_torch():
    parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    twins = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    for both in zip(parameters, twins, strict=True):
        for parameter in both:
            parameter.grad = 7 * parameter.detach().clone()
    expected = torch.nn.utils.clip_grad_norm_(twins, 0.5)
    torch.testing.assert_close(gradient_norm(parameters), expected)
    clip_gradients(parameters, 0.5)
    for parameter, twin in zip(parameters, twins, strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad)
