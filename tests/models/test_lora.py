"""Adapters start as nothing, learn alone, and merge into plain weights."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models import DualEncoder, OpenClipTextTower, TimmImageTower
from clipkit.models.lora import adapted_layers, add_lora, add_lora_of_entry, merge_lora
from tests.helpers import tiny

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")


def outputs(encoder: DualEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings = encoder.eval()(tiny.batch())
    return embeddings.image.detach(), embeddings.text.detach()


@pytest.mark.parametrize("timm", [False, True])
def test_adapters_start_as_nothing_and_merge(timm):
    encoder = tiny.encoder()
    if timm:
        torch.manual_seed(0)
        image = TimmImageTower("test_vit", embedding_dim=16, image_size=16)
        encoder = DualEncoder(image, OpenClipTextTower(tiny.CONFIG))
    names, before = set(encoder.state_dict()), outputs(encoder)
    for tower in (encoder.image_tower, encoder.text_tower):
        add_lora(tower, rank=2)
        learning = [name for name, p in tower.named_parameters() if p.requires_grad]
        assert learning
        assert all("lora_" in name for name in learning)
        assert sum(map(len, tower.layer_groups())) == len(list(tower.named_parameters()))
    torch.testing.assert_close(outputs(encoder), before)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    changed = outputs(encoder)
    assert not torch.allclose(changed[0], before[0], atol=1e-3)
    assert not torch.allclose(changed[1], before[1], atol=1e-3)
    for tower in (encoder.image_tower, encoder.text_tower):
        merge_lora(tower)
    assert set(encoder.state_dict()) == names
    torch.testing.assert_close(outputs(encoder), changed, rtol=1e-4, atol=1e-5)


def test_every_weight_of_a_block_is_adapted_once():
    attention, linear = adapted_layers(tiny.encoder().image_tower)
    assert [name for _, name in attention[:2]] == ["in_proj_weight", "weight"]
    assert "visual.transformer.resblocks.0.mlp.c_fc" in linear
    assert not any("attn" in name for name in linear)


def test_each_product_counts_once_in_values_and_gradients():
    tower, plain = tiny.encoder().double().text_tower, tiny.encoder().double().text_tower
    add_lora(tower, rank=2, alpha=6.0)
    factors = {}
    for name, parameter in tower.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
            factors[name] = parameter
    attention = "text.transformer.resblocks.0.attn"
    wholes = {
        "in_proj_weight": f"{attention}.parametrizations.in_proj_weight.0.lora_{{}}",
        "out_proj.weight": f"{attention}.out_proj.parametrizations.weight.0.lora_{{}}",
    }
    tokens = tiny.batch().tokens
    adapted = tower(tokens)
    adapted.square().sum().backward()
    gradients = {name: factors[wholes[name].format("B")].grad for name in wholes}
    # the same weights, written out: W + alpha / rank * B A in every layer
    merge_lora(tower)
    plain.load_state_dict(tower.state_dict())
    written_out = plain(tokens)
    torch.testing.assert_close(adapted, written_out)
    written_out.square().sum().backward()
    for name, factor in wholes.items():
        whole = plain.get_parameter(f"{attention}.{name}").grad
        expected = 3.0 * whole @ factors[factor.format("A")].T
        torch.testing.assert_close(gradients[name], expected)


def test_what_cannot_work_is_refused():
    encoder = tiny.encoder()
    with pytest.raises(ConfigError, match="rank of at least 1"):
        add_lora(encoder.image_tower, rank=0)
    add_lora(encoder.image_tower)
    with pytest.raises(ConfigError, match="already"):
        add_lora(encoder.image_tower)
    with pytest.raises(CheckpointError, match=r"lora\.text_tower"):
        add_lora_of_entry(encoder, {"text_tower": {"depth": 3}}, "last.ckpt")
    with pytest.raises(CheckpointError, match="options by tower"):
        add_lora_of_entry(encoder, ["text_tower"], "last.ckpt")
