"""Which form the passes over a tile have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from packaging.version import Version

from clipkit.losses import CombinedLoss, ContrastiveLoss, SigmoidLoss
from clipkit.losses.kernels import tile_body
from clipkit.losses.kernels.tile_body import FUSED_FROM, is_fused_faster
from clipkit.losses.kernels.tiled import choose_tile
from tests.helpers.fake_cuda import Objective, fake_gpu, make_step
from tools.loss_launches import FusedPasses

FP32, BF16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("passes", "rows", "columns", "weights", "is_fused"),
    [
        ("softmax", 4096, 4096, FP32, True),  # what was measured
        ("softmax", 4096, 8192, BF16, True),
        # larger tiles have more to read, and the same launches
        ("softmax", 4096, 8192, FP32, True),
        ("softmax", 512, 65_536, BF16, True),
        ("softmax", 4096, 4096, BF16, False),  # measured without fusion only
        ("softmax", 4096, 4095, FP32, False),
        ("softmax", 1024, 8192, FP32, False),
        ("softmax", 0, 8192, FP32, False),
        ("softmax", 4096, 8192, torch.float16, False),
        ("sigmoid", 4096, 8192, FP32, False),
        ("sigmoid", 4096, 8192, BF16, False),
    ],
)
def test_fused_passes_are_chosen_where_they_were_measured_faster(
    monkeypatch, passes, rows, columns, weights, is_fused
):
    fused = object()
    monkeypatch.setattr(tile_body, "load_kernels", lambda: fused)
    assert is_fused_faster(passes, rows, columns, weights) == is_fused
    logits = SimpleNamespace(is_cuda=True, dtype=FP32, shape=(rows, columns))
    kernels = tile_body._kernels(logits, passes, weights)
    assert kernels is (fused if is_fused else None)


@pytest.mark.parametrize(("is_cuda", "dtype"), [(False, FP32), (True, torch.float64)])
def test_other_devices_and_types_have_the_plain_form(monkeypatch, is_cuda, dtype):
    monkeypatch.setattr(tile_body, "load_kernels", object)
    logits = SimpleNamespace(is_cuda=is_cuda, dtype=dtype, shape=(4096, 8192))
    assert tile_body._kernels(logits, "softmax", FP32) is None


def test_tiles_of_a_large_batch_on_a_gpu_are_fused():
    """Those that the automatic choice of a tile makes, for ranks of many and of few pairs."""
    for pairs in (512, 4096, 65_536):
        tile = choose_tile(None, torch.empty(pairs, 2, device="meta"))
        assert tile.rows * tile.columns >= max(FUSED_FROM.values())


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.10"), reason="wants a driver for made-up tensors"
)
@pytest.mark.parametrize("loss", [ContrastiveLoss, SigmoidLoss])
@pytest.mark.parametrize("pairs", [4096, 512])
def test_a_loss_on_a_gpu_takes_the_chosen_form(monkeypatch, loss, pairs):
    fused = FusedPasses()
    monkeypatch.setattr(tile_body, "load_kernels", lambda: fused)
    carries = frozenset({"bias"} if loss is SigmoidLoss else ())
    objective = Objective(lambda: CombinedLoss(loss()), carries)
    with fake_gpu():
        objective.make()(*make_step(objective, 1, pairs))
    assert (fused.launches > 0) == (loss is ContrastiveLoss and pairs == 4096)
