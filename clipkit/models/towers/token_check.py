"""Check that the tokens of a tower can be read, with a forward pass over shapes alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.towers.base import ImageTower, SignalTower
from clipkit.models.towers.tokens import TokenTower, recording_tokens

_SAMPLES = 2


def check_tokens(name: str, tower: TokenTower) -> None:
    """Refuse a tower whose token module is not called, or returns something else than tokens.

    Nothing is computed: weights and inputs have a shape only. A tower that cannot run that way, or
    whose inputs vary in shape, is checked by its first batch.

    Args:
        name: Name of the modality.
        tower: The tower.

    Raises:
        ConfigError: If its tokens cannot be read.
    """
    tower.token_module()
    inputs = _example(tower)
    if inputs is None:
        return
    try:
        copied = _without_weights(tower)
        copied.expose_tokens()
        with recording_tokens({name: copied}) as recorded, torch.no_grad():
            copied.eval()(inputs)
    except ConfigError as error:
        raise ConfigError(f"towers.{name}: {error}") from error
    except Exception:  # a tower may need values; its first batch tells what is wrong
        return
    if name not in recorded:
        raise ConfigError(
            f"towers.{name}: expected that {type(tower).__name__} calls the module of its "
            f"token_module(), which it does not; use a tower whose tokens can be read"
        )
    _check_shape(name, tower, recorded[name])


def _check_shape(name: str, tower: TokenTower, tokens: Tensor) -> None:
    expected = (_SAMPLES, tower.token_dim)
    if tokens.ndim != 3 or (tokens.shape[0], tokens.shape[2]) != expected:
        raise ConfigError(
            f"towers.{name}: expected tokens of shape [{expected[0]}, tokens, {expected[1]}] from "
            f"{type(tower).__name__}, got {list(tokens.shape)}"
        )


def _example(tower: Any) -> Tensor | None:
    """Return inputs without values; None for texts, and for images of any shape."""
    if isinstance(tower, ImageTower) and tower.budget is None:
        shape: tuple[int, ...] = (3, tower.image_size, tower.image_size)
    elif isinstance(tower, SignalTower):
        shape = tuple(tower.input_shape)
    else:
        return None
    dtype = next((value.dtype for value in tower.parameters()), None)
    return torch.empty(_SAMPLES, *shape, device="meta", dtype=dtype)


def _without_weights(tower: Any) -> Any:
    """Copy a tower with parameters and buffers that have a shape, but no memory."""
    memo: dict[int, object] = {}
    for value in tower.parameters():
        memo[id(value)] = nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=False)
    for buffer in tower.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(tower, memo)
