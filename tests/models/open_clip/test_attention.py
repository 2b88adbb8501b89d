"""Fused attention against torch's module and open_clip's towers."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from clipkit.models import OpenClipImageTower, OpenClipTextTower
from clipkit.models.open_clip.attention import FusedAttention
from tests.helpers.tiny_models import TEXT, VIT, captions, config, pixels


def outputs_and_gradients(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None
) -> list[Tensor]:
    module.zero_grad()
    leaves = [query.clone().requires_grad_()]
    leaves += [leaves[0] if key is query else key.clone().requires_grad_()]
    output = module(leaves[0], leaves[1], leaves[1], need_weights=False, attn_mask=mask)[0]
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * weight).sum().backward()
    gradients = [leaf.grad for leaf in leaves] + [p.grad for p in module.parameters()]
    return [output, *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("case", ["no mask", "causal", "one query"])
def test_values_and_gradients_are_those_of_torch(case: str) -> None:
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(24, 3, batch_first=True).double()
    nn.init.normal_(reference.in_proj_bias)
    fused = FusedAttention(reference, is_causal=case == "causal")
    assert set(fused.state_dict()) == set(reference.state_dict())
    tokens = torch.randn(4, 7, 24, dtype=torch.float64)
    query = tokens[:, :1].clone() if case == "one query" else tokens
    mask = torch.full((7, 7), -torch.inf).double().triu(1) if case == "causal" else None
    expected = outputs_and_gradients(reference, query, tokens, mask)
    got = outputs_and_gradients(fused, query, tokens, mask)
    torch.testing.assert_close(got, expected)


def attentions(tower: nn.Module) -> set[type]:
    kinds = (FusedAttention, nn.MultiheadAttention)
    return {type(module) for module in tower.modules() if isinstance(module, kinds)}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, FusedAttention),
        ({"no_causal_mask": True}, FusedAttention),
        ({"embed_cls": True}, nn.MultiheadAttention),
    ],
)
def test_texts_are_those_of_open_clip(changes: dict[str, Any], kind: type) -> None:
    torch.manual_seed(1)
    text = {**TEXT, **changes}
    tower = OpenClipTextTower(config(text=text))
    assert attentions(tower) == {kind}
    plain = open_clip.CustomTextCLIP(tower.embedding_dim, VIT, text).text
    plain.load_state_dict(tower.text.state_dict())
    tokens = captions()
    full = torch.nn.functional.pad(tokens, (0, tower.context_length - tokens.shape[1]))
    torch.testing.assert_close(tower(tokens), plain(full), rtol=1e-5, atol=1e-6)


def test_images_are_those_of_open_clip_in_bfloat16_too() -> None:
    torch.manual_seed(2)
    tower = OpenClipImageTower(config())
    assert attentions(tower) == {FusedAttention}
    plain = open_clip.CustomTextCLIP(tower.embedding_dim, VIT, TEXT).visual
    plain.load_state_dict(tower.visual.state_dict())
    images = pixels().float()
    torch.testing.assert_close(tower(images), plain(images), rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(tower(images), plain(images), rtol=0.05, atol=0.05)
