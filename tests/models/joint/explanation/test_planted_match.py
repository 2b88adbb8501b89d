"""The heat map of a matching logit is where the square is that the text names."""

from __future__ import annotations

import torch

from clipkit.models import CrossAttentionFusion
from tests.helpers import planted_match

CHANCE = 1 / planted_match.CELLS


def test_hiding_the_most_relevant_part_costs_most():
    torch.manual_seed(0)
    joint = planted_match.trained(CrossAttentionFusion(32, 2, 2))
    for method in ("attention", "occlusion"):
        found = planted_match.found(joint, method)
        assert found.most > found.least + 1.0
        assert found.hits > 4 * CHANCE
        assert found.word_hits > 4 * CHANCE
