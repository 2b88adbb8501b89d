"""Memory and operations of what terms run of a joint encoder, against real passes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clipkit.losses import CombinedLoss, MaskedWordLoss, MatchingLoss, WeightedTerm
from clipkit.losses.term import FusedPasses
from clipkit.models import CrossAttentionFusion, WordHead, with_fusion
from clipkit.models.flops import EncoderFlops
from clipkit.training.callbacks.performance.throughput import _operations
from clipkit.training.preflight.fused_memory import fused_activation_bytes
from tests.helpers import tiny
from tests.training.module import test_joint

WIDTH, TOKENS, SIZE = 16, 8, 6


def encoder(depth=1):
    dual = tiny.encoder()
    head = WordHead(WIDTH, dual.text_tower.vocab_size)
    return with_fusion(dual, CrossAttentionFusion(WIDTH, depth, 2), head)


def real_operations(model, loss, batch):
    """Of a complete step with attention as matrix products, without those of similarities."""
    backend = torch.nn.attention.SDPBackend.MATH
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(backend):
        loss(model(batch), batch)["loss"].backward()
    model.zero_grad()
    return counter.get_total_flops()


@pytest.mark.parametrize("locked", [False, True])
def test_operations_are_those_of_real_steps(locked):
    model, batch = encoder(), tiny.batch(TOKENS, SIZE)
    if locked:
        model.image_tower.requires_grad_(False)
        model.text_tower.requires_grad_(False)
    loss = CombinedLoss(terms={"matching": WeightedTerm(MatchingLoss())})
    drawing = 2 * 2 * SIZE * SIZE * model.embedding_dim  # similarities, for both directions
    wanted = real_operations(model, loss, batch) - drawing
    flops = EncoderFlops(model)
    passes = [term.passes for term in loss.fused_terms]
    assert passes == [FusedPasses(fusions=3)]
    given = _operations(flops, batch, passes)
    # the step has no gradient of the towers' heads, which no term reads
    assert given == pytest.approx(wanted, rel=0.02)
    assert _operations(flops, batch) < given
    assert flops.fusion(16, TOKENS) * 3 * SIZE + _operations(flops, batch) == pytest.approx(given)


def test_operations_of_masked_words():
    model, batch = encoder(), tiny.batch(TOKENS, SIZE)
    loss = CombinedLoss(terms={"words": WeightedTerm(MaskedWordLoss(*test_joint.WORDS, 0.5))})
    values = loss(model(batch), batch)
    chosen = float(values["words_num_samples"])
    wanted = real_operations(model, loss, batch)
    flops = EncoderFlops(model)
    towers = _operations(flops, batch, [FusedPasses(fusions=1, texts=1)])
    assert towers + chosen * flops.word() == pytest.approx(wanted, rel=0.02)
    (passes,) = [term.passes for term in loss.fused_terms]
    given = _operations(flops, batch, [passes])
    assert given == pytest.approx(towers + SIZE * TOKENS * 0.5 * flops.word())
    assert EncoderFlops(tiny.encoder()).fusion(16, 8) == EncoderFlops(tiny.encoder()).word() == 0


def test_memory_of_the_fusion_is_counted():
    matching, words = MatchingLoss(), MaskedWordLoss(*test_joint.WORDS, 0.5)
    few, more = (
        fused_activation_bytes(encoder(depth), [matching], TOKENS, SIZE) for depth in (1, 2)
    )
    # at least the input, query, key, value and both layers of the perceptron, of three pairs
    assert more - few >= 3 * SIZE * (TOKENS + 1) * 4 * WIDTH * (1 + 3 + 4 + 4)
    model = encoder()
    both = fused_activation_bytes(model, [matching, words], TOKENS, SIZE)
    of_words = both - few
    logits = SIZE * TOKENS * 0.5 * model.vocab_size * 4
    assert of_words >= logits
    small = MatchingLoss(micro_batch_size=2)
    assert fused_activation_bytes(model, [small], TOKENS, SIZE) == few // 3
    assert fused_activation_bytes(model, [small, words], TOKENS, SIZE) == few // 3 + of_words
    assert fused_activation_bytes(tiny.encoder(), [matching], TOKENS, SIZE) == 0
    assert fused_activation_bytes(model, [], TOKENS, SIZE) == 0


def test_estimates_change_no_random_number():
    model, state = encoder().train(), torch.get_rng_state()
    fused_activation_bytes(model, [MatchingLoss()], TOKENS, SIZE)
    assert torch.equal(torch.get_rng_state(), state)
