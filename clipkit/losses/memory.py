"""The state of losses that remember samples, of all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from clipkit.distributed.collectives import rank
from clipkit.losses.term import LossTerm


def remembering_terms(loss: nn.Module) -> Iterator[tuple[str, LossTerm]]:
    """Yield the terms with a memory, and the key of each in ``loss.state_dict()``."""
    for name, module in loss.named_modules():
        if isinstance(module, LossTerm) and module.remembers:
            yield f"{name}." * bool(name) + "_extra_state", module


def complete_state_dict(loss: nn.Module) -> dict[str, Any]:
    """Return the state of a loss with the memory of all ranks, for rank 0 to save.

    ``loss.state_dict()`` has the memory of this rank alone. ``clipkit fit`` calls this for every
    checkpoint; a loop of your own over several ranks must do so itself. All ranks call it.

    Args:
        loss: A term, or ``CombinedLoss``.

    Returns:
        The state on rank 0, which any number of ranks can load; nothing on other ranks.

    Examples:
        >>> from clipkit.losses import GlobalContrastiveLoss
        >>> state = complete_state_dict(GlobalContrastiveLoss(num_samples=3))
        >>> state["_extra_state"]["log_averages"].shape
        torch.Size([2, 3])
    """
    memories = {key: term.complete_state() for key, term in remembering_terms(loss)}
    if rank():
        return {}
    complete = {key: state for key, state in memories.items() if state is not None}
    return {**loss.state_dict(), **complete}
