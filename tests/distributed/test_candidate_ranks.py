"""Loss and evaluation of dialogues over ranks equal those of one process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from clipkit.errors import ClipkitError
from clipkit.evaluation import DialogueRanking
from clipkit.losses import CandidateLoss, CombinedLoss, WeightedTerm
from tests.helpers import joint, turns
from tests.helpers.ranks import run_ranks

SPLIT = 9
"""Samples of the first rank; the second has the others."""


def on_a_rank(number, _, folder):
    given = turns.with_candidates(joint.batch())
    batch = turns.share(given, slice(0, SPLIT) if number == 0 else slice(SPLIT, joint.SIZE))
    results = []
    for micro_batch_size in (None, 2):
        model = joint.encoder()
        loss = CombinedLoss(terms={"turns": WeightedTerm(CandidateLoss(micro_batch_size))})
        wrapped = DistributedDataParallel(model)
        values = loss(wrapped(batch), batch)
        values["loss"].backward()
        results.append((float(values["turns"]), joint.gradients(model)))
    model = turns.encoder()
    evaluation = DialogueRanking(folder).evaluate(model)
    (outcomes,) = evaluation.outcomes
    if number == 0:  # the other rank does not wait for it
        model.matching.bias.data.fill_(torch.nan)
    with pytest.raises(ClipkitError, match="expected numbers, got NaN"):
        DialogueRanking(folder).evaluate(model)
    return results, evaluation.metrics, outcomes.keys


@pytest.mark.parametrize("count", [1, 5])
def test_two_ranks_equal_one(tmp_path, count):
    turns.write_turns(tmp_path, count)
    given, model = turns.with_candidates(joint.batch()), joint.encoder()
    expected = turns.gradients_of_loss(given)
    value = turns.naive_loss(model, given).item()
    alone = DialogueRanking(tmp_path).evaluate(turns.encoder())
    for results, metrics, keys in run_ranks(on_a_rank, 2, tmp_path):
        for loss, gradients in results:
            assert loss == pytest.approx(value, abs=1e-9)
            for name, gradient in gradients.items():
                reference = expected.get(name, np.zeros(1)) + 0 * gradient
                np.testing.assert_allclose(gradient, reference, atol=1e-9, err_msg=name)
        assert metrics == pytest.approx(alone.metrics)
        assert keys == alone.outcomes[0].keys
