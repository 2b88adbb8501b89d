"""The tiled losses against loops in fp64, in one process."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.errors import ConfigError
from clipkit.losses import ContrastiveLoss, LabelAwareContrastiveLoss, SigmoidLoss
from clipkit.losses.functional import sigmoid_contrastive_loss, softmax_contrastive_loss
from clipkit.types import IGNORE_LABEL, Embeddings
from tests.losses.oracles import (
    assert_close,
    embeddings_of,
    make_batch,
    naive_sigmoid,
    naive_softmax,
    unit_rows,
    value_and_gradients,
)

SCALES = [1.0, 14.3, 100.0]


def pairs(size, width=8, scale=14.3, seed=0, dtype=torch.float64):
    image, text = unit_rows(size, width, seed, dtype), unit_rows(size, width, seed + 1, dtype)
    return image, text, torch.tensor(scale, dtype=dtype)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tile", [None, 1, 5, 7, 16])
def test_softmax_equals_the_loop(scale, tile):
    inputs = pairs(14, scale=scale)
    got = value_and_gradients(lambda *x: ContrastiveLoss(tile)(Embeddings(*x)), inputs)
    assert_close(got, value_and_gradients(naive_softmax, inputs), 1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tile", [None, 1, 5, 7, 16])
def test_sigmoid_equals_the_loop(scale, tile):
    inputs = (*pairs(14, scale=scale), torch.tensor(-10.0).double())
    got = value_and_gradients(lambda *x: SigmoidLoss(tile)(Embeddings(*x)), inputs)
    assert_close(got, value_and_gradients(naive_sigmoid, inputs), 1e-11)


@pytest.mark.parametrize("tile", [None, 4])
def test_plain_formulas_equal_the_loop(tile):
    groups = torch.tensor([0, 1, 0, 2, 3, 1, 0, 4, 5])
    inputs = pairs(9)
    assert_close(
        value_and_gradients(lambda *x: softmax_contrastive_loss(*x, groups), inputs),
        value_and_gradients(lambda *x: naive_softmax(*x, groups.tolist()), inputs),
        1e-12,
    )
    inputs = (*inputs, torch.tensor(-3.0).double())
    assert_close(
        value_and_gradients(lambda *x: sigmoid_contrastive_loss(*x, groups), inputs),
        value_and_gradients(lambda *x: naive_sigmoid(*x, groups.tolist()), inputs),
        1e-12,
    )


@pytest.mark.parametrize("case", ["equal", "opposite", "identical pairs"])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_extreme_embeddings(case, scale):
    image, text, scale = pairs(33, 16, scale)
    if case == "equal":
        image = text = image[:1].expand(33, 16).contiguous()
    elif case == "opposite":  # every exp(scale * cosine - scale) underflows in fp32
        text = torch.nn.functional.normalize(-image + 1e-3 * text, dim=1)
    else:
        text = image
    inputs = tuple(tensor.float() for tensor in (image, text, scale))
    exact = tuple(tensor.double() for tensor in inputs)
    got = value_and_gradients(lambda *x: ContrastiveLoss(8)(Embeddings(*x)), inputs)
    expected = value_and_gradients(softmax_contrastive_loss, exact)
    assert all(torch.isfinite(tensor).all() for tensor in got)
    assert_close(got, expected, 2e-5 * float(scale))
    bias = torch.tensor(-10.0)
    got = value_and_gradients(lambda *x: SigmoidLoss(8)(Embeddings(*x)), (*inputs, bias))
    expected = value_and_gradients(sigmoid_contrastive_loss, (*exact, bias.double()))
    assert_close(got, expected, 5e-5 * float(scale))


@given(
    size=st.integers(1, 12),
    width=st.integers(1, 6),
    tile=st.integers(1, 13),
    scale=st.floats(0.5, 100),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_any_groups_masks_and_negatives(size, width, tile, scale, seed, data):
    groups = torch.tensor(data.draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size)))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    negatives = [unit_rows(data.draw(st.integers(0, 3)), width, seed + k) for k in (7, 8)]
    inputs = (*pairs(size, width, scale, seed), torch.tensor(-2.0).double(), *negatives)
    batch = make_batch(size, groups=groups, pair_mask=mask)
    numbers = [g if g >= 0 else -10 - i for i, g in enumerate(groups.tolist())]
    numbers = [number for number, keep in zip(numbers, mask.tolist(), strict=True) if keep]

    def masked(function, *x, with_bias):
        image, text, scale_, bias, negative_image, negative_text = x
        middle = (scale_, bias) if with_bias else (scale_,)
        if not numbers:
            return sum(0 * tensor.sum() for tensor in x)
        zero = 0 * bias  # so that every input has a gradient
        loss = function(image[mask], text[mask], *middle, numbers, negative_image, negative_text)
        return loss + zero

    def tiled_softmax(image, text, scale_, bias, *negatives):
        embeddings = embeddings_of(image, text, scale_, None, None, *negatives)
        return ContrastiveLoss(tile)(embeddings, batch) + 0 * bias

    def tiled_sigmoid(image, text, scale_, bias, *negatives):
        embeddings = embeddings_of(image, text, scale_, bias, None, *negatives)
        return SigmoidLoss(tile)(embeddings, batch)

    for tiled, naive, with_bias in (
        (tiled_softmax, naive_softmax, False),
        (tiled_sigmoid, naive_sigmoid, True),
    ):
        got = value_and_gradients(tiled, inputs)
        expected = value_and_gradients(
            lambda *x, f=naive, b=with_bias: masked(f, *x, with_bias=b), inputs
        )
        assert_close(got, expected, 1e-10)


@pytest.mark.parametrize("loss", [ContrastiveLoss(3), SigmoidLoss(3)], ids=type)
def test_gradcheck(loss):
    image, text, scale = pairs(7, 5, 5.0)
    bias = torch.tensor(-1.0).double() if isinstance(loss, SigmoidLoss) else None
    inputs = [image, text, scale, *([] if bias is None else [bias])]
    for tensor in inputs:
        tensor.requires_grad_()
    batch = make_batch(7, groups=torch.tensor([0, 0, 1, -1, 1, 2, -1]))
    assert torch.autograd.gradcheck(lambda *x: loss(Embeddings(*x), batch), inputs)


def test_label_aware_groups_by_label_and_leaves_the_unlabelled_alone():
    labels = torch.tensor([4, IGNORE_LABEL, 4, 2, IGNORE_LABEL, 2, 2])
    inputs = pairs(7)
    batch = make_batch(7, labels)
    got = value_and_gradients(
        lambda *x: LabelAwareContrastiveLoss(3)(Embeddings(*x), batch), inputs
    )
    numbers = [4, -1, 4, 2, -2, 2, 2]
    assert_close(got, value_and_gradients(lambda *x: naive_softmax(*x, numbers), inputs), 1e-12)
    plain = ContrastiveLoss()(Embeddings(*inputs))
    assert abs(float(plain) - float(got[0])) > 1e-3  # labels did change the task


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_fp32(dtype):
    image, text, scale = pairs(300, 32, 100.0, dtype=torch.float32)
    inputs = (image.to(dtype), text.to(dtype), scale)
    got = value_and_gradients(lambda *x: ContrastiveLoss(64)(Embeddings(*x)), inputs)
    exact = tuple(tensor.double() for tensor in inputs)
    expected = value_and_gradients(softmax_contrastive_loss, exact)
    assert [tensor.dtype for tensor in got] == [torch.float32, dtype, dtype, torch.float32]
    assert_close([got[0], got[3]], [expected[0], expected[3]], 1e-5)
    assert_close(got[1:3], expected[1:3], torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [ContrastiveLoss(16), SigmoidLoss(16)], ids=type)
def test_autocast_does_not_reach_inside(dtype, loss):
    bias = torch.tensor(-10.0) if isinstance(loss, SigmoidLoss) else None
    inputs = pairs(50, scale=100.0, dtype=torch.float32)

    def run(*x):
        return loss(Embeddings(*x, bias))

    plain = value_and_gradients(run, inputs)
    with torch.autocast("cpu", dtype):
        mixed = value_and_gradients(run, inputs)
    assert_close(mixed, plain, 0.0)


@pytest.mark.parametrize("frozen", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("loss", [ContrastiveLoss(4), SigmoidLoss(4)], ids=type)
def test_frozen_inputs_get_no_gradient_and_the_others_the_same(frozen, loss):
    bias = torch.tensor(-1.0) if isinstance(loss, SigmoidLoss) else None

    def gradients(skip):
        inputs = [
            tensor.requires_grad_(index not in skip)
            for index, tensor in enumerate(pairs(9, dtype=torch.float32))
        ]
        value = loss(Embeddings(*inputs, bias))
        if value.requires_grad:
            value.backward()
        return [tensor.grad for tensor in inputs]

    for index, (got, full) in enumerate(zip(gradients(frozen), gradients(()), strict=True)):
        assert got is None if index in frozen else torch.equal(got, full)


def test_a_batch_without_pairs_is_zero_and_differentiable():
    inputs = pairs(3)
    batch = make_batch(3, pair_mask=torch.zeros(3, dtype=torch.bool))
    got = value_and_gradients(lambda *x: ContrastiveLoss()(Embeddings(*x), batch), inputs)
    assert_close(got, [torch.zeros_like(tensor) for tensor in got], 0.0)


def test_the_wrong_bias_is_refused():
    image, text, scale = pairs(3)
    with pytest.raises(ConfigError, match=r"logit_bias.*SigmoidLoss"):
        ContrastiveLoss()(Embeddings(image, text, scale, torch.tensor(-10.0)))
    with pytest.raises(ConfigError, match="logit_bias -10"):
        SigmoidLoss()(Embeddings(image, text, scale))
    with pytest.raises(ConfigError, match="as many captions as pictures"):
        ContrastiveLoss()(Embeddings(image, text[:2], scale))
    with pytest.raises(ConfigError, match=r"tile_size.*got 0"):
        ContrastiveLoss(0)
