"""Losses whose products are rounded: which function they compute, and how well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipkit.errors import ConfigError
from clipkit.losses import ContrastiveLoss, LabelAwareContrastiveLoss, SigmoidLoss
from clipkit.losses.kernels.products import EXACT, Products, choose_products
from clipkit.losses.kernels.tiled import TileShape, choose_tile
from clipkit.types import IGNORE_LABEL, Batch, Embeddings

PRECISIONS = ("fp32", "tf32", "bf16")
UNSOLVED, SOLVED = (1.0, 100.0), (0.5, 15.0)
"""Noise and scale; the softmax loss of the second is about 0.002."""


def towers(count: int, noise: float) -> tuple[Tensor, Tensor]:
    """Unit-norm pairs; little noise makes a nearly solved batch."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(count, 64, generator=generator, dtype=torch.float64)
    image, text = (
        F.normalize(shared + noise * torch.randn(count, 64, generator=generator), dim=1)
        for _ in range(2)
    )
    return image, text


def softmax(image: Tensor, text: Tensor, scale: float) -> Tensor:
    logits = scale * image @ text.T
    target = torch.arange(len(image))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sigmoid(image: Tensor, text: Tensor, scale: float) -> Tensor:
    sign = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -F.logsigmoid(sign * (scale * image @ text.T - 10)).sum() / len(image)


def rounded_reference(
    kind: str, precision: str, noise: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula in fp64, of the rows that the products see."""
    products = Products(precision)
    image, text = (tower.float() for tower in towers(48, noise))
    inputs = (products.rounded(image * scale) / scale, products.rounded(text))
    image, text = (tensor.double().requires_grad_() for tensor in inputs)
    value = (softmax if kind == "softmax" else sigmoid)(image, text, scale)
    value.backward()
    assert image.grad is not None
    assert text.grad is not None
    return value.detach(), image.grad, text.grad


@pytest.mark.parametrize("tile_size", [None, 16])
@pytest.mark.parametrize("case", [SOLVED, UNSOLVED], ids=["solved", "unsolved"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_loss_and_gradients_are_those_of_the_rounded_rows(
    kind: str, precision: str, case: tuple[float, float], tile_size: int | None
) -> None:
    noise, scale = case
    image, text = (tower.float().requires_grad_() for tower in towers(48, noise))
    loss = ContrastiveLoss if kind == "softmax" else SigmoidLoss
    bias = None if kind == "softmax" else torch.tensor(-10.0)
    value = loss(tile_size, precision)(Embeddings(image, text, torch.tensor(scale), bias))
    value.backward()
    expected, to_image, to_text = rounded_reference(kind, precision, noise, scale)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=2e-5)
    # on a CPU the weights of the gradient are not rounded: what is left is fp32's error
    for gradient, wanted in ((image.grad, to_image), (text.grad, to_text)):
        error = (gradient.double() - wanted).norm() / wanted.norm()
        assert error < 1e-3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_nearly_solved_batch_keeps_its_gradient(precision: str) -> None:
    """Positives taken from other numbers than the tiles would dominate the gradient."""
    noise, scale = SOLVED
    exact = [tower.clone().requires_grad_() for tower in towers(48, noise)]
    softmax(exact[0], exact[1], scale).backward()
    image, text = (tower.float().requires_grad_() for tower in towers(48, noise))
    ContrastiveLoss(precision=precision)(Embeddings(image, text, torch.tensor(scale))).backward()
    # the error follows the logits': 15 * 2 ** -9 for bf16
    limit = {"fp32": 1e-3, "tf32": 5e-3, "bf16": 4e-2}[precision]
    for gradient, wanted in zip((image.grad, text.grad), exact, strict=True):
        error = (gradient.double() - wanted.grad).norm() / wanted.grad.norm()
        assert error < limit


def test_groups_and_hard_negatives_are_rounded_alike() -> None:
    image, text = (tower.float() for tower in towers(12, 1.0))
    labels = torch.tensor([0, 0, 1, 1, IGNORE_LABEL, 2, 2, 2, IGNORE_LABEL, 3, 4, 5])
    batch = Batch(torch.zeros(12, 3, 2, 2), None, labels, tuple("abcdefghijkl"))
    values = {
        precision: LabelAwareContrastiveLoss(5, precision)(
            Embeddings(
                image,
                text,
                torch.tensor(20.0),
                negative_image=text[:3],
                negative_text=image[:4],
            ),
            batch,
        ).item()
        for precision in PRECISIONS
    }
    assert values["tf32"] == pytest.approx(values["fp32"], rel=2e-3)
    assert values["bf16"] == pytest.approx(values["fp32"], rel=2e-2)


def test_rounding_keeps_the_bits_that_the_hardware_keeps() -> None:
    values = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-12, -3.3, 0.0, torch.inf])
    tf32, bf16 = Products("tf32").rounded(values), Products("bf16").rounded(values)
    assert tf32[:3].tolist() == [1.0, 1 + 2**-10, 1.0]
    assert torch.equal(Products("tf32").rounded(tf32), tf32)
    assert torch.equal(bf16, values.bfloat16().float())
    assert EXACT.rounded(values) is values


def test_double_precision_stays_as_it_is() -> None:
    image, text = towers(6, 1.0)
    value = ContrastiveLoss(precision="bf16")(Embeddings(image, text, torch.tensor(5.0)))
    torch.testing.assert_close(value, softmax(image, text, 5.0))


def test_switch_of_torch_is_set_back() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with Products("fp32").switched():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_auto_is_exact_on_a_cpu() -> None:
    assert choose_products("auto", torch.device("cpu")) == EXACT


def test_unknown_precision_is_named() -> None:
    with pytest.raises(ConfigError, match=r"precision: expected one of .*, got 'fp8'"):
        SigmoidLoss(precision="fp8")


def test_tiles_of_a_gpu_have_one_area() -> None:
    wide = choose_tile(None, torch.empty(512, 1, device="meta"))
    assert wide == TileShape(512, 65_536)
    assert choose_tile(None, torch.empty(20_000, 1, device="meta")) == TileShape(4096, 8192)
    assert choose_tile(7, torch.empty(20_000, 1, device="meta")) == TileShape(7, 7)
