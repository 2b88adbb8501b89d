"""The temporal convolutional network."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from clipkit.errors import ConfigError
from clipkit.mel import MelOptions
from clipkit.models import TcnTower
from clipkit.models.towers.signals.temporal_blocks import DilatedConvolution


def tower(shape=(5, 40), embedding_dim=8, **options):
    torch.manual_seed(0)
    defaults = {"width": 6, "num_blocks": 3, "mean": 0.0, "std": 1.0}
    return TcnTower(embedding_dim, input_shape=shape, **{**defaults, **options}).eval()


def series(num_frames=40, num_features=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, num_features, num_frames, generator=generator)


def convolved(values, convolution, kernel_size, causal):
    """Convolve one series [features frames] by its definition, frame by frame."""
    direction = convolution.direction
    length = direction.flatten(1).norm(dim=1)
    filters = direction * (convolution.length / length)[:, None, None]
    num_frames = values.shape[1]
    outputs = []
    for frame in range(num_frames):
        total = convolution.bias.clone()
        for tap in range(kernel_size):
            back = kernel_size - 1 - tap if causal else (kernel_size - 1) // 2 - tap
            source = frame - back * convolution.dilation
            if 0 <= source < num_frames:
                total = total + filters[:, :, tap] @ values[:, source]
        outputs.append(total)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize(("kernel_size", "causal"), [(3, False), (5, False), (3, True), (2, True)])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@torch.no_grad()
def test_embeddings_are_those_of_the_definition(kernel_size, causal, pooling):
    tcn = tower(kernel_size=kernel_size, causal=causal, pooling=pooling)
    for parameter in tcn.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    expected = []
    for values in series():
        for number, block in enumerate(tcn.blocks):
            assert block.first.dilation == block.second.dilation == 2**number
            states = convolved(values, block.first, kernel_size, causal).relu()
            states = convolved(states, block.second, kernel_size, causal).relu()
            residual = values
            if number == 0:  # from 5 features to 6
                weight, bias = block.residual.weight[:, :, 0], block.residual.bias
                residual = weight @ values + bias[:, None]
            values = (states + residual).relu()
        pooled = values.mean(dim=1) if pooling == "mean" else values[:, -1]
        expected.append(tcn.projection.weight @ pooled)
    torch.testing.assert_close(tcn(series()), torch.stack(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_weight_normalisation_is_that_of_torch():
    own = DilatedConvolution(4, 3, kernel_size=3, dilation=2)
    other = weight_norm(nn.Conv1d(4, 3, 3, dilation=2, padding=2))
    own.length.mul_(1.5)
    weight = other.parametrizations.weight
    weight.original0.copy_(own.length[:, None, None])
    weight.original1.copy_(own.direction)
    other.bias.copy_(own.bias)
    values = series(20, 4)
    torch.testing.assert_close(own(values), other(values))


@pytest.mark.parametrize("causal", [False, True])
def test_receptive_field(causal):
    """The frames that an output depends on are those of the formula, and of one side if causal."""
    tcn = tower((5, 101), causal=causal, kernel_size=3)
    values = series(101).requires_grad_()
    middle = tcn.blocks(values)[0, :, 50]
    (gradient,) = torch.autograd.grad(middle.sum(), values)
    seen = gradient[0].abs().sum(dim=0).nonzero().flatten()
    assert tcn.receptive_field == 1 + 2 * 2 * (1 + 2 + 4) == 29
    first, last = (50 - 28, 50) if causal else (50 - 14, 50 + 14)
    assert first <= seen.min()
    assert seen.max() <= last
    assert len(seen) > 20  # a ReLU may close some


@torch.no_grad()
def test_other_lengths_are_read():
    tcn = tower()
    for num_frames in (1, 7, 90):
        assert tcn(series(num_frames)).shape == (2, 8)


def test_dropout_leaves_out_complete_channels_in_training():
    tcn = tower(dropout=0.5)
    assert torch.equal(tcn(series()), tcn(series()))
    tcn.train()
    assert not torch.equal(tcn(series()), tcn(series()))
    dropped = tcn.blocks[0].dropout(torch.ones(1, 100, 7))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :, :1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size: expected an odd number, .* got 4; set causal: true"),
        ({"kernel_size": 0}, "kernel_size: expected at least 1, got 0"),
        ({"num_blocks": 17}, "num_blocks: expected 1 to 16, got 17"),
        ({"width": 0}, "width: expected at least 1, got 0"),
        ({"pooling": "max"}, "pooling: expected one of mean, last, got 'max'"),
        ({"dropout": 1.0}, "dropout: expected 0 up to but not 1, got 1.0"),
        ({"shape": (0, 40)}, r"input_shape\[0\]: expected at least 1, got 0"),
        ({"shape": [5, 0]}, r"input_shape\[1\]: expected at least 1, got 0"),
        ({"shape": [5]}, "input_shape: expected .features, frames., or mel"),
        ({"shape": None}, "got input_shape=None and no mel"),
        ({"mel": MelOptions()}, r"got input_shape=\(5, 40\) and mel"),
        ({"mean": [1.0, 2.0]}, "mean: expected one number, or 5, one per feature, got 2"),
        ({"projection": "none"}, "'none' needs embedding_dim = 6"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        tower(**options)
