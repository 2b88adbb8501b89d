"""Scores of pairs by models that were not trained on them: linear heads on frozen features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

NUM_FOLDS = 5
WIDTH = 256
STEPS = 400
BATCH = 128


def train_heads(
    images: Tensor, texts: Tensor, owners: Tensor, train: Tensor, seed: int, steps: int = STEPS
) -> tuple[nn.Linear, nn.Linear]:
    """Train two linear heads on pairs by the contrastive loss; one caption per photo and step."""
    torch.manual_seed(seed)
    image_head, text_head = (nn.Linear(each.shape[1], WIDTH) for each in (images, texts))
    log_scale = nn.Parameter(torch.tensor(14.3).log())
    parameters = [*image_head.parameters(), *text_head.parameters(), log_scale]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    first = torch.searchsorted(owners, torch.arange(len(images)))
    counts = torch.bincount(owners, minlength=len(images))
    for _ in range(steps):
        rows = train[torch.randperm(len(train))[:BATCH]]
        captions = first[rows] + (torch.rand(len(rows)) * counts[rows]).long()
        one = nn.functional.normalize(image_head(images[rows]), dim=1)
        other = nn.functional.normalize(text_head(texts[captions]), dim=1)
        logits = log_scale.exp() * one @ other.T
        targets = torch.arange(len(rows))
        loss = nn.functional.cross_entropy(logits, targets)
        loss = (loss + nn.functional.cross_entropy(logits.T, targets)) / 2
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return image_head, text_head


@torch.no_grad()
def heads_output(
    heads: tuple[nn.Linear, nn.Linear], images: Tensor, texts: Tensor
) -> tuple[Tensor, Tensor]:
    """The unit-norm embeddings by two heads."""
    one, other = heads[0](images), heads[1](texts)
    return nn.functional.normalize(one, dim=1), nn.functional.normalize(other, dim=1)


def cross_fitted(
    images: Tensor, texts: Tensor, owners: Tensor, seed: int, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Embeddings of each photo and its captions by heads that were not trained on it."""
    folds = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)) % NUM_FOLDS)
    out = [torch.empty(len(each), WIDTH) for each in (images, texts)]
    for fold in range(NUM_FOLDS):
        train = torch.nonzero(folds != fold)[:, 0]
        heads = train_heads(images, texts, owners, train, seed, steps)
        held = heads_output(heads, images, texts)
        for target, rows, own in zip(out, held, (folds, folds[owners]), strict=True):
            target[own == fold] = rows[own == fold]
    return out[0], out[1]


def pair_means(images: Tensor, texts: Tensor, owners: Tensor) -> np.ndarray:
    """Mean score of the captions of each photo."""
    scores = (images[owners] * texts).sum(1).double()
    sums = torch.zeros(len(images), dtype=torch.float64).index_add(0, owners, scores)
    return (sums / torch.bincount(owners, minlength=len(images))).numpy()


def detection(scores: np.ndarray, wrong: np.ndarray, kept_share: float) -> dict[str, float]:
    """How well low scores find wrong pairs: AUC, precision and recall of the removed share."""
    order = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    num_wrong, num_right = wrong.sum(), (~wrong).sum()
    below = order[wrong].sum() - num_wrong * (num_wrong - 1) / 2  # right ones below each wrong one
    removed = order < len(scores) - round(kept_share * len(scores))
    found = (removed & wrong).sum()
    return {
        "auc": float(1 - below / (num_wrong * num_right)),
        "precision": float(found / removed.sum()),
        "recall": float(found / num_wrong),
    }


def recalls(images: Tensor, texts: Tensor, owners: Tensor) -> dict[str, float]:
    """Recall at 1, 5 and 10 both ways; an image is right if any of its captions is found."""
    scores = texts @ images.T
    own = scores.gather(1, owners[:, None])
    text_ranks = (scores > own).sum(1)
    better = torch.stack([(scores[:, owner] > own[at]).sum() for at, owner in enumerate(owners)])
    image_ranks = torch.full((len(images),), len(texts)).scatter_reduce(0, owners, better, "amin")
    ranks = {"text_to_image": text_ranks, "image_to_text": image_ranks}
    return {
        f"val/{way}/recall_at_{k}": float((of_way < k).double().mean())
        for way, of_way in ranks.items()
        for k in (1, 5, 10)
    }
