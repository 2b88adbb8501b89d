"""Losses as loops over single samples in fp64: independent of the package's implementation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clipkit.types import IGNORE_LABEL, Batch


def unit_rows(size: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(size, width, generator=generator, dtype=dtype), dim=1)


def make_batch(
    size: int,
    labels: Tensor | None = None,
    groups: Tensor | None = None,
    pair_mask: Tensor | None = None,
    sample_ids: Tensor | None = None,
) -> Batch:
    return Batch(
        torch.zeros(size, 3, 1, 1, dtype=torch.uint8),
        torch.zeros(size, 1, dtype=torch.int64),
        torch.full((size,), IGNORE_LABEL) if labels is None else labels,
        tuple(str(i) for i in range(size)),
        sample_ids=sample_ids,
        groups=groups,
        pair_mask=pair_mask,
    )


def value_and_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    value.backward()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return [value.detach(), *gradients]


def assert_close(got: Sequence[Tensor], expected: Sequence[Tensor], atol: float) -> None:
    assert len(got) == len(expected)
    for index, (value, wanted) in enumerate(zip(got, expected, strict=True)):
        error = float((value.double() - wanted.double()).abs().max()) if value.numel() else 0.0
        assert error <= atol, f"entry {index} (0 is the value): off by {error}"


def naive_softmax(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    groups: Sequence[int] | None = None,
    negative_image: Tensor | None = None,
    negative_text: Tensor | None = None,
) -> Tensor:
    size = len(image)
    groups = list(range(size)) if groups is None else groups
    texts = text if negative_text is None else torch.cat([text, negative_text])
    images = image if negative_image is None else torch.cat([image, negative_image])
    total = image.new_zeros(())
    for i in range(size):
        members = [j for j in range(size) if groups[j] == groups[i]]
        over_texts = torch.stack([scale * image[i].dot(other) for other in texts])
        over_images = torch.stack([scale * other.dot(text[i]) for other in images])
        for j in members:
            total = total - (over_texts[j] - over_texts.logsumexp(0)) / len(members)
            total = total - (over_images[j] - over_images.logsumexp(0)) / len(members)
    return total / (2 * max(size, 1))


def naive_sigmoid(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    groups: Sequence[int] | None = None,
    negative_image: Tensor | None = None,
    negative_text: Tensor | None = None,
) -> Tensor:
    size = len(image)
    groups = list(range(size)) if groups is None else groups
    total = image.new_zeros(())
    for i in range(size):
        for j in range(size):
            sign = 1 if groups[i] == groups[j] else -1
            total = total - F.logsigmoid(sign * (scale * image[i].dot(text[j]) + bias))
        for other in () if negative_text is None else negative_text:
            total = total - F.logsigmoid(-(scale * image[i].dot(other) + bias))
        for other in () if negative_image is None else negative_image:
            total = total - F.logsigmoid(-(scale * other.dot(text[i]) + bias))
    return total / max(size, 1)


def naive_global(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    ids: Sequence[int],
    averages: dict[tuple[int, int], float],
    gamma: float,
) -> Tensor:
    """Updates ``averages`` ({(side, id): u}); the surrogate's gradient, and the mean of log u."""
    size = len(ids)
    if size < 2:
        return image.new_zeros(())
    surrogate, logs = image.new_zeros(()), []
    for side, (queries, answers) in enumerate(((image, text), (text, image))):
        for i in range(size):
            scores = [scale * queries[i].dot(answers[j]) for j in range(size)]
            g = sum((scores[j] - scores[i]).exp() for j in range(size) if j != i) / (size - 1)
            key = (side, ids[i])
            before = averages.get(key)
            averages[key] = g.item() if before is None else (1 - gamma) * before + gamma * g.item()
            surrogate = surrogate + g / averages[key]
            logs.append(math.log(averages[key]))
    surrogate = surrogate / (2 * size)
    return surrogate - surrogate.detach() + sum(logs) / len(logs)


def naive_label(
    logits: Tensor, labels: Sequence[int], weights: Sequence[float] | None, smoothing: float = 0.0
) -> Tensor:
    """With smoothing every class gets a share of the target; torch weights each by its class."""
    total, divisor, num_classes = 0 * logits.sum(), 0.0, logits.shape[1]
    weights = [1.0] * num_classes if weights is None else weights
    for row, label in zip(logits, labels, strict=True):
        if label != IGNORE_LABEL:
            for c in range(num_classes):
                target = smoothing / num_classes + (1 - smoothing) * (c == label)
                total = total - weights[c] * target * (row[c] - row.logsumexp(0))
            divisor += weights[label]
    return total / divisor if divisor else total


def naive_multi_label(
    logits: Tensor, targets: Tensor, weights: Sequence[float] | None = None
) -> Tensor:
    total, known = 0 * logits.sum(), 0
    for row, answers in zip(logits, targets.tolist(), strict=True):
        for c, answer in enumerate(answers):
            if answer != IGNORE_LABEL:
                sign, weight = (1, weights[c] if weights else 1.0) if answer else (-1, 1.0)
                total = total - weight * F.logsigmoid(sign * row[c])
                known += 1
    return total / known if known else total


def naive_distillation(
    image: Tensor, text: Tensor, scale: Tensor, teacher: tuple[Tensor, Tensor, float]
) -> Tensor:
    """KL(teacher || student) for each image and each text, a candidate at a time."""
    size = len(image)
    total = 0 * (image.sum() + text.sum() + scale)
    for of_student, of_teacher in (
        ((image, text), teacher[:2]),
        ((text, image), (teacher[1], teacher[0])),
    ):
        for i in range(size):
            scores = [scale * of_student[0][i].dot(other) for other in of_student[1]]
            targets = [teacher[2] * of_teacher[0][i].dot(other) for other in of_teacher[1]]
            score_sum, target_sum = (torch.stack(x).logsumexp(0) for x in (scores, targets))
            for score, target in zip(scores, targets, strict=True):
                log_target = target - target_sum
                total = total + log_target.exp() * (log_target - (score - score_sum))
    return total / (2 * max(size, 1))


def naive_features(image: Tensor, text: Tensor, teacher: tuple[Tensor, Tensor]) -> Tensor:
    """1 - cosine of each image and of each text, averaged over both towers."""
    total = 0 * (image.sum() + text.sum())
    for i in range(len(image)):
        total = total + 1 - (image[i].dot(teacher[0][i]) + text[i].dot(teacher[1][i])) / 2
    return total / max(len(image), 1)
