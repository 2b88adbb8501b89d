"""The loss of candidates against loops over single pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipkit.errors import ConfigError
from clipkit.losses import CandidateLoss, CombinedLoss, WeightedTerm
from clipkit.losses.joint.candidates import candidate_losses
from clipkit.models import TcnFusion
from clipkit.types import CandidateBatch
from tests.helpers import joint, tiny_models, turns


@pytest.mark.parametrize("micro_batch_size", [None, 1, 5])
def test_value_and_gradients_are_those_of_loops(micro_batch_size):
    given, model = turns.with_candidates(joint.batch()), joint.encoder()
    loss = CombinedLoss(terms={"turns": WeightedTerm(CandidateLoss(micro_batch_size), 2.0)})
    values = loss(model(given), given)
    values["loss"].backward()
    counts = given.candidates.counts
    assert (counts == 0).any()
    assert values["turns_num_samples"] == ((counts > 0) & given.pair_mask).sum()
    assert values["turns"].item() == pytest.approx(turns.naive_loss(model, given).item())
    got, expected = joint.gradients(model), turns.gradients_of_loss(given)
    assert got.keys() == dict(model.named_parameters()).keys()  # those of other terms are zero
    for name, gradient in got.items():
        reference = 2 * expected.get(name, np.zeros(1))
        np.testing.assert_allclose(gradient, reference + 0 * gradient, atol=1e-9, err_msg=name)


def test_ragged_softmax_is_that_of_each_row_also_of_large_logits():
    counts, correct = torch.tensor([3, 0, 1, 4]), torch.tensor([2, -1, 0, 1])
    logits = torch.tensor([1e4, -1e4, 1e4 - 1, 7.0, 0.1, 0.2, 0.3, -90.0], requires_grad=True)
    losses = candidate_losses(logits, counts, correct)
    losses.sum().backward()
    parts = logits.detach().split([3, 1, 4])
    expected = [F.cross_entropy(part[None], correct[at][None])
                for part, at in zip(parts, (0, 2, 3), strict=True)]  # fmt: skip
    torch.testing.assert_close(losses.detach()[[0, 2, 3]], torch.stack(expected))
    assert losses[1] == 0
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("size", [0, 3])
def test_a_batch_without_candidates_is_zero_with_gradients(size):
    model, given = joint.encoder(), turns.with_candidates(joint.batch())
    out, batch = model(given), turns.share(given, slice(1, 2))  # which has none
    assert len(batch.candidates.tokens) == 0
    none = CandidateBatch(
        torch.zeros(0, 0).long(), torch.zeros(size).long(), torch.full((size,), -1)
    )
    batch = replace(batch, candidates=none)
    tokens = {name: one.rows(slice(0, size)) for name, one in out.tokens.items()}
    mask = torch.ones(size, dtype=torch.bool)
    own = replace(out, image=out.image[:size], text=out.text[:size], tokens=tokens)
    term = CandidateLoss().term(own, replace(batch, pair_mask=mask))
    assert (term.value, term.num_samples) == (0, 0)
    term.value.backward()


def test_refusals_name_what_is_missing():
    model, given = joint.encoder(), joint.batch(3)
    with pytest.raises(ConfigError, match="AnswerCandidates"):
        CandidateLoss().term(model(given), given)
    with pytest.raises(ConfigError, match="with_fusion"):
        CandidateLoss().check(tiny_models.encoder().example_embeddings())
    model.fused_names = TcnFusion(8).names
    with pytest.raises(ConfigError, match="fuses texts with images"):
        CandidateLoss().check(model.example_embeddings())
    with pytest.raises(ConfigError, match="micro_batch_size"):
        CandidateLoss(0)
