"""What every tower for sound and time has to do."""

from __future__ import annotations

import itertools
import json
from functools import partial

import pytest
import torch
from torch.optim import SGD

from clipkit.errors import ConfigError
from clipkit.models import lock, structure_only
from clipkit.models.towers.blocks import tower_blocks
from clipkit.optim.parameter_groups import ParameterGroups
from tests.helpers.sound_towers import BUILDERS, build, values

each_tower = pytest.mark.parametrize("name", BUILDERS)


@each_tower
def test_gradients_reach_every_parameter_and_each_is_in_one_layer(name):
    tower = build(name)
    embeddings = tower(values(tower))
    assert embeddings.shape == (3, tower.embedding_dim)
    embeddings.square().sum().backward()
    trained = {n: p for n, p in tower.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert any(p.grad.abs().max() > 0 for p in trained.values())
    groups = tower.layer_groups()
    assert len(groups) >= 3
    assert all(groups)
    assert sorted(itertools.chain(*groups)) == sorted(n for n, _ in tower.named_parameters())
    assert all(name.startswith("projection.") for name in groups[-1] if "norm" not in name)


@each_tower
def test_every_tensor_has_memory_of_its_own(name):
    """DDP sends parameters and buffers in place."""
    tower = build(name)
    for tensor in (*tower.parameters(), *tower.buffers()):
        assert tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


@each_tower
@torch.no_grad()
def test_config_builds_the_same_tower(name):
    tower = build(name)
    tower(values(tower, seed=5))  # moves the statistics of batch norms
    tower.eval()
    again = type(tower)(**json.loads(json.dumps(tower.config()))).eval()
    again.load_state_dict(tower.state_dict())
    assert torch.equal(again(values(tower)), tower(values(tower)))
    assert again.config() == tower.config()
    assert again.input_shape == tower.input_shape


@each_tower
@torch.no_grad()
def test_samples_are_independent_in_evaluation(name):
    tower = build(name).eval()
    together = tower(values(tower))
    alone = torch.cat([tower(one[None]) for one in values(tower)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@each_tower
def test_half_precision_under_autocast_and_as_parameters(name):
    tower = build(name).eval()
    expected = tower(values(tower))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tower(values(tower))
        mixed.float().square().sum().backward()
    assert torch.cosine_similarity(mixed.float(), expected).min() > 0.98
    assert all(p.grad is not None for p in tower.parameters() if p.requires_grad)
    pure = tower.bfloat16()(values(tower).bfloat16())
    assert pure.dtype == torch.bfloat16
    assert torch.cosine_similarity(pure.float(), expected).min() > 0.95


@each_tower
def test_layers_can_be_locked_and_get_decayed_rates(name):
    tower = build(name)
    constants = {n for n, p in tower.named_parameters() if not p.requires_grad}
    groups = tower.layer_groups()
    lock(tower, unlocked_groups=1)
    assert {n for n, p in tower.named_parameters() if p.requires_grad} == set(groups[-1])
    encoder = torch.nn.ModuleDict({"sound_tower": build(name)})
    optimizer = ParameterGroups(layer_decay=0.5).optimizer(encoder, partial(SGD, lr=1.0))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for depth, names in enumerate(reversed(groups)):
        trained = [n for n in names if n not in constants]
        found = {rates[id(encoder["sound_tower"].get_parameter(n))] for n in trained}
        assert found <= {0.5**depth}


@each_tower
def test_blocks_do_not_overlap(name):
    found = tower_blocks(build(name))
    assert len(found) >= 2
    held = [id(p) for block in found for p in block.parameters()]
    assert len(held) == len(set(held))


@each_tower
def test_structure_without_memory_for_weights(name):
    tower = build(name)
    with structure_only():
        empty = BUILDERS[name]()
    expected = {n: (t.shape, t.dtype) for n, t in tower.state_dict().items()}
    assert {n: (t.shape, t.dtype) for n, t in empty.state_dict().items()} == expected
    assert all(t.is_meta for t in [*empty.parameters(), *empty.buffers()])


@each_tower
def test_values_of_another_shape_are_refused(name):
    tower = build(name).eval()
    features, frames = tower.input_shape
    wrong = [(2, frames, features), (2, features + 1, frames), (features, frames)]
    wrong += [(2, 1, features, frames), (2, features, 0)]
    wrong += [] if name.startswith("tcn") else [(2, features, frames + 1)]
    for shape in wrong:
        with pytest.raises(ConfigError, match=rf"values: {type(tower).__name__} reads .* got \["):
            tower(torch.zeros(shape))


@pytest.mark.parametrize("name", ["resnet", "whisper", "tcn"])
@torch.no_grad()
def test_a_compiled_graph_has_no_break(name):
    tower = build(name).eval()
    compiled = torch.compile(tower, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(values(tower)), tower(values(tower)))
