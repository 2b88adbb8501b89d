"""Which parameters decay and how fast they learn."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from clipkit.errors import ConfigError
from clipkit.optim import ParameterGroups
from clipkit.optim.parameter_groups import undecayed_names


class Tower(nn.Module):
    """Three layers that know their order."""

    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(5, 4)
        self.positional_embedding = nn.Parameter(torch.randn(3, 4))
        self.block = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.projection = nn.Linear(4, 2, bias=False)

    def layer_groups(self):
        return [
            ["token_embedding.weight", "positional_embedding"],
            ["block.weight", "block.bias"],
            ["norm.weight", "norm.bias", "projection.weight"],
        ]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.image_tower = Tower()
        self.text_tower = Tower()
        self.log_logit_scale = nn.Parameter(torch.tensor(2.6))


def scales(model, groups):
    """Factor and decay of every parameter, by its name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr_scale"], group.get("weight_decay"))
        for group in groups
        for parameter in group["params"]
    }


def test_only_matrices_decay():
    assert undecayed_names(Model()) == {
        "log_logit_scale",
        *(
            f"{tower}.{name}"
            for tower in ("image_tower", "text_tower")
            for name in (
                "token_embedding.weight",
                "positional_embedding",
                "block.bias",
                "norm.weight",
                "norm.bias",
            )
        ),
    }


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = Model()
    model.text_tower.block.requires_grad_(False)
    groups = ParameterGroups(factors={"text_tower": 0.5}, layer_decay=0.7).build(model)
    grouped = [parameter for group in groups for parameter in group["params"]]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert len(grouped) == len(trainable)
    assert {id(p) for p in grouped} == {id(p) for p in trainable}


def test_factors_of_parts_and_layers_multiply():
    model = Model()
    got = scales(model, ParameterGroups({"text_tower": 0.1}, layer_decay=0.5).build(model))
    assert got["image_tower.projection.weight"] == (1.0, None)
    assert got["image_tower.block.weight"] == (0.5, None)
    assert got["image_tower.block.bias"] == (0.5, 0.0)
    assert got["image_tower.token_embedding.weight"] == (0.25, 0.0)
    assert got["text_tower.token_embedding.weight"] == (pytest.approx(0.025), 0.0)
    assert got["log_logit_scale"] == (1.0, 0.0)


def test_optimizer_has_the_learning_rates_and_decays():
    model = Model()
    groups = ParameterGroups(factors={"image_tower": 0.1})
    optimizer = groups.optimizer(model, lambda g: AdamW(g, lr=1e-2, weight_decay=0.2))
    by_name = {group["name"]: group for group in optimizer.param_groups}
    assert by_name["image_tower"]["lr"] == pytest.approx(1e-3)
    assert by_name["image_tower"]["weight_decay"] == 0.2
    assert by_name["image_tower, no decay"]["weight_decay"] == 0.0
    assert by_name["text_tower"]["lr"] == pytest.approx(1e-2)


def test_decay_reaches_matrices_alone():
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = ParameterGroups().optimizer(model, lambda g: AdamW(g, lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {name for name in before if name not in undecayed_names(model)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"layer_decay": 1.5}, "layer_decay"),
        ({"factors": {"text_tower": -1}}, "factors.text_tower"),
        ({"factors": {"texttower": 1}}, "no part 'texttower'; it has image_tower"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ParameterGroups(**options).build(Model())


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ConfigError, match="frozen"):
        ParameterGroups().build(Model().requires_grad_(False))
