"""Every term of the objective, with its oracle: the cases of ``LossTester``.

A new term adds a line to ``CASES``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from clipkit import losses
from clipkit.losses import (
    ContrastiveLoss,
    DistillationLoss,
    GlobalContrastiveLoss,
    LabelAwareContrastiveLoss,
    LabelLoss,
    LossTerm,
    MatryoshkaLoss,
    ModalityLabelLoss,
    ModalityPairLoss,
    MultiLabelLoss,
    SigmoidLoss,
    StoredTeacher,
)
from clipkit.types import IGNORE_LABEL, Batch, Embeddings, TeacherBatch
from tests.helpers import oracles

CLASSES, NUM_SAMPLES, GAMMA, TEACHER_SCALE = 4, 60, 0.4, 20.0
WIDTHS = [2, 5, 6]
CLASS_WEIGHTS, POSITIVE_WEIGHTS = [1.0, 2.0, 0.5, 4.0], [1.0, 2.0, 0.5, 3.0]

Oracle = Callable[[Embeddings, Batch], Tensor]


@dataclass(frozen=True)
class Case:
    """A term, what the batch carries for it, and its definition.

    Args:
        make: Builds the term; the argument is ``tile_size``.
        oracle: Builds the loop that computes its value from everything of all ranks; a loop of a
            term with a memory has one, too.
        fields: What the batch and the embeddings carry besides pairs: "groups", "mask",
            "negatives", "bias".
        atol: Error that fp64 inputs leave; more where the term keeps something in fp32.
        passes: Passes of a step in the memory before the one that is looked at.
    """

    make: Callable[[int | None], LossTerm]
    oracle: Callable[[], Oracle]
    fields: frozenset[str] = frozenset()
    atol: float = 1e-9
    passes: int = 1


def _ids(values: Tensor) -> list[int]:
    """Group ids in which a negative one is a group of its own."""
    return [v if v >= 0 else -1 - i for i, v in enumerate(values.tolist())]


def _kept(batch: Batch) -> Tensor:
    return torch.ones(len(batch), dtype=torch.bool) if batch.pair_mask is None else batch.pair_mask


def _softmax(embeddings: Embeddings, batch: Batch) -> Tensor:
    kept, e = _kept(batch), embeddings
    groups = None if batch.groups is None else _ids(batch.groups[kept])
    negatives = e.negative_image, e.negative_text
    return oracles.naive_softmax(e.image[kept], e.text[kept], e.logit_scale, groups, *negatives)


def _label_aware(embeddings: Embeddings, batch: Batch) -> Tensor:
    return _softmax(embeddings, replace(batch, groups=batch.labels))


def _sigmoid(embeddings: Embeddings, batch: Batch) -> Tensor:
    kept, e = _kept(batch), embeddings
    groups = None if batch.groups is None else _ids(batch.groups[kept])
    rows = e.image[kept], e.text[kept], e.logit_scale, e.logit_bias
    return oracles.naive_sigmoid(*rows, groups, e.negative_image, e.negative_text)


def _nested(one: Oracle, widths: list[int]) -> Oracle:
    def cut(rows: Tensor | None, width: int) -> Tensor | None:
        return None if rows is None else rows[:, :width] / rows[:, :width].norm(dim=1)[:, None]

    def oracle(embeddings: Embeddings, batch: Batch) -> Tensor:
        names = ("image", "text", "negative_image", "negative_text")
        total = torch.zeros(()).double()
        for width in widths:
            parts = {name: cut(getattr(embeddings, name), width) for name in names}
            total = total + one(replace(embeddings, **parts), batch) / len(widths)
        return total

    return oracle


def _global() -> Oracle:
    averages: dict[tuple[int, int], float] = {}

    def oracle(embeddings: Embeddings, batch: Batch) -> Tensor:
        kept, e = _kept(batch), embeddings
        ids = batch.sample_ids[kept].tolist()
        rows = e.image[kept], e.text[kept], e.logit_scale
        return oracles.naive_global(*rows, ids, averages, GAMMA)

    return oracle


def _teacher(batch: Batch) -> tuple[Tensor, Tensor]:
    kept = _kept(batch)
    towers = batch.teacher.image, batch.teacher.text
    image, text = (F.normalize(tower[kept].double(), dim=1) for tower in towers)
    return image, text


def _similarity(embeddings: Embeddings, batch: Batch) -> Tensor:
    kept, e = _kept(batch), embeddings
    teacher = (*_teacher(batch), TEACHER_SCALE)
    return oracles.naive_distillation(e.image[kept], e.text[kept], e.logit_scale, teacher)


def _features(embeddings: Embeddings, batch: Batch) -> Tensor:
    kept, e = _kept(batch), embeddings
    return oracles.naive_features(e.image[kept], e.text[kept], _teacher(batch))


def _both_distillations(embeddings: Embeddings, batch: Batch) -> Tensor:
    return 0.7 * _similarity(embeddings, batch) + 0.2 * _features(embeddings, batch)


def _label(weights: list[float] | None, smoothing: float) -> Oracle:
    return lambda e, batch: oracles.naive_label(
        e.label_logits, batch.labels.tolist(), weights, smoothing
    )


def _distillation(similarity: float, features: float, tile: int | None) -> LossTerm:
    return DistillationLoss(StoredTeacher(TEACHER_SCALE), similarity, features, tile)


CASES = {
    "softmax": Case(ContrastiveLoss, lambda: _softmax),
    "softmax groups": Case(ContrastiveLoss, lambda: _softmax, frozenset({"groups"})),
    "softmax mask": Case(ContrastiveLoss, lambda: _softmax, frozenset({"mask"})),
    "softmax all": Case(
        ContrastiveLoss, lambda: _softmax, frozenset({"groups", "mask", "negatives"})
    ),
    "label-aware": Case(LabelAwareContrastiveLoss, lambda: _label_aware),
    "sigmoid": Case(SigmoidLoss, lambda: _sigmoid, frozenset({"bias"})),
    "sigmoid groups": Case(SigmoidLoss, lambda: _sigmoid, frozenset({"bias", "groups"})),
    "sigmoid all": Case(
        SigmoidLoss, lambda: _sigmoid, frozenset({"bias", "groups", "mask", "negatives"})
    ),
    "nested softmax": Case(
        lambda tile: MatryoshkaLoss(ContrastiveLoss(tile), WIDTHS),
        lambda: _nested(_softmax, WIDTHS),
        frozenset({"groups", "mask", "negatives"}),
    ),
    "nested sigmoid": Case(
        lambda tile: MatryoshkaLoss(SigmoidLoss(tile), WIDTHS),
        lambda: _nested(_sigmoid, WIDTHS),
        frozenset({"bias"}),
    ),
    "modalities": Case(  # the texts in place of the images, whose loss is the same
        lambda tile: ModalityPairLoss(ContrastiveLoss(tile), "text", "image"),
        lambda: _softmax,
        frozenset({"groups", "mask", "negatives"}),
    ),
    "labels of a modality": Case(
        lambda _: ModalityLabelLoss(LabelLoss(), "image"), lambda: _label(None, 0.0)
    ),
    "global": Case(
        lambda tile: GlobalContrastiveLoss(NUM_SAMPLES, GAMMA, 1e-300, tile),
        _global,
        frozenset({"mask"}),
        atol=1e-4,
        passes=2,
    ),
    "similarities": Case(lambda tile: _distillation(1.0, 0.0, tile), lambda: _similarity),
    "features": Case(lambda tile: _distillation(0.0, 1.0, tile), lambda: _features),
    "distillation": Case(
        lambda tile: _distillation(0.7, 0.2, tile), lambda: _both_distillations, frozenset({"mask"})
    ),
    "labels": Case(lambda _: LabelLoss(), lambda: _label(None, 0.0)),
    "weighted labels": Case(
        lambda _: LabelLoss(CLASSES, 0.1, CLASS_WEIGHTS), lambda: _label(CLASS_WEIGHTS, 0.1)
    ),
    "several labels": Case(
        lambda _: MultiLabelLoss(),
        lambda: lambda e, batch: oracles.naive_multi_label(e.label_logits, batch.multi_labels),
    ),
    "weighted several labels": Case(
        lambda _: MultiLabelLoss(POSITIVE_WEIGHTS),
        lambda: (
            lambda e, batch: oracles.naive_multi_label(
                e.label_logits, batch.multi_labels, POSITIVE_WEIGHTS
            )
        ),
    ),
}


def term_names(over_fusion: bool) -> set[str]:
    """Return the names of the public terms that read a fusion, or of those that do not."""
    public = [getattr(losses, name) for name in losses.__all__]
    terms = [one for one in public if inspect.isclass(one) and issubclass(one, LossTerm)]
    return {
        one.__name__
        for one in terms
        if not inspect.isabstract(one) and one.reads_fused == over_fusion
    }


Inputs = dict[str, Tensor]
"""The differentiable fields of ``Embeddings`` by name."""


def make_inputs(
    case: Case,
    size: int,
    seed: int = 0,
    scale: float = 14.3,
    num_negatives: tuple[int, int] = (3, 2),
) -> tuple[Inputs, Batch]:
    """Embeddings in fp64 and a batch, as one process sees those of all ranks."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "image": oracles.unit_rows(size, 6, seed),
        "text": oracles.unit_rows(size, 6, seed + 1),
        "logit_scale": torch.tensor(scale).double(),
        "label_logits": 3 * torch.randn(size, CLASSES, generator=generator, dtype=torch.float64),
    }
    if "bias" in case.fields:
        inputs["logit_bias"] = torch.tensor(-4.0).double()
    if "negatives" in case.fields:
        inputs["negative_image"] = oracles.unit_rows(num_negatives[0], 6, seed + 2)
        inputs["negative_text"] = oracles.unit_rows(num_negatives[1], 6, seed + 3)

    def some(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    unlabelled = some(0, 3, size) == 0
    mask = some(0, 3, size) > 0
    mask[:2] = True
    batch = replace(
        oracles.make_batch(size, some(0, CLASSES, size).masked_fill(unlabelled, IGNORE_LABEL)),
        sample_ids=torch.randperm(NUM_SAMPLES, generator=generator)[:size],
        groups=some(-2, 5, size) if "groups" in case.fields else None,
        pair_mask=mask if "mask" in case.fields else None,
        multi_labels=some(0, 2, size, CLASSES).masked_fill(
            some(0, 3, size, CLASSES) == 0, IGNORE_LABEL
        ),
        teacher=TeacherBatch(
            oracles.unit_rows(size, 6, seed + 4), oracles.unit_rows(size, 6, seed + 5)
        ),
    )
    return inputs, batch


def rows_of(
    inputs: Inputs, batch: Batch, rows: slice, negatives: list[slice]
) -> tuple[Inputs, Batch]:
    """The part of one rank."""
    parts = dict(inputs)
    for name in ("image", "text", "label_logits"):
        parts[name] = inputs[name][rows]
    for name, part in zip(("negative_image", "negative_text"), negatives, strict=True):
        if name in inputs:
            parts[name] = inputs[name][part]
    sliced = {
        field.name: value[rows]
        for field in fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor | tuple)
    }
    teacher = TeacherBatch(batch.teacher.image[rows], batch.teacher.text[rows])
    return parts, replace(batch, **sliced, teacher=teacher)
