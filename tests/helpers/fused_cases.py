"""Every term over a fusion, with its oracle: the cases of tests/losses/joint/test_fused_terms.py.

A new term over a fusion adds a line to ``FUSED_CASES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clipkit.losses import (
    CandidateLoss,
    FusedLabelLoss,
    FusedStateDistillationLoss,
    LossTerm,
    MaskedWordDistillationLoss,
    MaskedWordLoss,
    MatchingDistillationLoss,
    MatchingLoss,
)
from clipkit.models import JointEncoder
from clipkit.types import Batch, CandidateBatch
from tests.helpers import joint, joint_teachers, turns

WORDS = (joint.MASK, joint.SPECIAL, 0.4)
Result = tuple[float, dict[str, np.ndarray]]
Oracle = Callable[[JointEncoder, JointEncoder, Batch, LossTerm], Tensor]


@dataclass(frozen=True)
class FusedCase:
    """A term and its definition.

    Args:
        make: Builds the term; the argument is ``micro_batch_size``.
        oracle: Loop over single samples that computes the value by the model and its teacher.
    """

    make: Callable[[int | None], LossTerm]
    oracle: Oracle


def _states(model: JointEncoder, teacher: JointEncoder, given: Batch, term: LossTerm) -> Tensor:
    assert isinstance(term, FusedStateDistillationLoss)
    assert term.projection is not None
    return joint_teachers.naive_states(model, teacher, given, term.projection)


FUSED_CASES = {
    "matching": FusedCase(
        lambda size: MatchingLoss(micro_batch_size=size),
        lambda model, _, given, __: joint.naive_matching(model, given),
    ),
    "words": FusedCase(
        lambda size: MaskedWordLoss(*WORDS, micro_batch_size=size),
        lambda model, _, given, __: joint.naive_words(model, given),
    ),
    "labels": FusedCase(
        lambda size: FusedLabelLoss(joint.SMOOTHING, joint.CLASS_WEIGHTS, micro_batch_size=size),
        lambda model, _, given, __: joint.naive_answers(model, given),
    ),
    "candidates": FusedCase(
        CandidateLoss, lambda model, _, given, __: turns.naive_loss(model, given)
    ),
    "taught matching": FusedCase(
        lambda size: MatchingDistillationLoss(micro_batch_size=size),
        lambda model, teacher, given, _: joint_teachers.naive_matching(model, teacher, given),
    ),
    "taught words": FusedCase(
        lambda size: MaskedWordDistillationLoss(*WORDS, micro_batch_size=size),
        lambda model, teacher, given, _: joint_teachers.naive_words(model, teacher, given),
    ),
    "taught states": FusedCase(
        lambda size: FusedStateDistillationLoss((8, joint_teachers.WIDE), size), _states
    ),
}


def made(case: FusedCase, micro_batch_size: int | None = None) -> LossTerm:
    """Build a term in float64, always with the same weights."""
    torch.manual_seed(5)
    return case.make(micro_batch_size).double()


def batch(size: int = joint.SIZE) -> Batch:
    """Samples with labels and candidates, of which some have none."""
    return turns.with_candidates(joint.batch(size))


def without_samples(given: Batch) -> Batch:
    """The same batch with nothing that a term counts."""
    none = torch.zeros(len(given), dtype=torch.bool)
    return replace(given, pair_mask=none, labels=torch.full_like(given.labels, -100))


def of_no_sample() -> Batch:
    """A batch of a rank that ran out of samples."""
    none = torch.zeros(0, dtype=torch.int64)
    one, rows = joint.batch(1), slice(0, 0)
    names = ("images", "tokens", "labels", "keys", "sample_ids", "groups", "pair_mask")
    parts = {name: getattr(one, name)[rows] for name in names}
    return replace(one, **parts, candidates=CandidateBatch(none[:, None], none, none))


def value(term: LossTerm, model: JointEncoder, teacher: JointEncoder, given: Batch) -> Tensor:
    """Return the value of a term, with the teacher where the term reads one."""
    if term.reads_teacher:
        with torch.no_grad():
            term.of_teacher = teacher(given)
    return term(model(given), given)


def differentiated(result: Tensor, *parts: nn.Module) -> Result:
    """Return the value, and the gradients of all weights: zeros where there are none."""
    for part in parts:
        part.zero_grad(set_to_none=True)
    torch.autograd.backward(result)
    weights = {f"{at}.{n}": p for at, part in enumerate(parts) for n, p in part.named_parameters()}
    return result.item(), {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).double().numpy().copy()
        for name, p in weights.items()
    }


def assert_same(got: Result, expected: Result, atol: float = 1e-9) -> None:
    assert got[0] == pytest.approx(expected[0], rel=1e-9, abs=atol)
    assert got[1].keys() == expected[1].keys()
    for name, gradient in got[1].items():
        np.testing.assert_allclose(gradient, expected[1][name], atol=atol, err_msg=name)
