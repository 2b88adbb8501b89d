"""The losses on a GPU: every precision, fused and plain, against fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipkit.losses import ContrastiveLoss, GlobalContrastiveLoss, SigmoidLoss
from clipkit.losses.kernels import tile_body
from clipkit.types import Embeddings
from tests.gpu.device import DEVICE, only_cuda
from tests.helpers.fake_cuda import OBJECTIVES, make_step
from tests.helpers.oracles import make_batch

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
        monkeypatch.setattr(tile_body, "_kernels", lambda *_: None)
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
@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_waits_for_the_gpu(name: str) -> None:
    """The real counterpart of ``tests/losses/test_host_syncs.py``, with the backward pass."""
    loss = OBJECTIVES[name].make().cuda()
    try:
        for mode in ("default", "error"):  # kernels are compiled in the first step
            embeddings, batch = make_step(OBJECTIVES[name], 1, rows=300, width=64)
            torch.cuda.set_sync_debug_mode(mode)
            loss(embeddings, batch)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_memory_of_the_global_loss_is_that_of_the_cpu() -> None:
    losses = [("cpu", GlobalContrastiveLoss(50, 0.5)), (DEVICE, GlobalContrastiveLoss(50, 0.5))]
    for number in range(3):
        image, text = (tower[30 * number :][:30].float() for tower in towers(90, 64))
        ids = torch.randperm(50, generator=torch.Generator().manual_seed(number))[:30]
        for device, loss in losses:
            on = (image.to(device), text.to(device), torch.tensor(10.0, device=device))
            batch = make_batch(30, sample_ids=ids).to(device)
            loss.begin_step()
            loss(Embeddings(*on), batch)
            loss.end_step(torch.tensor(number == 1, device=device))
    averages = [loss.state_dict()["_extra_state"]["log_averages"] for _, loss in losses]
    torch.testing.assert_close(*averages, rtol=1e-4, atol=1e-4)
    assert losses[1][1].log_averages.device.type == DEVICE.type


@only_cuda
def test_auto_is_tf32_under_mixed_precision_alone() -> None:
    from clipkit.losses.kernels.products import choose_products

    device = torch.device("cuda")
    assert choose_products("auto", device).precision == "fp32"
    with torch.autocast("cuda", torch.bfloat16):
        assert choose_products("auto", device).precision == "tf32"
