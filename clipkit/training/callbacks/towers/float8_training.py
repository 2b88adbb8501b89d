"""Compute the linear layers of the towers in float8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, final, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from clipkit.errors import ConfigError, check_choice
from clipkit.models.lora import lora_entry
from clipkit.models.towers.base import Tower
from clipkit.models.towers.blocks import tower_blocks
from clipkit.training.lightning_compat import encoder_of

Recipe = Literal["tensorwise", "rowwise", "rowwise_with_gw_hp"]
_MULTIPLE: Final = 16
"""Sizes of a product in float8 are multiples of this."""
_CAPABILITY: Final = (8, 9)
"""Least compute capability with products in float8: Ada and Hopper."""
_KINDS: Final = (nn.Linear, NonDynamicallyQuantizableLinear)
_MARK: Final = "_computes_in_float8"


@final
class Float8Training(Callback):
    """Computes the linear layers of the towers' inner blocks in float8, with torchao.

    Weights stay in their type and are rounded, with inputs and gradients, for the products alone
    (Micikevicius et al. 2022, arXiv:2209.05433): checkpoints, optimizer and moving average do not
    change. The first and the last block of a tower, embeddings, norms, projections and heads are
    computed as before, and so are layers whose sizes are not multiples of 16. Validation during the
    fit uses the same layers. Combine it with ``CompileTowers``: without it, the rounding costs more
    than the products save. Needs ``pip install 'clipkit[fp8]'``.

    Args:
        towers: Names of the towers; None for both.
        recipe: torchao's scaling: "tensorwise" for one scale per tensor, the fastest; "rowwise" for
            one per row; "rowwise_with_gw_hp" to also compute gradients of weights unrounded.
        emulate: Whether to round as float8 but compute in the run's precision, on any device; slow,
            to see the effect on a run without such a GPU.

    Raises:
        ConfigError: If ``recipe`` is unknown; when the fit is set up, if the device has no float8,
            torchao is missing, a tower has adapters (``AddLora``) or no layer that fits.

    Examples:
        >>> trainer = Trainer(callbacks=[Float8Training(), CompileTowers()])
    """

    def __init__(
        self,
        towers: list[str] | None = None,
        recipe: Recipe = "tensorwise",
        emulate: bool = False,
    ) -> None:
        check_choice("Float8Training.recipe", recipe, get_args(Recipe))
        self.towers: list[str] = towers or ["image_tower", "text_tower"]
        self.recipe = recipe
        self.emulate = emulate
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Convert the layers before a fit."""
        if stage != "fit" or self._done:
            return
        if not self.emulate:
            _check_device(trainer.strategy.root_device)
        convert = _converter(self.recipe, self.emulate)
        encoder = encoder_of(pl_module)
        for name in self.towers:
            tower = encoder.tower_named(name)
            if not (layers := float8_layers(tower)):
                raise ConfigError(
                    f"Float8Training.towers: {name} has no linear layer between its first and its "
                    f"last block whose sizes are multiples of {_MULTIPLE}; name the other tower"
                )
            for parent, attribute in layers:
                layer = convert(getattr(parent, attribute))
                setattr(layer, _MARK, True)
                setattr(parent, attribute, layer)
        self._done = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse adapters, which replace the converted layers."""
        if lora_entry(encoder_of(pl_module)):
            raise ConfigError(
                "Float8Training: expected towers without adapters; omit it or AddLora"
            )


def float8_layers(tower: Tower) -> list[tuple[nn.Module, str]]:
    """Return the layers that are computed in float8, each as its parent and attribute.

    torch's own attention reads the weights of its output layer without calling it.
    """
    return [
        (parent, attribute)
        for block in tower_blocks(tower)[1:-1]
        for parent in block.modules()
        if not isinstance(parent, nn.MultiheadAttention)
        for attribute, layer in parent.named_children()
        if isinstance(layer, nn.Linear) and type(layer) in _KINDS and _fits(layer)
    ]


def _fits(layer: nn.Linear) -> bool:
    return layer.in_features % _MULTIPLE == 0 == layer.out_features % _MULTIPLE


@contextmanager
def without_float8(module: nn.Module) -> Iterator[None]:
    """Use the plain forward of layers that are computed in float8."""
    layers = [part for part in module.modules() if hasattr(part, _MARK)]
    for layer in layers:
        layer.forward = partial(nn.Linear.forward, layer)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _check_device(device: torch.device) -> None:
    if device.type != "cuda":
        raise ConfigError(
            f"Float8Training: needs a GPU with float8, got {device.type}; omit it, or use "
            f"emulate: true to round without one"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        raise ConfigError(
            f"Float8Training: {torch.cuda.get_device_name(device)} has compute capability "
            f"{capability[0]}.{capability[1]}, float8 needs {_CAPABILITY[0]}.{_CAPABILITY[1]}; "
            f"omit it, or use emulate: true to round without one"
        )


def _converter(recipe: Recipe, emulate: bool) -> Callable[[nn.Module], Any]:
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise ConfigError(
            "Float8Training: needs torchao, which is not installed; pip install 'clipkit[fp8]'"
        ) from error
    # The tokens of a batch are an inner size of the weights' gradient, and may be any number.
    config = replace(
        Float8LinearConfig.from_recipe_name(recipe), emulate=emulate, pad_inner_dim=True
    )
    return partial(convert_to_float8_training, config=config)
