"""Metrics over ranks: uneven shares, a rank with nothing, and repeats of a sampler."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clipkit.metrics import ClassificationMetrics, RetrievalMetrics
from clipkit.metrics.functional import classification_accuracy, retrieval_recall
from tests.helpers.ranks import run_ranks

SHARES = ((0, 1, 2, 3, 4, 5, 6, 7, 8), (9, 10, 11, 12, 13, 0, 1), ())


def data():
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(14, 6, generator=generator), dim=1)
    owner = torch.arange(14).repeat_interleave(2)
    text = F.normalize(image[owner] + 0.6 * torch.randn(28, 6, generator=generator), dim=1)
    return image, text, owner, torch.randn(14, 7, generator=generator), torch.arange(14) % 7


def measure(rank, world_size):
    image, text, _, scores, labels = data()
    retrieval, classification = RetrievalMetrics(), ClassificationMetrics(7)
    for start in range(0, len(SHARES[rank]), 4):
        part = torch.tensor(SHARES[rank][start : start + 4])
        captions = torch.stack([2 * part, 2 * part + 1], 1).flatten()
        own = torch.arange(len(part)).repeat_interleave(2)
        retrieval.update(image[part].bfloat16().float(), text[captions], part, own)
        classification.update(scores[part], labels[part], part)
    both = {**retrieval.compute(), **classification.compute()}
    return {name: float(value) for name, value in both.items()}


def measure_some(rank, world_size):
    """Recall of six images, whose captions match by group."""
    image, text, _, _, labels = data()
    retrieval = RetrievalMetrics(ks=(1, 2), limit=6)
    for part in torch.tensor(SHARES[rank] if world_size > 1 else range(14)).long().split(2):
        retrieval.update(image[part], text[2 * part], part, groups=labels[part])
    pairs = retrieval.pairs()
    assert len(pairs.image) == 6
    return {name: float(value) for name, value in retrieval.compute().items()}


def test_ranks_select_the_same_images():
    expected = measure_some(0, 1)
    for result in run_ranks(measure_some, len(SHARES)):
        assert result == expected


def test_ranks_equal_one_process():
    image, text, owner, scores, labels = data()
    expected = {
        **retrieval_recall(image.bfloat16().float(), text, owner),
        **classification_accuracy(scores, labels),
    }
    assert 0 < expected["text_to_image/recall_at_1"] < 1
    for result in run_ranks(measure, len(SHARES)):
        assert result == pytest.approx(expected)
