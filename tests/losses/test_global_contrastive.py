"""The memory of the global loss: its averages, and what must not change them."""

from __future__ import annotations

import math

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import GlobalContrastiveLoss, LinearSchedule
from clipkit.types import Embeddings
from tests.helpers.oracles import assert_close, make_batch, unit_rows, value_and_gradients


def steps():
    generator = torch.Generator().manual_seed(0)
    for number in range(5):
        ids = torch.randperm(20, generator=generator)[: 9 - number]
        image, text = (unit_rows(len(ids), 6, 10 * number + k) for k in (0, 1))
        yield image, text, torch.tensor(8.0).double(), ids


def test_gamma_one_is_the_softmax_without_the_right_answer():
    image, text, scale, ids = next(steps())

    def decoupled(image, text, scale):
        logits = scale * image @ text.T
        others = logits.masked_fill(torch.eye(len(ids), dtype=torch.bool), -torch.inf)
        sums = others.logsumexp(1) + others.logsumexp(0) - 2 * logits.diagonal()
        return sums.mean() / 2 - math.log(len(ids) - 1)

    loss = GlobalContrastiveLoss(20, 1.0)
    got = value_and_gradients(
        lambda *x: loss(Embeddings(*x), make_batch(len(ids), sample_ids=ids)), (image, text, scale)
    )
    assert_close(got, value_and_gradients(decoupled, (image, text, scale)), 1e-6)


def run(loss, data):
    return [
        loss(Embeddings(image, text, scale), make_batch(len(ids), sample_ids=ids)).item()
        for image, text, scale, ids in data
    ]


def test_saved_averages_continue_with_their_schedule():
    data = list(steps())
    complete = run(GlobalContrastiveLoss(20, LinearSchedule(1.0, 0.2, 5)), data)
    first, second = (GlobalContrastiveLoss(20, LinearSchedule(1.0, 0.2, 5)) for _ in range(2))
    run(first, data[:2])
    second.load_state_dict(first.state_dict())
    assert run(second, data[2:]) == complete[2:]
    with pytest.raises(ConfigError, match="num_samples: the saved averages are of 20"):
        GlobalContrastiveLoss(21).load_state_dict(first.state_dict())


def test_evaluation_leaves_the_averages_alone():
    loss = GlobalContrastiveLoss(20).eval()
    image, text, scale, _ = next(steps())
    loss(Embeddings(image, text, scale))  # foreign data: no ids
    assert loss.log_averages.isneginf().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_the_loss_and_is_not_remembered(value):
    loss = GlobalContrastiveLoss(20)
    image, text, scale, ids = next(steps())
    batch = make_batch(len(ids), sample_ids=ids)
    clean = loss(Embeddings(image, text, scale), batch)
    averages = loss.log_averages.clone()
    assert not loss(Embeddings(image * value, text, scale), batch).isfinite()
    assert torch.equal(loss.log_averages, averages)
    assert loss(Embeddings(image, text, scale), batch).isfinite()
    assert clean.isfinite()


def test_passes_of_a_step_are_reverted_together():
    loss = GlobalContrastiveLoss(20, 0.5)
    data = list(steps())
    run(loss, data[:1])
    averages = loss.log_averages.clone()
    loss.begin_step()
    run(loss, data[1:4])
    assert not torch.equal(loss.log_averages, averages)
    loss.end_step(left_out=torch.tensor(True))
    assert torch.equal(loss.log_averages, averages)
    assert loss.num_steps == 4  # a schedule counts the step that is left out
    loss.begin_step()
    run(loss, data[4:])
    moved = loss.log_averages.clone()
    loss.end_step(left_out=torch.tensor(False))
    loss.end_step(left_out=torch.tensor(True))  # nothing is left to undo
    assert torch.equal(loss.log_averages, moved)


def test_one_pair_has_nothing_to_learn_from():
    image, text, scale, _ = next(steps())
    batch = make_batch(1, sample_ids=torch.tensor([3]))
    got = value_and_gradients(
        lambda *x: GlobalContrastiveLoss(20)(Embeddings(*x), batch), (image[:1], text[:1], scale)
    )
    assert_close(got, [torch.zeros_like(tensor) for tensor in got], 0.0)


def test_what_cannot_work_is_refused():
    image, text, scale, ids = next(steps())
    embeddings = Embeddings(image, text, scale)
    size = len(ids)
    with pytest.raises(ConfigError, match="sample_ids, got none"):
        GlobalContrastiveLoss(20)(embeddings, make_batch(size))
    with pytest.raises(ConfigError, match=r"expected 0 to 4 \(num_samples\)"):
        GlobalContrastiveLoss(5)(embeddings, make_batch(size, sample_ids=ids))
    with pytest.raises(ConfigError, match="without groups"):
        GlobalContrastiveLoss(20)(embeddings, make_batch(size, groups=ids, sample_ids=ids))
    with pytest.raises(ConfigError, match="gamma"):
        GlobalContrastiveLoss(20, gamma=0.0)
    with pytest.raises(ConfigError, match="num_samples"):
        GlobalContrastiveLoss(0)
