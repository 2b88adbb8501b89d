"""Low-rank adapters (LoRA) for towers, by the ``peft`` library, and their way back into weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models.blocks import tower_blocks
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.towers import Tower

TOWERS: Final = ("image_tower", "text_tower")
_ATTRIBUTE: Final = "lora"


def add_lora(tower: Tower, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0) -> None:
    """Freeze a tower, and lay a learnable low-rank product beside each weight of its blocks.

    A layer W x becomes W x + alpha / rank * B A x (Hu et al. 2021, arXiv:2106.09685, section 4.1).
    B starts at zero, so the tower gives what it gave. Changed are linear layers and attention.

    Args:
        tower: Changed in place; its own weights get other names, ending in ``base_layer``.
        rank: Rows of A and columns of B.
        alpha: Weight of the product, before it is divided by the rank.
        dropout: Share of the inputs of A that is dropped.

    Raises:
        ConfigError: If an option is out of range, the tower has no such layers or adapters
            already, or peft is not installed.

    Example:
        >>> add_lora(encoder.image_tower, rank=8)
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
    targets = target_names(tower)
    if not targets:
        raise ConfigError(f"lora: {type(tower).__name__} has no linear layers in blocks")
    options = {"rank": rank, "alpha": alpha, "dropout": dropout}
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, bias="none"
    )
    inject_adapter_in_model(config, tower)
    setattr(tower, _ATTRIBUTE, options)


def target_names(tower: Tower) -> list[str]:
    """Names of the linear and attention layers of a tower's blocks.

    The parts of torch's attention are left out: it reads their weights without calling them.
    """
    names = {module: name for name, module in tower.named_modules()}
    found: list[str] = []
    for block in tower_blocks(tower):
        attention = [m for m in block.modules() if isinstance(m, nn.MultiheadAttention)]
        inside = {part for module in attention for part in module.children()}
        linear = [m for m in block.modules() if isinstance(m, nn.Linear) and m not in inside]
        found += [names[module] for module in (*attention, *linear)]
    return found


def merge_lora(tower: Tower) -> None:
    """Add the products to the weights, and give these their own names back.

    Args:
        tower: Changed in place; nothing happens to one without adapters.
    """
    if getattr(tower, _ATTRIBUTE, None) is None:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [name for name, module in tower.named_modules() if isinstance(module, BaseTunerLayer)]
    for name in adapted:
        parent, _, own = name.rpartition(".")
        if own != "out_proj" or parent.rpartition(".")[0] not in adapted:  # went with its attention
            adapter = tower.get_submodule(name)
            setattr(tower.get_submodule(parent), own, _merged(adapter))
    setattr(tower, _ATTRIBUTE, None)


@torch.no_grad()
def _merged(adapter: Any) -> nn.Module:
    """The layer inside of an adapter, with the product added to its weight."""
    if not isinstance(adapter.get_base_layer(), nn.MultiheadAttention):
        adapter.merge()
        linear: nn.Module = adapter.get_base_layer()
        return linear
    # by peft's own way: its forward pass counts the output's product twice, and so does this
    attention: nn.Module = adapter.unload_and_optionally_merge_module(
        merge=True, safe_merge=False, adapter_names=None
    )
    return attention


def lora_entry(encoder: DualEncoder) -> dict[str, Any]:
    """What a checkpoint notes about adapters: their options by tower."""
    options = {name: getattr(getattr(encoder, name), _ATTRIBUTE, None) for name in TOWERS}
    return {name: dict(given) for name, given in options.items() if given is not None}


def add_lora_of_entry(encoder: DualEncoder, entry: Any, where: str) -> None:
    """Give an encoder the adapters that ``lora_entry`` noted.

    Args:
        encoder: As built from its description.
        entry: The note.
        where: What messages call its source.

    Raises:
        CheckpointError: If the note is damaged.
    """
    if not isinstance(entry, Mapping) or not set(entry) <= set(TOWERS):
        raise CheckpointError(f"{where}: lora: expected options by tower, got {entry!r}")
    for name, options in entry.items():
        try:
            add_lora(getattr(encoder, name), **options)
        except TypeError as error:
            raise CheckpointError(f"{where}: lora.{name}: {error}") from error
