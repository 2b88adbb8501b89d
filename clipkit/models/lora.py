"""Low-rank adapters (LoRA) for towers by ``peft``, and how they are merged into the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.models.towers.base import Tower
from clipkit.models.towers.blocks import tower_blocks

_ATTRIBUTE: Final = "lora"
_ATTENTION_WEIGHTS: Final = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@final
class LowRankProduct(nn.Module):
    """Parametrization of a weight W as W + alpha / rank * B A.

    For torch's attention, which reads weights without calling the layers that contain them.
    peft 0.21's adapter for it adds the output projection's product twice, with the gradient of
    one.

    Args:
        weight: Weight whose shape, device and type are used.
        rank: Rows of A and columns of B.
        alpha: Factor of the product, before division by the rank.

    Examples:
        >>> product = LowRankProduct(torch.zeros(6, 4), rank=2, alpha=4.0)
        >>> bool((product(torch.ones(6, 4)) == 1).all())  # B starts at zero
        True
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scaling = alpha / rank
        self.lora_A = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.lora_B = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)  # as peft initialises linear layers

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """Add the product, differentiable with respect to A and B."""
        return weight + self.scaling * (self.lora_B @ self.lora_A)


def add_lora(tower: Tower, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0) -> None:
    """Freeze a tower, and add a trainable low-rank product to each weight of its blocks.

    A layer W x becomes W x + alpha / rank * B A x (Hu et al. 2021, arXiv:2106.09685, section 4.1).
    B starts at zero, so the output is unchanged. Linear layers and attention get products.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise ConfigError(
            f"lora: expected rank of at least 1 and dropout from 0 up to but not 1, "
            f"got {rank} and {dropout}"
        )
    if getattr(tower, _ATTRIBUTE, None) is not None:
        raise ConfigError("lora: this tower has adapters already")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("lora: needs peft; pip install 'clipkit[lora]'") from error
    attention, linear = adapted_layers(tower)
    if not attention and not linear:
        raise ConfigError(f"lora: {type(tower).__name__} has no linear layers in blocks")
    tower.requires_grad_(False)
    if linear:
        config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=linear, bias="none"
        )
        inject_adapter_in_model(config, tower)
    for module, name in attention:
        product = LowRankProduct(getattr(module, name), rank, alpha)
        parametrize.register_parametrization(module, name, product)
    setattr(tower, _ATTRIBUTE, {"rank": rank, "alpha": alpha, "dropout": dropout})


def adapted_layers(tower: Tower) -> tuple[list[tuple[nn.Module, str]], list[str]]:
    """Return the layers of a tower's blocks that get adapters."""
    names = {module: name for name, module in tower.named_modules()}
    weights: list[tuple[nn.Module, str]] = []
    linear: list[str] = []
    for block in tower_blocks(tower):
        attention: list[Any] = [m for m in block.modules() if hasattr(m, "in_proj_weight")]
        inside = {part for module in attention for part in module.children()}
        for module in attention:
            own = [n for n in _ATTENTION_WEIGHTS if getattr(module, n, None) is not None]
            weights += [*((module, name) for name in own), (module.out_proj, "weight")]
        linear += [
            names[m] for m in block.modules() if isinstance(m, nn.Linear) and m not in inside
        ]
    return weights, linear


def merge_lora(tower: Tower) -> None:
    """Add the products to the weights, and restore the weights' names."""
    if getattr(tower, _ATTRIBUTE, None) is None:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(tower.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, own = name.rpartition(".")
            module.merge()
            setattr(tower.get_submodule(parent), own, module.get_base_layer())
        elif parametrize.is_parametrized(module):
            for weight in list(module.parametrizations):
                parametrize.remove_parametrizations(module, weight)
    setattr(tower, _ATTRIBUTE, None)


def lora_entry(encoder: TowerEncoder) -> dict[str, Any]:
    """Return the options of adapters by tower, for a checkpoint."""
    options = {f"{n}_tower": getattr(t, _ATTRIBUTE, None) for n, t in encoder.towers.items()}
    return {name: dict(given) for name, given in options.items() if given is not None}


def add_lora_of_entry(encoder: TowerEncoder, entry: Any, where: str) -> None:
    """Add the adapters that ``lora_entry`` described."""
    known = {f"{name}_tower" for name in encoder.towers}
    if not isinstance(entry, Mapping) or not set(entry) <= known:
        raise CheckpointError(f"{where}: lora: expected options by tower, got {entry!r}")
    for name, options in entry.items():
        try:
            add_lora(getattr(encoder, name), **options)
        except TypeError as error:
            raise CheckpointError(f"{where}: lora.{name}: {error}") from error
