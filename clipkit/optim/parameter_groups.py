"""Groups of parameters with their own learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, final, runtime_checkable

from torch import nn
from torch.optim import Optimizer

from clipkit.errors import ConfigError, check_at_least


@runtime_checkable
class Layered(Protocol):
    """A part of a model with ordered layers."""

    def layer_groups(self) -> list[list[str]]:
        """Return the names of all its parameters, in groups from input to output."""
        ...


def undecayed_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters without weight decay.

    These are norms, biases, scales and temperatures (everything with less than two axes), and
    embeddings of tokens and positions: decay would shrink rare tokens, which seldom get a gradient.

    Examples:
        >>> sorted(undecayed_names(nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2))))
        ['0.weight', '1.bias']
    """
    names = {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim < 2 or any(s in name.rsplit(".", 1)[-1] for s in ("embed", "token"))
    }
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            names.add(f"{prefix}.weight" if prefix else "weight")
    return names


def layer_factors(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter in parts with ordered layers.

    The factor of the last group of a part is 1, and that of each group below it ``layer_decay``
    times the factor of the group above (Clark et al. 2020, section 3.1).
    """
    factors: dict[str, float] = {}
    for part, module in model.named_children():
        if isinstance(module, Layered):
            groups = module.layer_groups()
            for depth, names in enumerate(reversed(groups)):
                factors.update({f"{part}.{name}": layer_decay**depth for name in names})
    return factors


@final
class ParameterGroups:
    """Groups of a model's trainable parameters for an optimizer.

    Args:
        factors: Factor of the learning rate by part of the model, such as
            ``{"image_tower": 0.1, "label_head": 10}``; 1 for a part that is not named.
        layer_decay: Factor of the learning rate from each layer group of a tower to the group below
            it, above 0 and at most 1; 1 for equal rates.

    Raises:
        ConfigError: If a factor is negative or ``layer_decay`` is out of range.

    Examples:
        >>> groups = ParameterGroups(factors={"image_tower": 0.1}, layer_decay=0.8)
        >>> optimizer = groups.optimizer(encoder, lambda g: AdamW(g, lr=1e-3, weight_decay=0.2))
    """

    def __init__(self, factors: dict[str, float] | None = None, layer_decay: float = 1.0) -> None:
        if not 0 < layer_decay <= 1:
            raise ConfigError(f"layer_decay: expected above 0 up to 1, got {layer_decay}")
        self._factors = dict(factors or {})
        for part, factor in self._factors.items():
            check_at_least(f"factors.{part}", factor, 0)
        self._layer_decay = layer_decay

    def build(self, model: nn.Module) -> list[dict[str, Any]]:
        """Build the groups, in the order of the model's parameters.

        Args:
            model: Dual encoder, whose direct children have the names of ``factors``.

        Returns:
            One dictionary per group: "params", "name", "lr_scale" (the factor of the learning
            rate), and without decay "weight_decay" of 0 and "use_fallback", so that Muon uses AdamW
            for them. Frozen parameters are in no group.

        Raises:
            ConfigError: If a part in ``factors`` does not exist, or no parameter is trainable.
        """
        self._check_parts(model)
        undecayed, by_layer = undecayed_names(model), layer_factors(model, self._layer_decay)
        groups: dict[tuple[str, float, bool], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            part, decays = name.split(".", 1)[0], name not in undecayed
            scale = self._factors.get(part, 1.0) * by_layer.get(name, 1.0)
            group = groups.setdefault((part, scale, decays), _new_group(part, scale, decays))
            group["params"].append(parameter)
        if not groups:
            raise ConfigError("optimizer: every parameter is frozen; unlock a part to train it")
        return list(groups.values())

    def optimizer(
        self, model: nn.Module, factory: Callable[[Iterable[Any]], Optimizer]
    ) -> Optimizer:
        """Build an optimizer over the groups, each with its own learning rate.

        Args:
            model: Model whose trainable parameters are optimized.
            factory: Function that builds an optimizer of groups, at the rate of factor 1.
        """
        optimizer = factory(self.build(model))
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_scale"]
        return optimizer

    def _check_parts(self, model: nn.Module) -> None:
        known = sorted({name.split(".", 1)[0] for name, _ in model.named_parameters()})
        unknown = [part for part in self._factors if part not in known]
        if unknown:
            raise ConfigError(
                f"factors: this model has no part {unknown[0]!r}; it has {', '.join(known)}"
            )


def _new_group(part: str, scale: float, decays: bool) -> dict[str, Any]:
    name = part if decays else f"{part}, no decay"
    group: dict[str, Any] = {"params": [], "name": name, "lr_scale": scale}
    # Norms, biases and embeddings are not matrices between features, for which Muon is made.
    return group if decays else {**group, "weight_decay": 0.0, "use_fallback": True}
