"""The process group of small exchanges that run during a step."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist

from clipkit.distributed.collectives import exchange_device, gather_flat, world_size
from clipkit.errors import first_line

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackgroundGroup:
    """A process group for exchanges that no rank waits for.

    Args:
        group: Process group; None for the default one.
        device: Device of the tensors that it exchanges.
    """

    group: Any
    device: torch.device


_CURRENT: list[tuple[Any, BackgroundGroup]] = []
"""The default group of this process, and the background group that belongs to it."""


_TIMEOUT: list[timedelta | None] = [None]
"""Timeout of the exchanges; None for gloo's."""
_THREAD_TIMEOUT: Final = timedelta(days=1)
"""A rank may take hours longer than the others to write its part to a store."""


def limit_waits(timeout: timedelta | None) -> None:
    """Set how long a rank waits for the others in a background group that is made after this.

    Args:
        timeout: The time; None for the default of gloo, 30 minutes.
    """
    _TIMEOUT[0] = timeout


def background_group() -> BackgroundGroup:
    """Return the group of all ranks over gloo, the same at every call; call it on every rank.

    It is a group of its own, so that its exchanges do not queue behind those of the gradients, and
    in CPU memory, so that no GPU is waited for. All users share it: each must exchange in the same
    order on every rank.

    gloo connects the machines over the network interface to which the host's name resolves, or over
    that of the environment variable ``GLOO_SOCKET_IFNAME``. If it cannot connect them, the default
    group is used, with a warning: exchanges then wait for the GPU.

    Returns:
        The group; in one process the group without ranks.
    """
    if world_size() == 1:
        return BackgroundGroup(None, torch.device("cpu"))
    world = dist.group.WORLD
    if not _CURRENT or _CURRENT[0][0] is not world:
        _CURRENT[:] = [(world, _new_group(_TIMEOUT[0]))]
    return _CURRENT[0][1]


def gather_numbers(*numbers: int) -> list[tuple[int, ...]]:
    """Gather numbers of every rank, in the order of ranks, over the ``background_group``.

    A rank waits for the others, but not for its GPU.
    """
    if world_size() == 1:
        return [numbers]
    background = background_group()
    own = torch.tensor(numbers, dtype=torch.int64, device=background.device)
    _, everyone = gather_flat(own, background.group)
    return [tuple(row) for row in everyone.view(world_size(), -1).tolist()]


def separate_group() -> BackgroundGroup:
    """Return a new group of all ranks over gloo for one user, such as a thread.

    Call it on every rank. Where gloo cannot connect the ranks, it is the default group, which a
    thread must not use.
    """
    if world_size() == 1:
        return BackgroundGroup(None, torch.device("cpu"))
    return _new_group(_THREAD_TIMEOUT)


def _new_group(timeout: timedelta | None) -> BackgroundGroup:
    group, error = None, None
    try:
        group = dist.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as caught:
        error = caught
    # A group that some ranks have and others lack would hang the run.
    device = exchange_device()
    is_complete = torch.tensor(int(error is None), device=device)
    dist.all_reduce(is_complete, dist.ReduceOp.MIN)
    if is_complete.item():
        return BackgroundGroup(group, torch.device("cpu"))
    _LOG.warning(
        "gloo cannot connect all ranks (%s): signals and clocks are exchanged on the device, "
        "which each step waits for; name the network interface, such as "
        "GLOO_SOCKET_IFNAME=eth0, on every machine",
        "on another rank" if error is None else first_line(error),
    )
    return BackgroundGroup(None, device)
