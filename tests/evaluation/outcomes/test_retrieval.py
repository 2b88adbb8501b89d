"""Outcomes of retrieval: metrics for any weights equal those of queries that occur as often."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch.nn import functional as F

from clipkit.evaluation import load_outcomes, outcome_metrics, save_outcomes
from clipkit.evaluation.outcomes.retrieval import retrieval_outcomes, rsum_outcomes
from clipkit.metrics import pair_ranks, retrieval_recall

NUM_IMAGES, CAPTIONS = 40, 3


def both_directions(ks=(1, 5, 10)):
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(NUM_IMAGES, 12, generator=generator), dim=1)
    owner = torch.arange(NUM_IMAGES).repeat_interleave(CAPTIONS)
    noise = torch.randn(len(owner), 12, generator=generator)
    text = F.normalize(image[owner] + 0.5 * noise, dim=1)
    pairs = torch.stack([owner, torch.arange(len(owner))], 1)
    of_images, of_texts = pair_ranks(image, text, pairs)
    names = [f"i{n}" for n in range(NUM_IMAGES)]
    texts = [f"t{n}" for n in range(len(owner))]
    parts = (
        retrieval_outcomes(of_images, names, names, "image_to_text/", ks),
        retrieval_outcomes(of_texts, texts, [names[o] for o in owner], "text_to_image/", ks),
    )
    return parts, retrieval_recall(image, text, owner, ks)


def test_metrics_are_those_of_the_embeddings():
    parts, recalls = both_directions()
    for part in parts:
        metrics = outcome_metrics(part)
        assert {k: v for k, v in metrics.items() if "recall" in k}.items() <= recalls.items()
        ranks = [rank + 1 for rank in part.columns["rank"].tolist()]
        assert metrics[f"{part.prefix}median_rank"] == statistics.median(ranks)
        assert metrics[f"{part.prefix}mean_rank"] == pytest.approx(statistics.mean(ranks))
    both = rsum_outcomes(*parts)
    assert both is not None
    assert outcome_metrics(both)["rsum"] == pytest.approx(100 * sum(recalls.values()))
    assert 100 < outcome_metrics(both)["rsum"] < 590


def test_weights_are_numbers_of_draws():
    parts, _ = both_directions()
    draws = torch.randint(0, 3, (len(parts[1]),), generator=torch.Generator().manual_seed(1))
    drawn = torch.arange(len(draws)).repeat_interleave(draws)
    weighted = outcome_metrics(parts[1], draws)
    for name, column in parts[1].columns.items():
        if name != "rank":
            mean = float(column[drawn].mean())
            assert weighted[f"text_to_image/{name}"] == pytest.approx(mean)
    ranks = [rank + 1 for rank in parts[1].columns["rank"][drawn].tolist()]
    assert weighted["text_to_image/median_rank"] == statistics.median(ranks)
    assert weighted["text_to_image/mean_rank"] == pytest.approx(statistics.mean(ranks))


def test_rsum_draws_images_with_all_of_their_captions():
    parts, _ = both_directions()
    both = rsum_outcomes(*parts)
    assert both is not None
    weights = (torch.arange(NUM_IMAGES) % 3).double()
    captions = weights.repeat_interleave(CAPTIONS)
    expected = 100 * sum(
        value
        for part, of_part in zip(parts, (weights, captions), strict=True)
        for name, value in outcome_metrics(part, of_part).items()
        if name.rpartition("_")[0].endswith("recall_at")
    )
    assert outcome_metrics(both, weights)["rsum"] == pytest.approx(expected)


def test_no_units_drawn_gives_no_number():
    parts, _ = both_directions()
    metrics = outcome_metrics(parts[0], torch.zeros(NUM_IMAGES))
    assert all(value != value for value in metrics.values())


def test_rsum_needs_all_three_depths():
    assert rsum_outcomes(*both_directions(ks=(1, 5))[0]) is None


def test_a_file_keeps_them(tmp_path):
    parts, _ = both_directions()
    both = rsum_outcomes(*parts)
    assert both is not None
    save_outcomes(tmp_path / "a.npz", [*parts, both])
    for kept, part in zip(load_outcomes(tmp_path / "a.npz"), [*parts, both], strict=True):
        assert outcome_metrics(kept) == outcome_metrics(part)
