"""What every term over a fusion has to pass, as ``LossTester`` asks of terms over embeddings.

Over several ranks: tests/distributed/test_joint_ranks.py; compiled: tests/sweeps.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers import fused_cases, joint, joint_teachers
from tests.helpers.fused_cases import FUSED_CASES, assert_same, differentiated, made, value
from tests.helpers.loss_cases import term_names

MODEL, TEACHER = joint.encoder(), joint_teachers.larger()


def first_rows(embeddings, count):
    """What a rank with fewer samples has; open_clip's towers cannot read none."""
    rows = slice(0, count)
    tokens = {name: one.rows(rows) for name, one in embeddings.tokens.items()}
    return replace(
        embeddings, image=embeddings.image[rows], text=embeddings.text[rows], tokens=tokens
    )


@pytest.mark.parametrize("name", FUSED_CASES)
class TestFusedTerms:
    @pytest.mark.parametrize("micro_batch_size", [None, 4])
    def test_equals_its_oracle(self, name, micro_batch_size):
        case, batch = FUSED_CASES[name], fused_cases.batch()
        term = made(case, micro_batch_size)
        expected = differentiated(case.oracle(MODEL, TEACHER, batch, term), MODEL, term)
        assert expected[0] > 1e-3
        assert_same(differentiated(value(term, MODEL, TEACHER, batch), MODEL, term), expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_summed_in_fp32(self, name, dtype):
        case, batch = FUSED_CASES[name], fused_cases.batch()
        exact = value(made(case), MODEL, TEACHER, batch).item()
        term, model, teacher = made(case).float(), joint.encoder().float(), joint_teachers.larger()
        with torch.autocast("cpu", dtype):
            mixed = value(term, model, teacher.float(), batch)
        assert mixed.dtype == torch.float32
        number, gradients = differentiated(mixed, model, term)
        # the similarities that draw negatives are rounded, too: another one may be drawn
        assert number == pytest.approx(exact, rel=0.1)
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())

    def test_sure_logits_are_finite(self, name):
        model, batch = joint.encoder().float(), fused_cases.batch()
        with torch.no_grad():
            for weight in (*model.matching.parameters(), *model.word_head.output.parameters(),
                           *model.heads["fused"].parameters()):  # fmt: skip
                weight.mul_(1e5).add_(100.0)
        term = made(FUSED_CASES[name]).float()
        number, gradients = differentiated(
            value(term, model, joint_teachers.larger().float(), batch), model, term
        )
        assert np.isfinite(number)
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())

    def test_batch_without_samples_is_zero_with_a_graph(self, name):
        term, batch = made(FUSED_CASES[name]), fused_cases.batch(3)
        for own in (fused_cases.without_samples(batch), fused_cases.of_no_sample()):
            given, term.of_teacher = (first_rows(one(batch), len(own)) for one in (MODEL, TEACHER))
            found = term.term(given, own)
            assert (found.value, found.num_samples) == (0, 0)
            _, gradients = differentiated(found.value, MODEL, term)
            assert not any(gradient.any() for gradient in gradients.values())

    def test_frozen_towers_change_no_other_gradient(self, name):
        batch, term = fused_cases.batch(), made(FUSED_CASES[name])
        _, expected = differentiated(value(term, MODEL, TEACHER, batch), MODEL, term)
        model = joint.encoder()
        model.image_tower.requires_grad_(False)
        model.text_tower.requires_grad_(False)
        _, got = differentiated(value(term, model, TEACHER, batch), model, term)
        frozen = ("0.towers.", "0.image_tower.", "0.text_tower.")
        for key, gradient in got.items():
            of_tower = key.startswith(frozen)
            assert not gradient.any() if of_tower else np.array_equal(gradient, expected[key]), key

    def test_saved_state_continues_exactly(self, name):
        batch, term = fused_cases.batch(), made(FUSED_CASES[name])
        with torch.no_grad():
            for weight in term.parameters():
                weight.add_(0.1)
        other = made(FUSED_CASES[name])
        other.load_state_dict(term.state_dict())
        of_one, of_other = (value(one, MODEL, TEACHER, batch) for one in (term, other))
        assert torch.equal(of_one, of_other)


def test_every_term_over_a_fusion_has_an_oracle():
    tested = {type(made(case)).__name__ for case in FUSED_CASES.values()}
    assert tested == term_names(over_fusion=True)
