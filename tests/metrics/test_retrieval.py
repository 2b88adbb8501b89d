"""Recall against loops, against a full sort, with ties, repeats, and over ranks."""

from __future__ import annotations

import dataclasses
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from clipkit.errors import ConfigError, MetricError
from clipkit.metrics import RetrievalMetrics
from clipkit.metrics.functional import first_of_each, retrieval_ranks, retrieval_recall


def unit_rows(size, width, seed):
    return F.normalize(
        torch.randn(size, width, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def naive_ranks(image, text, owner):
    """For each query, the wrong candidates that score no lower than the best right one."""
    scores = (image.double() @ text.double().T).tolist()
    owner = owner.tolist()
    of_images = []
    for i, row in enumerate(scores):
        best = max((s for s, o in zip(row, owner, strict=True) if o == i), default=-9)
        of_images.append(sum(s >= best - 1e-13 for s, o in zip(row, owner, strict=True) if o != i))
    of_texts = [
        sum(scores[i][j] >= scores[owner[j]][j] - 1e-13 for i in range(len(image)) if i != owner[j])
        for j in range(len(owner))
    ]
    return of_images, of_texts


@given(
    num_images=st.integers(1, 12),
    captions=st.integers(1, 4),
    chunk=st.integers(1, 15),
    copies=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_ranks_equal_the_loop(num_images, captions, chunk, copies, seed):
    generator = torch.Generator().manual_seed(seed)
    image = unit_rows(num_images, 5, seed)
    owner = torch.randint(0, num_images, (num_images * captions,), generator=generator)
    text = unit_rows(len(owner), 5, seed + 1)
    if copies:  # exact ties
        image = image[torch.randint(0, num_images, (num_images,), generator=generator)]
        text = text[torch.randint(0, len(text), (len(text),), generator=generator)]
    of_images, of_texts = retrieval_ranks(image, text, owner, chunk)
    expected = naive_ranks(image, text, owner)
    assert (of_images.tolist(), of_texts.tolist()) == expected


def test_recall_equals_a_full_sort():
    """CLIP_benchmark's definition: any right answer among the k best of the whole matrix."""
    owner = torch.arange(60).repeat_interleave(5)
    image = unit_rows(60, 16, 0)
    text = F.normalize(image[owner] + 1.5 * unit_rows(300, 16, 1), dim=1)
    got = retrieval_recall(image, text, owner, ks=(1, 5, 10), chunk_size=37)
    scores = text @ image.T
    for k in (1, 5, 10):
        texts = (scores.topk(k, 1).indices == owner[:, None]).any(1).double().mean()
        images = (owner[scores.T.topk(k, 1).indices] == torch.arange(60)[:, None]).any(1)
        assert got[f"text_to_image/recall_at_{k}"] == pytest.approx(float(texts))
        assert got[f"image_to_text/recall_at_{k}"] == pytest.approx(float(images.double().mean()))
    assert 0.1 < got["text_to_image/recall_at_1"] < 0.9


@pytest.mark.parametrize("size", [2, 5, 120])
@pytest.mark.parametrize("width", [3, 512])
def test_a_collapsed_model_scores_nothing(size, width):
    """Also where fp32 products of equal vectors differ by rounding between chunks."""
    same = unit_rows(1, width, 0).expand(size, width)
    k = (1,) if size < 120 else (1, 10)
    for chunk in (None, 7, 100):
        recalls = retrieval_recall(same, same.clone(), torch.arange(size), k, chunk)
        assert set(recalls.values()) == {0.0}


def test_a_duplicated_candidate_never_helps():
    image, text = torch.eye(3)[[0, 0, 1]], torch.eye(3)[[0, 0, 1]]
    recalls = retrieval_recall(image, text, torch.arange(3), ks=(1, 2))
    assert recalls["text_to_image/recall_at_1"] == pytest.approx(1 / 3)
    assert recalls["image_to_text/recall_at_2"] == 1


def test_close_scores_are_told_apart():
    """Gaps of 1e-7, below what an fp32 product of this width can resolve."""
    base = unit_rows(1, 512, 0)
    steps = torch.arange(6)[:, None] * 3e-8
    text = (base + steps * base.sign()).float()
    ranks = retrieval_ranks(base, text, torch.zeros(6, dtype=torch.int64))[0]
    assert ranks.tolist() == [0]
    owner = torch.tensor([1, 0, 1, 1, 1, 1])
    got = retrieval_ranks(torch.cat([base, -base]), text, owner)[0]
    assert got[0] == naive_ranks(torch.cat([base, -base]), text, owner)[0][0]


def test_pictures_without_caption_are_candidates_only():
    image = torch.eye(3)
    recalls = retrieval_recall(image, image[:2], torch.arange(2), ks=(1,))
    assert recalls == {"image_to_text/recall_at_1": 1.0, "text_to_image/recall_at_1": 1.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_raises(bad):
    image, text = torch.eye(3), torch.eye(3)
    text[1, 1] = bad
    with pytest.raises(MetricError, match="text: expected finite"):
        retrieval_recall(image, text, torch.arange(3))
    with pytest.raises(MetricError, match="image: expected finite"):
        retrieval_recall(text, image, torch.arange(3))


def test_wrong_shapes_raise():
    one = torch.eye(3)
    with pytest.raises(MetricError, match="one entry per text"):
        retrieval_recall(one, one, torch.arange(2))
    with pytest.raises(MetricError, match="rows 0 to 2, got 0 to 3"):
        retrieval_recall(one, one, torch.tensor([0, 1, 3]))
    with pytest.raises(MetricError, match="at least one"):
        retrieval_recall(one[:0], one[:0], torch.arange(0))
    with pytest.raises(MetricError, match="expected \\[N D\\]"):
        retrieval_recall(one, one[:, :2], torch.arange(3))
    with pytest.raises(MetricError, match="ks"):
        retrieval_recall(one, one, torch.arange(3), ks=(0,))
    with pytest.raises(MetricError, match="chunk_size"):
        retrieval_recall(one, one, torch.arange(3), chunk_size=0)


def test_the_precision_of_products_is_put_back():
    torch.set_float32_matmul_precision("medium")
    try:
        retrieval_recall(torch.eye(2), torch.eye(2), torch.arange(2))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@given(st.lists(st.integers(0, 5), max_size=20))
def test_first_of_each(ids):
    expected = [i for i, x in enumerate(ids) if x not in ids[:i]]
    assert first_of_each(torch.tensor(ids, dtype=torch.int64)).tolist() == expected


def test_metric_equals_the_function_and_drops_repeats():
    image = unit_rows(20, 8, 0)
    owner = torch.arange(20).repeat_interleave(3)
    text = F.normalize(image[owner] + unit_rows(60, 8, 1), dim=1)
    expected = retrieval_recall(image, text, owner)
    metric = RetrievalMetrics()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    for part in (*order.split(6), order[:4]):  # the last: padding
        captions = torch.cat([(owner == i).nonzero().squeeze(1) for i in part])
        local = torch.arange(len(part)).repeat_interleave(3)
        metric.update(image[part], text[captions], part * 1000 + 7, local)
    got = metric.compute()
    assert {name: value.item() for name, value in got.items()} == pytest.approx(expected)
    metric.reset()
    with pytest.raises(MetricError, match="update before compute"):
        metric.compute()


def test_metric_refuses_wrong_lengths():
    with pytest.raises(MetricError, match="ids, text_to_image and groups"):
        RetrievalMetrics().update(torch.eye(3), torch.eye(3), torch.arange(2))


def test_groups_match_all_of_their_pairs():
    image, text = unit_rows(12, 4, 0), unit_rows(12, 4, 1)
    groups = torch.tensor([3, -1, 3, 5, -1, 5, 3, -1, 2**60, 5, -1, 2**60])
    metric = RetrievalMetrics(ks=(1, 3))
    for part in torch.arange(12).split(5):
        metric.update(image[part], text[part], part, groups=groups[part])
    matches = (groups[:, None] == groups) & (groups >= 0) | torch.eye(12, dtype=torch.bool)
    scores = image.double() @ text.double().T
    for direction, table in (("image_to_text", scores), ("text_to_image", scores.T)):
        best = table.where(matches, -9).amax(1, keepdim=True)
        rank = ((table >= best) & ~matches).sum(1)
        for k in (1, 3):
            expected = float((rank < k).float().mean())
            assert metric.compute()[f"{direction}/recall_at_{k}"] == pytest.approx(expected)
        ranks = [1.0 + n for n in rank.tolist()]
        measures = metric.measure(metric.pairs())
        assert measures[f"{direction}/median_rank"] == pytest.approx(statistics.median(ranks))
        assert measures[f"{direction}/mean_rank"] == pytest.approx(statistics.mean(ranks))
    without = dataclasses.replace(metric.pairs(), groups=torch.full((12,), -1))
    assert metric.measure(metric.pairs()) != metric.measure(without)


def test_a_limit_selects_the_same_images_in_any_order_and_keeps_no_others():
    image, text, ids = unit_rows(90, 4, 0), unit_rows(180, 4, 1), torch.arange(90) * 3 + 1
    kept = []
    for seed, size in ((0, 7), (1, 90), (2, 1)):
        metric = RetrievalMetrics(ks=(1,), limit=10)
        order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
        for part in order.split(size):
            texts = torch.stack([2 * part, 2 * part + 1], 1).flatten()
            owner = torch.arange(len(part)).repeat_interleave(2)
            metric.update(image[part], text[texts], ids[part], owner)
            assert sum(map(len, metric.image)) <= 20
        pairs = metric.pairs()
        assert len(pairs.image) == 10
        assert len(pairs.text) == 20
        kept.append({tuple(row.tolist()) for row in pairs.image})
        chosen = torch.tensor([[tuple(row) in kept[-1]] for row in image.tolist()]).flatten()
        rows = chosen.nonzero().flatten()
        owners = torch.arange(10).repeat_interleave(2)
        of_chosen = text[torch.stack([2 * rows, 2 * rows + 1], 1).flatten()]
        expected = retrieval_recall(image[rows], of_chosen, owners, ks=(1,))
        assert {n: float(v) for n, v in metric.compute().items()} == pytest.approx(expected)
    assert kept[0] == kept[1] == kept[2]


def test_a_large_group_is_measured_by_fewer_images():
    size = 3000
    metric = RetrievalMetrics(ks=(1,))
    rows = unit_rows(size, 4, 0)
    metric.update(rows, rows, torch.arange(size), groups=torch.zeros(size, dtype=torch.int64))
    assert len(metric.pairs().image) == size // 2
    metric = RetrievalMetrics(ks=(1,))
    metric.update(rows, rows, torch.arange(size), groups=torch.arange(size) // 100)
    assert len(metric.pairs().image) == size


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="limit: expected at least 1, got 0"):
        RetrievalMetrics(limit=0)
