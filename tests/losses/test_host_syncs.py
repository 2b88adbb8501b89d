"""Losses on made-up CUDA tensors: nothing may wait for the GPU, and no devices may be mixed.

The tensors have shapes and devices and no values, so that this runs without a GPU. Whoever asks
for a value, or for a shape that depends on values, would wait on a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from packaging.version import Version
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    LabelAwareContrastiveLoss,
    LabelLoss,
    MultiLabelLoss,
    SigmoidLoss,
)
from clipkit.losses.kernels import tile_body
from clipkit.types import Batch, Embeddings

pytestmark = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.10"), reason="wants a driver for made-up tensors"
)
ROWS, WIDTH, CLASSES = 12, 8, 5
WAITS = ("_local_scalar_dense", "nonzero", "_unique2", "masked_select", "is_nonzero", "aten.equal")


class NoWaiting(TorchDispatchMode):
    """Raises where an operation would wait for the GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if any(t.device.type == "cuda" for t in tensors):
            assert not any(word in name for word in WAITS), f"{name} waits for the GPU"
            to = kwargs.get("device")
            assert to is None or torch.device(to).type == "cuda", f"{name} copies to the CPU"
            if name in ("aten.index.Tensor", "aten.index_put_.default"):
                masks = [t for t in tree_leaves(args[1]) if isinstance(t, torch.Tensor)]
                assert all(m.dtype != torch.bool for m in masks), f"{name} waits for the GPU"
        if name not in ("aten._to_copy.default", "aten.copy_.default"):
            # a scalar of the CPU may meet a tensor of the GPU
            devices = {t.device.type for t in tensors if t.ndim > 0}
            assert len(devices) < 2, f"{name} mixes devices"
        return func(*args, **kwargs)


def inputs(bias: bool = False) -> tuple[Embeddings, Batch]:
    on = {"device": "cuda"}
    image, text = (torch.randn(ROWS, WIDTH, **on).requires_grad_() for _ in range(2))
    embeddings = Embeddings(
        image,
        text,
        torch.ones((), **on).requires_grad_(),
        torch.ones((), **on).requires_grad_() if bias else None,
        label_logits=torch.randn(ROWS, CLASSES, **on).requires_grad_(),
    )
    batch = Batch(
        torch.zeros(ROWS, 3, 2, 2, **on),
        None,
        torch.zeros(ROWS, dtype=torch.int64, **on),
        ("",) * ROWS,
        multi_labels=torch.zeros(ROWS, CLASSES, dtype=torch.int64, **on),
    )
    return embeddings, batch


OBJECTIVES = {
    "softmax": lambda: CombinedLoss(ContrastiveLoss()),
    "softmax in tiles, tf32": lambda: CombinedLoss(ContrastiveLoss(5, "tf32")),
    "softmax in tiles, bf16": lambda: CombinedLoss(ContrastiveLoss(5, "bf16")),
    "sigmoid": lambda: CombinedLoss(SigmoidLoss()),
    "sigmoid in tiles, bf16": lambda: CombinedLoss(SigmoidLoss(5, "bf16")),
    "label-aware": lambda: CombinedLoss(LabelAwareContrastiveLoss()),
    "labels": lambda: CombinedLoss(ContrastiveLoss(), LabelLoss(), 1.0, 0.5),
    "several labels": lambda: CombinedLoss(ContrastiveLoss(), MultiLabelLoss(), 1.0, 0.5),
}


@pytest.mark.parametrize("groups", [False, True], ids=["pairs", "groups"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_wait_for_nothing(
    name: str, groups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_body, "_kernels", lambda logits: None)
    loss = OBJECTIVES[name]()
    with FakeTensorMode(allow_non_fake_inputs=True), NoWaiting():
        embeddings, batch = inputs(bias="sigmoid" in name)
        if groups:
            ids = torch.zeros(ROWS, dtype=torch.int64, device="cuda")
            batch = replace(batch, groups=ids)
        value = loss(embeddings, batch)["loss"]
        assert value.device.type == "cuda"


@pytest.fixture
def eight_ranks() -> Iterator[None]:
    """Rank 0 of a group whose exchanges move nothing."""
    dist.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_ranks_that_know_their_sizes_wait_for_nothing(
    name: str, eight_ranks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_body, "_kernels", lambda logits: None)
    loss = OBJECTIVES[name]()
    with FakeTensorMode(allow_non_fake_inputs=True), NoWaiting():
        embeddings, batch = inputs(bias="sigmoid" in name)
        loss(embeddings, replace(batch, rank_sizes=(ROWS,) * 8))
        with pytest.raises(AssertionError, match=r"copies to|waits for"):
            loss(embeddings, replace(batch, rank_sizes=(ROWS,)))  # of a stream of one rank


def test_what_waits_is_found() -> None:
    with FakeTensorMode(), NoWaiting():
        values = torch.randn(4, device="cuda")
        for wait in (
            lambda: values.sum().item(),
            lambda: torch.unique(values),
            lambda: values[values > 0],
            lambda: values.cpu(),
        ):
            with pytest.raises(AssertionError, match=r"waits|copies"):
                wait()
