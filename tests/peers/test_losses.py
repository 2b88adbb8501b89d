"""The same numbers as open_clip's losses, in the modes of theirs that are correct."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipkit.losses import ContrastiveLoss, SigmoidLoss
from clipkit.types import Embeddings
from tests.helpers.oracles import assert_close, unit_rows, value_and_gradients
from tests.helpers.ranks import run_ranks


def joined(size, scale, bias=None):
    image, text = (unit_rows(size, 16, seed, torch.float64) for seed in (0, 1))
    numbers = [scale] if bias is None else [scale, bias]
    return image, text, *(torch.tensor(number).double() for number in numbers)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("tile", [None, 7, 64])
def test_softmax_in_one_process(scale, tile):
    loss = pytest.importorskip("open_clip.loss")
    inputs = joined(50, scale)
    got = value_and_gradients(lambda *x: ContrastiveLoss(tile)(Embeddings(*x)), inputs)
    assert_close(got, value_and_gradients(loss.ClipLoss(), inputs), 1e-10)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("tile", [None, 7, 64])
def test_sigmoid_in_one_process(scale, tile):
    loss = pytest.importorskip("open_clip.loss")
    inputs = joined(50, scale, -10.0)
    got = value_and_gradients(lambda *x: SigmoidLoss(tile)(Embeddings(*x)), inputs)
    assert_close(got, value_and_gradients(loss.SigLipLoss(), inputs), 1e-10)


def both_on_a_rank(rank, world_size):
    """Gradients of this rank's rows; scale and bias averaged over ranks, as DDP would."""
    from open_clip.loss import ClipLoss, SigLipLoss

    theirs = {
        "softmax": ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=2),
        "sigmoid": SigLipLoss(rank=rank, world_size=2, dist_impl="gather"),
    }
    results = {}
    for name, peer in theirs.items():
        whole = joined(20, 14.3, None if name == "softmax" else -3.0)
        inputs = [x[rank * 10 : rank * 10 + 10] if x.ndim else x for x in whole]
        ours = ContrastiveLoss(6) if name == "softmax" else SigmoidLoss(6)
        pair = [
            value_and_gradients(lambda *x, f=ours: f(Embeddings(*x)), inputs),
            value_and_gradients(peer, inputs),
        ]
        for gradients in pair:
            for tensor in gradients:
                if not tensor.ndim:
                    torch.distributed.all_reduce(tensor)
                    tensor /= world_size
        results[name] = [[tensor.numpy() for tensor in gradients] for gradients in pair]
    return results


def test_two_ranks():
    pytest.importorskip("open_clip.loss")
    for result in run_ranks(both_on_a_rank, 2, timeout_seconds=200):
        for name, (ours, theirs) in result.items():
            for got, expected in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(got, expected, atol=1e-10, err_msg=name)
