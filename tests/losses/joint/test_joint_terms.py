"""Matching and masked words against loops over single pairs, captions and numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import CombinedLoss, ContrastiveLoss, MaskedWordLoss, MatchingLoss
from clipkit.losses.joint import fused_rows
from clipkit.losses.joint.draws import mix, sample_keys, uniform
from clipkit.losses.joint.masking import mask_tokens
from clipkit.losses.joint.negatives import SampleFacts, draw_negatives
from tests.helpers import joint, tiny_models


def test_hash_is_split_mix():
    values = torch.tensor([0, 1, -1, 2**62, -(2**63)])
    expected = [joint.splitmix(int(value) % 2**64) for value in values]
    assert [int(value) % 2**64 for value in mix(values)] == expected
    assert uniform(values).tolist() == [np.float32(joint.number(int(v) % 2**64)) for v in values]
    drawn = uniform(torch.arange(100_000))
    assert drawn.min() > 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, 20, 0, 1)
    assert ((counts - 5000) ** 2 / 5000).sum() < 45  # chi-square of 19 degrees, p = 0.001


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_values_and_gradients_are_those_of_loops(merged, micro_batch_size):
    model, batch = joint.encoder(merged), joint.batch()
    joint.naive_objective(model, batch).backward()
    expected = joint.gradients(model)
    model.zero_grad()
    values = joint.objective(micro_batch_size)(model(batch), batch)
    values["loss"].backward()
    got = joint.gradients(model)
    assert values["matching"].item() == pytest.approx(joint.naive_matching(model, batch).item())
    assert values["words"].item() == pytest.approx(joint.naive_words(model, batch).item())
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-9, err_msg=name)
    assert values["matching_num_samples"] == 13  # one pair does not belong together
    assert values["answers"].item() == pytest.approx(joint.naive_answers(model, batch).item())
    assert values["answers_num_samples"] == 11  # two have no label, and one is no pair
    assert values["words_num_samples"] == len(joint.naive_masking(batch)[1])


def test_negatives_are_drawn_by_their_probability():
    ids, groups = torch.arange(4), torch.tensor([5, -1, 5, -1])
    facts = SampleFacts(ids, groups, ids, torch.ones(4, dtype=torch.bool))
    similarities = torch.tensor([[1.0, 0.2, 0.9, 0.5]])
    own = SampleFacts(*(getattr(facts, n)[:1] for n in ("ids", "groups", "captions", "valid")))
    counts = torch.zeros(4)
    for step in range(1500):
        keys = mix(torch.tensor([step]))
        drawn = draw_negatives(similarities, torch.eye(4), torch.tensor(3.0), own, facts, keys)
        counts[drawn.rows] += 1
    expected = torch.tensor([0, 0.6, 0, 1.5]).exp() * torch.tensor([0, 1, 0, 1])
    torch.testing.assert_close(counts / 1500, expected / expected.sum(), atol=0.04, rtol=0)


def test_draws_change_with_the_step_and_not_with_the_order():
    batch, ids = joint.batch(), torch.arange(6)
    keys = sample_keys(batch, ids, seed=0, counter=0)
    later = replace(batch, cursor={"epoch": 1, "position": 56})
    assert not (keys == sample_keys(later, ids, seed=0, counter=0)).any()
    assert not (keys == sample_keys(batch, ids, seed=1, counter=0)).any()
    assert torch.equal(sample_keys(batch, ids.flip(0), 0, 0).flip(0), keys)


@pytest.mark.parametrize("size", [1, 2])
def test_samples_without_a_negative(size):
    model, batch = joint.encoder(), joint.batch(size)
    if size == 2:
        batch = replace(batch, groups=torch.tensor([3, 3]))
    value = MatchingLoss().term(model(batch), batch)
    assert value.num_samples == size
    value.value.backward()
    logits = model.match(model.fuse(model(batch).tokens).pooled)
    torch.testing.assert_close(value.value, -torch.nn.functional.logsigmoid(logits).mean())


def test_a_rank_without_samples():
    model = joint.encoder()
    out, batch = model(joint.batch(2)), joint.batch(0)
    tokens = {name: one.rows(slice(0, 0)) for name, one in out.tokens.items()}
    empty = replace(out, image=out.image[:0], text=out.text[:0], tokens=tokens)
    term = MatchingLoss().term(empty, batch)
    assert (term.value, term.num_samples) == (0, 0)
    term.value.backward()


def test_recomputed_parts_name_a_tensor_of_their_device(monkeypatch):
    """Otherwise the random numbers of a GPU differ in the second pass."""
    given = []

    def recording(function, *args, **options):
        given.append([one for one in args if isinstance(one, torch.Tensor)])
        return function(*args)

    monkeypatch.setattr(fused_rows, "checkpoint", recording)
    model, batch = joint.encoder(), joint.batch()
    joint.objective(4, fused_only=True)(model(batch), batch)
    assert len(given) == 12
    assert all(given)


def test_shares_of_masked_words_are_those_of_bert():
    tokens = torch.randint(1, 90, (400, 50))
    eligible = tokens > 5
    keys = mix(torch.arange(400))
    words = torch.arange(1, 90)
    masked, chosen, _ = mask_tokens(tokens, eligible, keys, words, mask_id=97)
    assert not (chosen & ~eligible).any()
    assert torch.equal(masked[~chosen], tokens[~chosen])
    count = chosen.sum()
    assert count / eligible.sum() == pytest.approx(0.15, abs=0.01)
    is_mask, is_same = masked[chosen] == 97, masked[chosen] == tokens[chosen]
    assert is_mask.sum() / count == pytest.approx(0.8, abs=0.03)
    assert is_same.sum() / count == pytest.approx(0.1 + 0.1 / 89, abs=0.02)
    others = masked[chosen][~is_mask & ~is_same]
    assert others.unique().numel() > 60


def test_special_tokens_are_never_masked():
    batch = joint.batch()
    loss = MaskedWordLoss(joint.MASK, joint.SPECIAL, probability=0.999)
    masked = loss.masking.masked_tokens(
        batch, batch.tokens, batch.pair_mask, None, joint.VOCABULARY
    )
    special = torch.isin(batch.tokens, torch.tensor(joint.SPECIAL))
    assert torch.equal(masked.tokens[special], batch.tokens[special])
    assert masked.chosen[batch.pair_mask].sum() > 40
    assert not masked.chosen[5].any()


def test_a_batch_without_a_chosen_word_is_zero():
    model, batch = joint.encoder(), joint.batch(2)
    term = MaskedWordLoss(joint.MASK, joint.SPECIAL, probability=1e-9).term(model(batch), batch)
    assert (term.value, term.num_samples) == (0, 0)
    term.value.backward()


def test_parts_that_no_term_uses_get_a_gradient_of_zero():
    model, batch = joint.encoder(), joint.batch()
    CombinedLoss(ContrastiveLoss())(model(batch), batch)["loss"].backward()
    grads = joint.gradients(model)
    assert grads.keys() == dict(model.named_parameters()).keys()
    assert not any(
        grads[n].any() for n in grads if n.startswith(("fusion", "word", "matching", "label"))
    )


@pytest.mark.parametrize(
    ("loss", "model", "message"),
    [
        (MatchingLoss(), tiny_models.encoder, "expected an encoder with a fusion, got none"),
        (MatchingLoss("sound", "text"), joint.encoder, r"fused \(text, image\), got 'sound'"),
        (MaskedWordLoss(100, [1]), joint.encoder, "expected 0 to 99, got 100"),
        (MaskedWordLoss(9, [1]), lambda: joint.encoder(words=False),
         "without a word_head"),
        (MaskedWordLoss(9, [1]), lambda: joint.encoder(query="image"),
         "returns the tokens of text, got one that returns those of image; set query: text"),
    ],
)  # fmt: skip
def test_encoders_that_do_not_fit_are_refused(loss, model, message):
    with pytest.raises(ConfigError, match=message):
        loss.check(model().example_embeddings())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MatchingLoss("text", "text"), "got 'text' twice"),
        (lambda: MatchingLoss(micro_batch_size=0), "micro_batch_size: expected at least 1, got 0"),
        (lambda: MaskedWordLoss(1, [], probability=1.5), "expected 0 to 1, got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
