"""The losses on a GPU: every precision, fused and plain, against fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipkit.losses import ContrastiveLoss, SigmoidLoss
from clipkit.losses.kernels import tile_body
from clipkit.types import Embeddings
from tests.gpu.device import DEVICE, only_cuda

SCALE = 100.0
# relative errors of the loss and of the gradients
LIMITS = {"fp32": (1e-5, 1e-4), "tf32": (1e-4, 5e-3), "bf16": (2e-3, 3e-2)}


def towers(rows: int = 1500, width: int = 512, noise: float = 2.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return [
        F.normalize(shared + noise * torch.randn(rows, width, generator=generator), dim=1)
        for _ in range(2)
    ]


def reference(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    image, text = (tower.requires_grad_() for tower in towers())
    logits = SCALE * image @ text.T
    if kind == "softmax":
        target = torch.arange(len(image))
        value = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    else:
        sign = 2 * torch.eye(len(image), dtype=image.dtype) - 1
        value = -F.logsigmoid(sign * (logits - 10)).sum() / len(image)
    value.backward()
    assert image.grad is not None
    assert text.grad is not None
    return value.detach(), image.grad, text.grad


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("tile_size", [None, 400])
@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_equals_fp64(
    kind: str,
    precision: str,
    tile_size: int | None,
    fused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not fused:
        monkeypatch.setattr(tile_body, "_kernels", lambda logits: None)
    image, text = (tower.float().to(DEVICE).requires_grad_() for tower in towers())
    loss = ContrastiveLoss if kind == "softmax" else SigmoidLoss
    bias = None if kind == "softmax" else torch.tensor(-10.0, device=DEVICE)
    value = loss(tile_size, precision)(
        Embeddings(image, text, torch.tensor(SCALE, device=DEVICE), bias)
    )
    value.backward()
    expected, *gradients = reference(kind)
    of_loss, of_gradient = LIMITS[precision]
    assert value.item() == pytest.approx(expected.item(), rel=of_loss)
    for tower, wanted in zip((image, text), gradients, strict=True):
        error = (tower.grad.cpu().double() - wanted).norm() / wanted.norm()
        assert error < of_gradient


@only_cuda
def test_auto_is_tf32_under_mixed_precision_alone() -> None:
    from clipkit.losses.kernels.products import choose_products

    device = torch.device("cuda")
    assert choose_products("auto", device).precision == "fp32"
    with torch.autocast("cuda", torch.bfloat16):
        assert choose_products("auto", device).precision == "tf32"
