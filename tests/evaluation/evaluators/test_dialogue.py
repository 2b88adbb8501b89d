"""Ranking of the answers of dialogues against loops over single pairs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import DialogueRanking, EmbedOptions
from clipkit.evaluation.comparison.intervals import metric_intervals
from clipkit.models import JointEncoder
from clipkit.models.evaluating import evaluating
from clipkit.models.inputs import transform_of
from tests.helpers import tiny, turns
from tests.helpers.factories import pair, write_shard


def naive_scores(model: JointEncoder, number: int) -> tuple[list[float], dict]:
    """The logits of the candidates of a turn, one at a time."""
    from clipkit.data import OpenClipTokenizer

    members = turns.members(number)
    turn = json.loads(members["json"])
    pixels = transform_of(model.image_tower)(members["jpg"], np.random.default_rng(0))[None]
    context = " ".join([*turn["history"], turn["question"]])
    encode = OpenClipTokenizer(context_length=16).encode
    words, scores = context.split(), []
    while any(len(encode(" ".join([*words, c]))) == 16 for c in turn["candidates"]):
        words = words[1:]
    with torch.no_grad(), evaluating(model, "fp32"):
        image = model.read_image(pixels).tokens
        for candidate in turn["candidates"]:
            tokens = torch.tensor([encode(" ".join([*words, candidate]))])
            fused = model.fuse({"image": image, "text": model.read_text(tokens).tokens})
            scores.append(model.match(fused.pooled).item())
    return scores, turn


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return turns.write_turns(tmp_path_factory.mktemp("turns"))


@pytest.mark.parametrize("batch_size", [3, 64])
def test_metrics_are_those_of_loops(data, batch_size):
    model = turns.encoder()
    evaluation = DialogueRanking(data, options=EmbedOptions(batch_size)).evaluate(model)
    (outcomes,) = evaluation.outcomes
    assert outcomes.keys == tuple(f"{number:04d}" for number in range(1, 13))
    assert len(set(outcomes.groups)) == 7  # images
    rows = []
    for number in range(1, 13):
        scores, turn = naive_scores(model, number)
        rows.append(turns.naive_measures(scores, turn["correct"], turn.get("relevance")))
        assert outcomes.columns["chosen"][number - 1] == int(np.argmax(scores))
    names = {"mrr", "mean_rank", "ndcg", *(f"recall_at_{k}" for k in (1, 5, 10))}
    assert evaluation.metrics.keys() == names
    for name, value in evaluation.metrics.items():
        given = [row.get("rank" if name == "mean_rank" else name, math.nan) for row in rows]
        assert value == pytest.approx(np.nanmean(given)), name
    assert metric_intervals(evaluation.outcomes)["mrr"][0] < evaluation.metrics["mrr"]


def test_equal_candidates_are_equal_and_no_relevance_is_no_ndcg(tmp_path):
    members = turns.members(1, relevance=False)
    turn = json.loads(members["json"])
    turn["candidates"] += [turn["candidates"][turn["correct"]]] * 3
    twice = {**members, "json": json.dumps(turn).encode()}
    write_shard(tmp_path / "test" / "0.tar", [("a", members), ("b", twice)])
    evaluation = DialogueRanking(tmp_path).evaluate(turns.encoder())
    ranks = evaluation.outcomes[0].columns["mean_rank"]
    assert ranks[1] == ranks[0] + 3
    assert "ndcg" not in evaluation.metrics
    limited = DialogueRanking(tmp_path, options=EmbedOptions(limit=1)).run(turns.encoder())
    assert limited["mean_rank"] == ranks[0]


def test_refusals_name_the_sample_and_the_encoder(tmp_path, data):
    write_shard(tmp_path / "test" / "0.tar", [("a", turns.members(0)), ("b", pair(1))])
    with pytest.raises(DataError, match="b: dialogue needs a list of candidates"):
        DialogueRanking(tmp_path).run(turns.encoder())
    with pytest.raises(ConfigError, match="got DualEncoder"):
        DialogueRanking(data).run(tiny.encoder())
