"""A small joint encoder, batches with every kind of positive, and the terms as loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    FusedLabelLoss,
    MaskedWordLoss,
    MatchingLoss,
    WeightedTerm,
)
from clipkit.models import (
    CrossAttentionFusion,
    JointEncoder,
    LinearLabelHead,
    MergedFusion,
    WordHead,
    with_fused_head,
    with_fusion,
)
from clipkit.types import Batch
from tests.helpers import oracles, tiny_models

SIZE, VOCABULARY, MASK, SPECIAL = 14, 100, 97, (0, 98, 99)
CURSOR = {"epoch": 1, "position": 28}
CLASS_WEIGHTS, SMOOTHING = [1.0, 3.0, 0.5], 0.1
_WORD = 1 << 64


def encoder(merged: bool = False, words: bool = True, query: str = "text") -> JointEncoder:
    """One layer of each kind in float64, always with the same weights."""
    vision = {**tiny_models.VIT, "layers": 1, "width": 16, "patch_size": 16}
    text = {**tiny_models.TEXT, "layers": 1, "width": 16}
    dual = tiny_models.encoder(vision, text)
    context = ["image" if query == "text" else "text"]
    fusion = MergedFusion(8, 1, 2) if merged else CrossAttentionFusion(8, 1, 2, query, context)
    joint = with_fusion(dual, fusion, WordHead(8, VOCABULARY) if words else None)
    head = LinearLabelHead(8, len(CLASS_WEIGHTS))
    torch.nn.init.normal_(head.linear.weight)
    return with_fused_head(joint, head).double()


def batch(size: int = SIZE) -> Batch:
    """Pairs with equal captions and groups, one that is none, captions of any length, labels."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=generator)
    tokens = torch.zeros(size, 9, dtype=torch.int64)
    for row in range(size):
        end = 3 + row * 5 % 6
        tokens[row, :end] = torch.randint(1, 97, (end,), generator=generator)
        tokens[row, 0], tokens[row, end] = 98, 99
    groups = torch.full((size,), -1)
    mask = torch.ones(size, dtype=torch.bool)
    if size > 10:
        tokens[9] = tokens[2]
        groups[[0, 7, 10]], mask[5] = 4, False
    ids = torch.arange(size) * 7 + 100
    labels = torch.arange(size) ** 2 % 3
    labels[4::5] = -100
    return Batch(
        images, tokens, labels, tuple(map(str, range(size))), cursor=CURSOR,
        sample_ids=ids, groups=groups, pair_mask=mask,
    )  # fmt: skip


def objective(micro_batch_size: int | None = None, fused_only: bool = False) -> CombinedLoss:
    words = MaskedWordLoss(MASK, SPECIAL, probability=0.4, micro_batch_size=micro_batch_size)
    terms = {
        "matching": WeightedTerm(MatchingLoss(micro_batch_size=micro_batch_size), 0.7),
        "words": WeightedTerm(words, 1.3),
        "answers": WeightedTerm(
            FusedLabelLoss(SMOOTHING, CLASS_WEIGHTS, micro_batch_size=micro_batch_size), 0.9
        ),
    }
    return CombinedLoss(None if fused_only else ContrastiveLoss(), terms=terms)


def splitmix(state: int) -> int:
    """SplitMix64 with Python's integers."""
    state = (state + 0x9E3779B97F4A7C15) % _WORD
    state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % _WORD
    state = ((state ^ state >> 27) * 0x94D049BB133111EB) % _WORD
    return state ^ state >> 31


def number(key: int) -> float:
    return ((splitmix(key) >> 41) + 0.5) / 2**23


def key_of(sample: int, counter: int, cursor: Mapping[str, Any] = CURSOR) -> int:
    key = 0
    for part in (0, counter, cursor["epoch"], cursor["position"], sample):
        key = splitmix(key ^ part)
    return key


def is_positive(given: Batch, i: int, j: int) -> bool:
    ids, groups, tokens = given.sample_ids.tolist(), given.groups.tolist(), given.tokens.tolist()
    same_group = groups[i] == groups[j] and groups[i] >= 0
    return ids[i] == ids[j] or tokens[i] == tokens[j] or same_group


def naive_negative(given: Batch, similarities: Tensor, i: int, counter: int) -> int | None:
    """The drawn candidate of sample i by a loop over all candidates; None without any."""
    best, found = -np.inf, None
    for j in range(len(given)):
        if is_positive(given, i, j) or not (given.pair_mask[i] and given.pair_mask[j]):
            continue
        uniform = number(
            key_of(int(given.sample_ids[i]), counter) ^ splitmix(int(given.sample_ids[j]))
        )
        noisy = float(similarities[i, j]) - np.log(-np.log(uniform))
        if noisy > best:
            best, found = noisy, j
    return found


def naive_matching(model: JointEncoder, given: Batch) -> Tensor:
    """One pair at a time."""
    out = model(given)
    similarities = (out.logit_scale * out.text @ out.image.T).detach()

    def logit(i: int, j: int) -> Tensor:
        pair = {"image": out.tokens["image"].rows(slice(i, i + 1)),
                "text": out.tokens["text"].rows(slice(j, j + 1))}  # fmt: skip
        return model.match(model.fuse(pair).pooled)[0]

    losses = []
    for i in range(len(given)):
        if not given.pair_mask[i]:
            continue
        losses.append(-F.logsigmoid(logit(i, i)))
        image = naive_negative(given, similarities, i, 0)
        text = naive_negative(given, similarities.T, i, 1)
        losses += [] if image is None else [-F.logsigmoid(-logit(image, i))]
        losses += [] if text is None else [-F.logsigmoid(-logit(i, text))]
    return torch.stack(losses).mean()


def naive_masking(given: Batch, probability: float = 0.4) -> tuple[Tensor, list[tuple[int, int]]]:
    """Masked token ids, and the places that are to be predicted."""
    masked, places = given.tokens.clone(), []
    words = [w for w in range(VOCABULARY) if w not in (*SPECIAL, MASK)]
    for row, tokens in enumerate(given.tokens.tolist()):
        key = key_of(int(given.sample_ids[row]), 2)
        for position, token in enumerate(tokens):
            first, second, third = (number(key ^ splitmix(position + (p << 32))) for p in range(3))
            if token in (*SPECIAL, MASK) or not given.pair_mask[row] or first >= probability:
                continue
            places.append((row, position))
            if second < 0.8:
                masked[row, position] = MASK
            elif second < 0.9:
                masked[row, position] = words[int(third * len(words))]
    return masked, places


def naive_words(model: JointEncoder, given: Batch) -> Tensor:
    """One caption at a time."""
    masked, places = naive_masking(given)
    losses = []
    for row, position in places:
        one = slice(row, row + 1)
        image = model.read_image(given.images[one]).tokens
        text = model.read_text(masked[one]).tokens
        state = model.fuse({"image": image, "text": text}).tokens["text"][:, position]
        losses.append(F.cross_entropy(model.predict_words(state)[0], given.tokens[row, position]))
    return torch.stack(losses).mean()


def naive_answers(model: JointEncoder, given: Batch) -> Tensor:
    """One pair at a time."""
    logits = []
    for row in range(len(given)):
        one = slice(row, row + 1)
        image = model.read_image(given.images[one]).tokens
        text = model.read_text(given.tokens[one]).tokens
        pooled = model.fuse({"image": image, "text": text}).pooled
        logits.append(model.heads["fused"](pooled)[0])
    labels = given.labels.masked_fill(~given.pair_mask, -100).tolist()
    return oracles.naive_label(torch.stack(logits), labels, CLASS_WEIGHTS, SMOOTHING)


def naive_contrastive(model: JointEncoder, given: Batch) -> Tensor:
    out = model(replace(given, pair_mask=None))
    kept = given.pair_mask
    groups = torch.where(given.groups < 0, -1 - torch.arange(len(given)), given.groups)[kept]
    logits = out.logit_scale * out.image[kept] @ out.text[kept].T
    same = (groups[:, None] == groups).double()
    targets = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def naive_objective(model: JointEncoder, given: Batch) -> Tensor:
    return (
        naive_contrastive(model, given)
        + 0.7 * naive_matching(model, given)
        + 1.3 * naive_words(model, given)
        + 0.9 * naive_answers(model, given)
    )


def gradients(model: JointEncoder) -> dict[str, np.ndarray]:
    return {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
