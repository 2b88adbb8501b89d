"""Made-up CUDA tensors, with shapes and devices and no values, and what would wait for the GPU.

Whoever asks such a tensor for a value, or for a shape that depends on values, would wait on a real
one. Exchanges over a fake group of ranks move nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    DistillationLoss,
    GlobalContrastiveLoss,
    LabelAwareContrastiveLoss,
    LabelLoss,
    MatryoshkaLoss,
    ModalityLabelLoss,
    ModalityPairLoss,
    MultiLabelLoss,
    SigmoidLoss,
    StoredTeacher,
    WeightedTerm,
)
from clipkit.losses.contrastive import PairLoss
from clipkit.types import (
    Batch,
    Embeddings,
    ModalityEmbeddings,
    NegativeBatch,
    PairSizes,
    TeacherBatch,
)

WAITS = ("_local_scalar_dense", "nonzero", "_unique2", "masked_select", "is_nonzero", "aten.equal")
CLASSES, NUM_SAMPLES, NEGATIVES, NEGATIVE_IMAGES = 5, 100, 3, 2


class NoWaiting(TorchDispatchMode):
    """Finds operations that would wait for the GPU or mix devices, and counts launches.

    Args:
        strict: Whether to raise at the first one; otherwise they are collected in ``waits``.
    """

    def __init__(self, strict: bool) -> None:
        super().__init__()
        self.strict, self.launches = strict, 0
        self.waits: list[str] = []

    def found(self, problem: str) -> None:
        """Raise or collect a problem."""
        assert not self.strict, problem
        self.waits.append(problem)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if any(t.device.type == "cuda" for t in tensors):
            if any(word in name for word in WAITS):
                self.found(f"{name} waits for the GPU")
            if name in ("aten.index.Tensor", "aten.index_put_.default"):
                masks = [t for t in tree_leaves(args[1]) if isinstance(t, torch.Tensor)]
                if any(mask.dtype == torch.bool for mask in masks):
                    self.found(f"{name} waits for the GPU")
        if name in ("aten._to_copy.default", "aten.copy_.default"):
            self._check_copy(name, args, kwargs)
        # a scalar of the CPU may meet a tensor of the GPU
        elif len({t.device.type for t in tensors if t.ndim > 0}) > 1:
            self.found(f"{name} mixes devices")
        result = func(*args, **kwargs)
        self.launches += launches(func, result)
        return result

    def _check_copy(self, name: str, args: Any, kwargs: Any) -> None:
        is_in_place = name.startswith("aten.copy_")
        source = args[1] if is_in_place else args[0]
        to = args[0].device if is_in_place else torch.device(kwargs.get("device") or source.device)
        in_background = kwargs.get("non_blocking") or (is_in_place and len(args) > 2 and args[2])
        if source.device.type == "cuda" and to.type == "cpu":
            self.found(f"{name} copies to the CPU")
        elif source.device.type == "cpu" and to.type == "cuda" and not in_background:
            self.found(f"{name} copies to the GPU, which waits")


class NoNumbers(TorchFunctionMode):
    """Finds Python numbers that are sent to the GPU, which waits for all queued work."""

    def __init__(self, to: NoWaiting) -> None:
        super().__init__()
        self.to = to

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device") if func in (torch.tensor, torch.as_tensor) else None
        if device is not None and torch.device(device).type == "cuda":
            self.to.found("torch.tensor waits for the GPU")
        return func(*args, **kwargs)


def launches(func: Any, result: Any) -> int:
    """Whether an operation on a GPU launches a kernel: not for views and empty tensors."""
    results = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
    on_gpu = any(t.device.type == "cuda" for t in results)
    name = str(func)
    is_view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
    return int(on_gpu and not is_view and "empty" not in name and "detach" not in name)


@contextmanager
def fake_gpu(strict: bool = True) -> Iterator[NoWaiting]:
    """Make tensors of "cuda" fake, and find what waits; the losses must not use Triton."""
    mode = NoWaiting(strict)
    with FakeTensorMode(allow_non_fake_inputs=True), NoNumbers(mode), mode:
        yield mode


@contextmanager
def fake_ranks(number: int) -> Iterator[None]:
    """Be rank 0 of a group whose exchanges move nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if number == 1:
        yield
        return
    dist.init_process_group("fake", rank=0, world_size=number, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Objective:
    """An objective, and what its batches carry.

    "bias", "groups", "mask", "negatives", or "series": a modality that samples may lack.
    """

    make: Callable[[], CombinedLoss]
    carries: frozenset[str] = field(default=frozenset())


def _objective(make: Callable[[], CombinedLoss], *carries: str) -> Objective:
    return Objective(make, frozenset(carries))


def _distilled() -> CombinedLoss:
    teacher = WeightedTerm(DistillationLoss(StoredTeacher(), 1.0, 0.5))
    return CombinedLoss(ContrastiveLoss(), terms={"distillation": teacher})


def _several(
    labels: LabelLoss | MultiLabelLoss, loss: type[PairLoss] = ContrastiveLoss
) -> CombinedLoss:
    pairs = [("image", "text"), ("series", "image"), ("text", "series")]
    terms = {f"{a}_{b}": WeightedTerm(ModalityPairLoss(loss(), a, b)) for a, b in pairs}
    return CombinedLoss(
        terms={**terms, "labels": WeightedTerm(ModalityLabelLoss(labels, "series"), 0.5)}
    )


def _pair(first: str, second: str) -> CombinedLoss:
    term = ModalityPairLoss(ContrastiveLoss(), first, second)
    return CombinedLoss(terms={"pair": WeightedTerm(term)})


OBJECTIVES = {
    "softmax": _objective(lambda: CombinedLoss(ContrastiveLoss())),
    "softmax, groups": _objective(lambda: CombinedLoss(ContrastiveLoss()), "groups"),
    "softmax, mask": _objective(lambda: CombinedLoss(ContrastiveLoss()), "mask"),
    "softmax, negatives": _objective(lambda: CombinedLoss(ContrastiveLoss()), "negatives"),
    "softmax, all": _objective(
        lambda: CombinedLoss(ContrastiveLoss()), "groups", "mask", "negatives"
    ),
    "sigmoid": _objective(lambda: CombinedLoss(SigmoidLoss()), "bias"),
    "sigmoid, all": _objective(
        lambda: CombinedLoss(SigmoidLoss()), "bias", "groups", "mask", "negatives"
    ),
    "label-aware": _objective(lambda: CombinedLoss(LabelAwareContrastiveLoss())),
    "nested": _objective(lambda: CombinedLoss(MatryoshkaLoss(ContrastiveLoss(), [2, 4]))),
    "global": _objective(lambda: CombinedLoss(GlobalContrastiveLoss(NUM_SAMPLES))),
    "global, mask": _objective(lambda: CombinedLoss(GlobalContrastiveLoss(NUM_SAMPLES)), "mask"),
    "labels": _objective(lambda: CombinedLoss(ContrastiveLoss(), LabelLoss(), 1.0, 0.5)),
    "several labels": _objective(
        lambda: CombinedLoss(ContrastiveLoss(), MultiLabelLoss(), 1.0, 0.5)
    ),
    "uncertainty": _objective(
        lambda: CombinedLoss(ContrastiveLoss(), LabelLoss(), 1.0, 0.5, uncertainty=True)
    ),
    "modalities": _objective(lambda: _several(LabelLoss()), "series"),
    "modalities, all": _objective(
        lambda: _several(MultiLabelLoss(), SigmoidLoss), "series", "bias", "groups", "negatives"
    ),
    "pair": _objective(lambda: _pair("image", "text")),
    "pair, negatives": _objective(lambda: _pair("image", "text"), "negatives"),
    "pair, mask": _objective(lambda: _pair("image", "text"), "mask"),
    "pair, reversed": _objective(lambda: _pair("text", "image")),
    "pair, reversed, all": _objective(lambda: _pair("text", "image"), "mask", "negatives"),
    "pair, reversed, negatives": _objective(lambda: _pair("text", "image"), "negatives"),
    "distillation": _objective(_distilled),
    "distillation, mask": _objective(_distilled, "mask"),
}
IN_TILES = {
    "softmax in tiles, tf32": _objective(lambda: CombinedLoss(ContrastiveLoss(5, "tf32"))),
    "softmax in tiles, bf16": _objective(lambda: CombinedLoss(ContrastiveLoss(5, "bf16"))),
    "sigmoid in tiles, bf16": _objective(lambda: CombinedLoss(SigmoidLoss(5, "bf16")), "bias"),
}


def make_step(
    objective: Objective, num_ranks: int, rows: int = 12, width: int = 8
) -> tuple[Embeddings, Batch]:
    """Embeddings and batch of this rank, as a stream and ``StepExchange`` give them."""
    on = {"device": "cuda"}
    numbers = {"dtype": torch.int64, **on}
    image, text = (torch.randn(rows, width, **on).requires_grad_() for _ in range(2))
    embeddings = Embeddings(
        image,
        text,
        torch.ones((), **on).requires_grad_(),
        torch.ones((), **on).requires_grad_() if "bias" in objective.carries else None,
        label_logits=torch.randn(rows, CLASSES, **on).requires_grad_(),
    )
    batch = Batch(
        torch.zeros(rows, 3, 2, 2, **on),
        torch.zeros(rows, 4, **numbers),
        torch.zeros(rows, **numbers),
        ("",) * rows,
        sample_ids=torch.zeros(rows, **numbers),
        multi_labels=torch.zeros(rows, CLASSES, **numbers),
        teacher=TeacherBatch(torch.randn(rows, width, **on), torch.randn(rows, width, **on)),
        rank_sizes=(rows,) * num_ranks,
    )
    pairs, negatives = (rows,) * num_ranks, (0,) * num_ranks
    if "groups" in objective.carries:
        batch = replace(batch, groups=torch.zeros(rows, **numbers))
    if "mask" in objective.carries:
        mask = torch.arange(rows, **on) >= 2
        batch = replace(batch, pair_mask=mask, num_pairs=rows - 2)
        pairs = (rows - 2, *[rows - 1] * (num_ranks - 1))
    if "negatives" in objective.carries:
        images = torch.zeros(NEGATIVE_IMAGES, 3, 2, 2, **on)
        more = {"negative_image": torch.randn(len(images), width, **on).requires_grad_()}
        more["negative_text"] = torch.randn(NEGATIVES, width, **on).requires_grad_()
        embeddings = replace(embeddings, **more)
        tokens = torch.zeros(NEGATIVES, 4, **numbers)
        batch = replace(batch, negatives=NegativeBatch(images, tokens))
        negatives = (NEGATIVES, *[0] * (num_ranks - 1))
    if objective.carries & {"mask", "negatives"}:
        images_of = (NEGATIVE_IMAGES, *[1] * (num_ranks - 1)) if any(negatives) else negatives
        batch = replace(batch, pair_sizes=PairSizes(pairs, negatives, images_of))
    if "series" in objective.carries:
        return _with_series(embeddings, batch, num_ranks)
    return embeddings, batch


def _with_series(embeddings: Embeddings, batch: Batch, num_ranks: int) -> tuple[Embeddings, Batch]:
    """Add a modality; every sample of rank 0 but one has two of them, of other ranks all."""
    rows, width = embeddings.image.shape
    masks = {name: torch.arange(rows, device="cuda") > 0 for name in ("image", "text", "series")}
    series = ModalityEmbeddings(
        torch.randn(rows, width, device="cuda").requires_grad_(), masks["series"]
    )
    logits = torch.randn(rows, CLASSES, device="cuda").requires_grad_()
    present = {"image_present": masks["image"], "text_present": masks["text"]}
    joint = (rows - 1, *[rows] * (num_ranks - 1))
    negatives = (0 if batch.negatives is None else NEGATIVES, *[0] * (num_ranks - 1))
    pairs = list(combinations(sorted(masks), 2))
    nothing = (0,) * num_ranks
    return (
        replace(
            embeddings, **present, modalities={"series": series}, head_logits={"series": logits}
        ),
        replace(
            batch,
            **present,
            pair_mask=masks["image"] & masks["text"],
            num_joint=dict.fromkeys(pairs, rows - 1),
            joint_sizes={
                pair: PairSizes(joint, negatives if pair == ("image", "text") else nothing)
                for pair in pairs
            },
        ),
    )
