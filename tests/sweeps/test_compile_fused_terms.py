"""Every term over a fusion computes the same when the objective is compiled."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import fused_cases, joint, joint_teachers
from tests.helpers.fused_cases import FUSED_CASES, assert_same, differentiated, made, value


@pytest.mark.parametrize("name", FUSED_CASES)
def test_compiled_equals_eager(name):
    model, teacher = joint.encoder(), joint_teachers.larger()
    batch, term = fused_cases.batch(), made(FUSED_CASES[name])
    expected = differentiated(2 * value(term, model, teacher, batch), model, term)
    compiled = torch.compile(lambda e, b: 2 * term(e, b), backend="eager")
    if term.reads_teacher:
        term.of_teacher = teacher(batch)
    assert_same(differentiated(compiled(model(batch), batch), model, term), expected, 1e-12)
