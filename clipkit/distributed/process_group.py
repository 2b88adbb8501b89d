"""The process group of a command that a launcher started once per rank."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from types import FrameType
from typing import Final, NoReturn

import torch
import torch.distributed as dist

from clipkit.distributed.world import current_world
from clipkit.errors import ConfigError, RankLostError, first_line

_TIMEOUT: Final = timedelta(hours=2)
"""A rank may wait for another one that downloads data; a dead rank is noticed at once."""
_ADDRESS: Final = ("MASTER_ADDR", "MASTER_PORT")
_LOST: Final = ("gloo", "nccl", "connection closed", "connection reset")


@contextmanager
def process_group(device: str = "auto", timeout: timedelta = _TIMEOUT) -> Iterator[str]:
    """Connect the ranks of a command, for the time of a block; a no-op in one process.

    Only the first rank prints to standard output. A rank that is lost, or SIGTERM, which a launcher
    sends to the other ranks, ends the block on every rank.

    Args:
        device: A torch device, or "auto" for a GPU if there is one: that of the rank's number on
            its machine.
        timeout: How long a rank waits for another one, which works.

    Yields:
        The device of this rank.

    Raises:
        ConfigError: If the launcher sets the number of ranks, but no address.
        RankLostError: If another rank ended, or this one received SIGTERM.

    Examples:
        >>> with process_group("cpu") as device:
        ...     print(device)
        cpu
    """
    world = current_world()
    if world.size == 1 or not dist.is_available() or dist.is_initialized():
        yield device
        return
    missing = [name for name in _ADDRESS if name not in os.environ]
    if missing:
        raise ConfigError(
            f"environment: expected {' and '.join(_ADDRESS)} for {world.size} ranks, got no "
            f"{missing[0]}; start the command with torchrun, or set both to the same on every rank"
        )
    device = _device_of_rank(device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=timeout)
    try:
        with _ended_by_sigterm(), ExitStack() as stack:
            if not world.is_main:
                stack.enter_context(redirect_stdout(io.StringIO()))
            yield device
    except RuntimeError as error:
        if is_lost_connection(error):
            raise rank_lost(error) from error
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def finishing() -> Iterator[None]:
    """Ignore SIGTERM for the time of a block that must be completed, such as the last files."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error of torch means that another rank cannot be reached."""
    text = str(error).lower()
    is_network = isinstance(error, RuntimeError) and any(word in text for word in _LOST)
    return isinstance(error, dist.DistError) or is_network


def rank_lost(error: BaseException) -> RankLostError:
    """Return the error of a rank that cannot reach another one.

    Args:
        error: Error of torch; see ``is_lost_connection``.
    """
    return RankLostError(
        f"another rank ended, so this one stops; its own message is above, or in the launcher's "
        f"report (out of memory, a killed process, a lost machine): {first_line(error)}"
    )


def _device_of_rank(device: str) -> str:
    """Return this rank's GPU for "auto" and "cuda", other devices as they are."""
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    number = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    if number >= torch.cuda.device_count():
        raise ConfigError(
            f"environment: expected at most one rank per GPU, got rank {number} (from 0) on a "
            f"machine with {torch.cuda.device_count()} GPUs; start fewer, or add --device cpu"
        )
    torch.cuda.set_device(number)
    return f"cuda:{number}"


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Raise ``RankLostError`` at SIGTERM instead of ending without a message."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher kills a process that hangs
        raise RankLostError("received SIGTERM: another rank ended, or the run was stopped")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
