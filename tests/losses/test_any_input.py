"""Losses beside the contrastive ones, on inputs that hypothesis makes up, against loops in fp64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    DistillationLoss,
    GlobalContrastiveLoss,
    LabelAwareContrastiveLoss,
    LabelLoss,
    MultiLabelLoss,
    SigmoidLoss,
    StoredTeacher,
)
from clipkit.types import IGNORE_LABEL, Embeddings
from tests.losses.oracles import (
    assert_close,
    make_batch,
    naive_distillation,
    naive_label,
    naive_multi_label,
    naive_softmax,
    unit_rows,
    value_and_gradients,
)
from tests.losses.test_global_contrastive import naive as naive_global

SIZES, SEEDS = st.integers(1, 9), st.integers(0, 10_000)
FEW = settings(max_examples=25, deadline=None)


def random_logits(size, classes, seed, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(size, classes, generator=generator, dtype=torch.float64)


def with_logits(logits):
    one = torch.ones(len(logits), 1, dtype=logits.dtype)
    return Embeddings(one, one, torch.tensor(1.0), None, logits)


@FEW
@given(
    size=SIZES,
    classes=st.integers(1, 5),
    seed=SEEDS,
    spread=st.sampled_from([0.0, 3.0, 300.0]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    data=st.data(),
)
def test_labels(size, classes, seed, spread, smoothing, data):
    some = st.sampled_from([IGNORE_LABEL, *range(classes)])
    labels = data.draw(st.lists(some, min_size=size, max_size=size))
    weight = st.sampled_from([0.25, 1.0, 4.0])  # exact in fp32, in which they are kept
    weights = data.draw(st.none() | st.lists(weight, min_size=classes, max_size=classes))
    loss = LabelLoss(classes, smoothing, weights)
    batch, logits = (
        make_batch(size, torch.tensor(labels)),
        random_logits(size, classes, seed, spread),
    )
    got = value_and_gradients(lambda x: loss(with_logits(x), batch), [logits])
    expected = value_and_gradients(lambda x: naive_label(x, labels, weights, smoothing), [logits])
    assert_close(got, expected, 1e-10)


@FEW
@given(size=SIZES, classes=st.integers(1, 5), seed=SEEDS, data=st.data())
def test_multi_labels(size, classes, seed, data):
    row = st.lists(st.sampled_from([IGNORE_LABEL, 0, 1]), min_size=classes, max_size=classes)
    targets = torch.tensor(data.draw(st.lists(row, min_size=size, max_size=size)))
    weights = [0.5 + c for c in range(classes)]
    batch = replace(make_batch(size), multi_labels=targets)
    logits = random_logits(size, classes, seed, 5.0)
    got = value_and_gradients(lambda x: MultiLabelLoss(weights)(with_logits(x), batch), [logits])
    expected = value_and_gradients(lambda x: naive_multi_label(x, targets, weights), [logits])
    assert_close(got, expected, 1e-11)


@FEW
@given(
    size=SIZES,
    width=st.integers(1, 5),
    tile=st.none() | st.integers(1, 10),
    scale=st.floats(1, 100),
    seed=SEEDS,
    data=st.data(),
)
def test_distillation(size, width, tile, scale, seed, data):
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    of_teacher = unit_rows(size, 3, seed + 2), unit_rows(size, 3, seed + 3)
    batch = replace(
        make_batch(size, pair_mask=mask), teacher_image=of_teacher[0], teacher_text=of_teacher[1]
    )
    kept = of_teacher[0][mask], of_teacher[1][mask], 30.0
    inputs = unit_rows(size, width, seed), unit_rows(size, width, seed + 1), torch.tensor(scale)
    inputs = (*inputs[:2], inputs[2].double())
    loss = DistillationLoss(StoredTeacher(30.0), tile_size=tile)
    got = value_and_gradients(lambda *x: loss(Embeddings(*x), batch), inputs)

    def naive(image, text, scale_):
        zero = 0 * (image.sum() + text.sum() + scale_)
        if not bool(mask.any()):
            return zero
        return zero + naive_distillation(image[mask], text[mask], scale_, kept)

    assert_close(got, value_and_gradients(naive, inputs), 1e-10)


@FEW
@given(
    size=st.integers(2, 9),
    tile=st.none() | st.integers(1, 10),
    scale=st.floats(1, 20),
    gamma=st.floats(0.2, 1.0),
    seed=SEEDS,
    data=st.data(),
)
def test_global_loss_after_two_steps(size, tile, scale, gamma, seed, data):
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    mask[:2] = True  # somebody to be compared with
    loss, averages = GlobalContrastiveLoss(20, gamma, 1e-300, tile), {}
    for step in range(2):
        ids = torch.randperm(20, generator=torch.Generator().manual_seed(seed + step))[:size]
        batch = make_batch(size, pair_mask=mask, sample_ids=ids)
        image, text = (unit_rows(size, 4, seed + 10 * step + k) for k in (0, 1))
        inputs = image, text, torch.tensor(scale).double()
        got = value_and_gradients(lambda *x, b=batch: loss(Embeddings(*x), b), inputs)

        def kept(image, text, scale_, ids=ids):
            zero = 0 * (image.sum() + text.sum())
            numbers = ids[mask].tolist()
            return zero + naive_global(image[mask], text[mask], scale_, numbers, averages, gamma)

        expected = value_and_gradients(kept, inputs)
        assert_close(got, expected, 3e-5 * scale)  # the averages are kept in fp32


@FEW
@given(size=SIZES, tile=st.integers(1, 10), scale=st.floats(1, 100), seed=SEEDS, data=st.data())
def test_label_aware(size, tile, scale, seed, data):
    some = st.sampled_from([IGNORE_LABEL, 0, 1, 2])
    labels = data.draw(st.lists(some, min_size=size, max_size=size))
    inputs = unit_rows(size, 4, seed), unit_rows(size, 4, seed + 1), torch.tensor(scale).double()
    batch = make_batch(size, torch.tensor(labels))
    got = value_and_gradients(
        lambda *x: LabelAwareContrastiveLoss(tile)(Embeddings(*x), batch), inputs
    )
    numbers = [label if label >= 0 else -1 - i for i, label in enumerate(labels)]
    assert_close(got, value_and_gradients(lambda *x: naive_softmax(*x, numbers), inputs), 1e-10)


def test_gradcheck():
    image, text, scale = unit_rows(5, 4, 0), unit_rows(5, 4, 1), torch.tensor(4.0).double()
    logits = random_logits(5, 3, 0)
    batch = replace(
        make_batch(5, torch.tensor([0, 2, IGNORE_LABEL, 1, 2])),
        multi_labels=torch.tensor([[1, 0, IGNORE_LABEL]] * 5),
        teacher_image=unit_rows(5, 4, 2),
        teacher_text=unit_rows(5, 4, 3),
    )
    distillation = DistillationLoss(StoredTeacher(9.0), 1.0, 0.5, tile_size=2)
    for label in (LabelLoss(3, 0.1, [1.0, 2.0, 0.5]), MultiLabelLoss([1.0, 2.0, 3.0])):
        pairs = LabelAwareContrastiveLoss(2)
        loss = CombinedLoss(pairs, label, 0.7, 1.5, distillation, 2.0, uncertainty=True).eval()
        loss.double()
        inputs = [tensor.clone().requires_grad_() for tensor in (image, text, scale, logits)]

        def objective(image, text, scale, logits, loss=loss):
            return loss(Embeddings(image, text, scale, None, logits), batch)["loss"]

        assert torch.autograd.gradcheck(objective, inputs)


@pytest.mark.parametrize("case", ["equal", "opposite", "identical pairs"])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_distillation_of_extreme_embeddings(case, scale):
    image, text = unit_rows(11, 8, 0, torch.float32), unit_rows(11, 8, 1, torch.float32)
    if case == "equal":
        image = text = image[:1].expand(11, 8).contiguous()
    elif case == "opposite":
        text = F.normalize(-image + 1e-3 * text, dim=1)
    else:
        text = image
    of_teacher = unit_rows(11, 5, 2, torch.float32), unit_rows(11, 5, 3, torch.float32)
    batch = replace(make_batch(11), teacher_image=of_teacher[0], teacher_text=of_teacher[1])
    inputs = image, text, torch.tensor(scale)
    loss = DistillationLoss(StoredTeacher(100.0), tile_size=4)
    got = value_and_gradients(lambda *x: loss(Embeddings(*x), batch), inputs)
    teacher = (*(F.normalize(t.double(), dim=1) for t in of_teacher), 100.0)
    exact = [tensor.double() for tensor in inputs]
    expected = value_and_gradients(lambda *x: naive_distillation(*x, teacher), exact)
    assert_close(got, expected, 5e-5 * scale)


PAIR_LOSSES = {
    "softmax": lambda: ContrastiveLoss(3),
    "label-aware": lambda: LabelAwareContrastiveLoss(3),
    "sigmoid": lambda: SigmoidLoss(3),
    "global": lambda: GlobalContrastiveLoss(20, 0.5, tile_size=3),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_the_whole_objective_under_autocast(name, dtype):
    """Half-precision embeddings and logits give the values and sums of fp32."""
    image, text = (unit_rows(10, 8, seed, torch.float32).to(dtype) for seed in (0, 1))
    logits = random_logits(10, 3, 0).to(dtype)
    bias = torch.tensor(-5.0) if name == "sigmoid" else None
    batch = replace(
        make_batch(10, torch.tensor([0, 1, 2, -100, 1] * 2), sample_ids=torch.arange(10)),
        teacher_image=unit_rows(10, 5, 2, torch.float32),
        teacher_text=unit_rows(10, 5, 3, torch.float32),
    )

    def run(autocast, *inputs):
        distillation = DistillationLoss(StoredTeacher(20.0), tile_size=3)
        loss = CombinedLoss(PAIR_LOSSES[name](), LabelLoss(), 1.0, 0.5, distillation, 0.5)
        with torch.autocast("cpu", dtype, enabled=autocast):
            return loss(Embeddings(*inputs[:3], bias, inputs[3]), batch)["loss"]

    inputs = image, text, torch.tensor(30.0), logits
    mixed = value_and_gradients(lambda *x: run(True, *x), inputs)
    exact = value_and_gradients(lambda *x: run(False, *x), [tensor.float() for tensor in inputs])
    assert mixed[0].dtype == torch.float32
    assert_close([mixed[0], mixed[3]], [exact[0], exact[3]], 1e-5)
    # Gradients of up to 5, rounded to the precision of what they belong to.
    assert_close([*mixed[1:3], mixed[4]], [*exact[1:3], exact[4]], 4 * torch.finfo(dtype).eps)
