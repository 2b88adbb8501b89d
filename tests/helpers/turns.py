"""Turns of made-up dialogues: batches of candidates, shards, and the measures as loops."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipkit.models import CrossAttentionFusion, JointEncoder, with_fusion
from clipkit.types import Batch, CandidateBatch
from tests.helpers import joint, tiny
from tests.helpers.factories import COLORS, image_bytes, write_shard


def with_candidates(given: Batch, seed: int = 0) -> Batch:
    """Add 0 to 4 candidates of any length to each sample of ``joint.batch``."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor([(3 * row + 2) % 5 for row in range(len(given))])
    tokens = torch.zeros(int(counts.sum()), 8, dtype=torch.int64)
    for row in range(len(tokens)):
        end = 2 + row * 5 % 6
        tokens[row, 1:end] = torch.randint(1, 97, (end - 1,), generator=generator)
        tokens[row, 0], tokens[row, end] = 98, 99
    correct = torch.where(counts > 0, torch.arange(len(given)) % counts.clamp(min=1), -1)
    return replace(given, candidates=CandidateBatch(tokens, counts, correct))


def share(given: Batch, rows: slice) -> Batch:
    """Some samples of a batch, with captions and candidates padded to their own longest."""
    assert given.candidates is not None
    counts = given.candidates.counts
    ends = counts.cumsum(0)
    start = int((ends - counts)[rows][0])
    own = slice(start, start + int(counts[rows].sum()))
    tokens = given.candidates.tokens[own]
    longest = int((tokens != 0).sum(1).max()) if len(tokens) else 0
    candidates = CandidateBatch(tokens[:, :longest], counts[rows], given.candidates.correct[rows])
    names = ("images", "tokens", "labels", "keys", "sample_ids", "groups", "pair_mask")
    parts: dict[str, Any] = {name: getattr(given, name)[rows] for name in names}
    return replace(given, **parts, candidates=candidates)


def naive_loss(model: JointEncoder, given: Batch) -> Tensor:
    """One candidate at a time."""
    assert given.candidates is not None
    assert given.pair_mask is not None
    losses, start = [], 0
    for row, count in enumerate(given.candidates.counts.tolist()):
        logits = []
        for candidate in given.candidates.tokens[start : start + count]:
            image = model.read_image(given.images[row : row + 1]).tokens
            text = model.read_text(candidate[None, : int((candidate != 0).sum())]).tokens
            logits.append(model.match(model.fuse({"image": image, "text": text}).pooled)[0])
        start += count
        if count and given.pair_mask[row]:
            right = given.candidates.correct[row]
            losses.append(F.cross_entropy(torch.stack(logits)[None], right[None]))
    return torch.stack(losses).mean()


def gradients_of_loss(given: Batch) -> dict[str, np.ndarray]:
    model = joint.encoder()
    naive_loss(model, given).backward()
    return joint.gradients(model)


def naive_measures(
    scores: Sequence[float], correct: int, relevance: Sequence[float] | None
) -> dict[str, float]:
    """One candidate at a time; of equal scores the right one, and the better one, comes last."""
    rank = 1
    for at, score in enumerate(scores):
        if at != correct and score >= scores[correct]:
            rank += 1
    measures = {"mrr": 1 / rank, "rank": float(rank)}
    measures |= {f"recall_at_{k}": float(rank <= k) for k in (1, 5, 10)}
    if relevance is not None:
        size = sum(good > 0 for good in relevance)
        order = sorted(range(len(scores)), key=lambda at: (-scores[at], relevance[at]))
        best = sorted(relevance, reverse=True)
        gains = [
            sum(value / math.log2(place + 2) for place, value in enumerate(values[:size]))
            for values in ([relevance[at] for at in order], best)
        ]
        measures["ndcg"] = gains[0] / gains[1] if size else math.nan
    return measures


def encoder(width: int = 16) -> JointEncoder:
    """A fusion on the tiny towers, with the tokenizer of CLIP."""
    dual = tiny.encoder()
    torch.manual_seed(1)
    return with_fusion(dual, CrossAttentionFusion(width, 1, 2))


def members(index: int, relevance: bool = True) -> dict[str, bytes]:
    """An image of a colour, and the question which one it is; every third turn has relevance."""
    names = list(COLORS)
    turn: dict[str, Any] = {
        "history": ["a square .", f"is it number {index} ? yes ."],
        "question": "which colour is it ?",
        "candidates": [*names[index % 3 :], *names[: index % 3]],
    }
    own = names[index // 2 % len(names)]
    turn["correct"] = turn["candidates"].index(own)
    if relevance and index % 3 == 0:
        turn["relevance"] = [1.0 if name == own else 0.25 * (at % 2) for at, name in
                             enumerate(turn["candidates"])]  # fmt: skip
    image = image_bytes(own, seed=index // 2)  # two turns about each image
    return {"jpg": image, "txt": turn["question"].encode(), "json": json.dumps(turn).encode()}


def write_turns(folder: Path, count: int = 12, relevance: bool = True) -> Path:
    """Shards ``train`` and ``test`` of turns."""
    for name, start in (("train", 0), ("test", 1)):
        samples = [(f"{i:04d}", members(i, relevance)) for i in range(start, start + count)]
        write_shard(folder / name / "0.tar", samples)
    return folder
