"""Towers whose tokens cannot be read are refused when a fusion is put on top."""

from __future__ import annotations

import pytest
from torch import nn

from clipkit.errors import ConfigError
from clipkit.models import MergedFusion, SignalTower, TimmImageTower, with_fusion, with_towers
from clipkit.models.towers.token_check import check_tokens
from clipkit.models.towers.tokens import TokenTower
from tests.helpers import tiny_models


class OwnTower(SignalTower, TokenTower):
    """A tower of somebody's own, whose norm is called with tokens, with their mean, or not."""

    input_shape, mel, token_dim = (4, 6), None, 4

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.embedding_dim, self.reads = 24, reads
        self.norm, self.projection = nn.LayerNorm(4), nn.Linear(4, 24)

    def forward(self, values):
        tokens = values.transpose(1, 2)
        if self.reads == "values" and float(tokens.sum()) == 0:
            tokens = tokens + 1
        tokens = self.norm(tokens) if self.reads in ("tokens", "values") else tokens
        pooled = tokens.mean(1)
        return self.projection(self.norm(pooled) if self.reads == "mean" else pooled)

    def config(self):
        return {"reads": self.reads}

    def layer_groups(self):
        return [[name for name, _ in self.named_parameters()]]

    def token_module(self):
        return self.norm

    def as_tokens(self, inputs, output):
        return output


@pytest.mark.parametrize("reads", ["tokens", "values"])
def test_towers_with_tokens_pass_and_stay_as_they_are(reads):
    tower = OwnTower(reads).train()
    check_tokens("own", tower)
    assert tower.training
    assert all(value.device.type == "cpu" for value in tower.parameters())


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ("nothing", r"towers.own: expected that OwnTower calls the module of its token_module"),
        ("mean", r"towers.own: expected tokens of shape \[2, tokens, 4\] .* got \[2, 4\]"),
    ],
)
def test_towers_of_your_own_are_refused_by_name(reads, message):
    encoder = with_towers(tiny_models.encoder(), {"own": OwnTower(reads)})
    with pytest.raises(ConfigError, match=message):
        with_fusion(encoder, MergedFusion(16, 1, 2, ["text", "own"]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("pit_ti_224", "towers.image: model: PoolingVisionTransformer normalises its class tokens"),
        ("crossvit_9_240", "model: CrossVit has 2 branches with tokens of their own"),
    ],
)
def test_trunks_without_a_sequence_of_all_tokens_are_refused(model, message):
    tower = TimmImageTower(model, embedding_dim=24)
    with pytest.raises(ConfigError, match=message):
        check_tokens("image", tower)
