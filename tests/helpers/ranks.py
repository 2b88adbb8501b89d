"""Run a function in several gloo processes and collect what each returns."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = [
    *("clipkit.training", "clipkit.evaluation", "tests.helpers.tiny"),
    *("open_clip", "pytest", "wandb"),  # of the first fit
    *("clipkit.models.open_clip.attention", "torch.distributed.checkpoint"),
    "torch.distributed.algorithms.ddp_comm_hooks.default_hooks",
    "tests.helpers.frozen",
]
"""What takes seconds to import and the server of ranks imports once; it must start no thread."""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def fork_server() -> ForkServerContext:
    """Return a context whose processes have imported what a run needs when they start."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _entry(
    rank: int,
    world_size: int,
    port: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    environment: dict[str, str],
    joined: bool,
    queue: Any,
) -> None:
    os.environ.clear()  # of the server, as it was when the first test with ranks ran
    os.environ.update(
        environment,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),  # without it Lightning starts the ranks again, as another pytest
        LOCAL_WORLD_SIZE=str(world_size),
        NODE_RANK="0",
        OMP_NUM_THREADS="1",
        GLOO_SOCKET_IFNAME="lo",
    )
    torch.set_num_threads(1)
    os.fsync = lambda fd: None  # as in the process of pytest
    if joined:
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        queue.put((rank, function(rank, world_size, *args), None))
    except Exception:
        queue.put((rank, None, traceback.format_exc()))
    finally:
        if joined:
            dist.destroy_process_group()


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout_seconds: float = 270,
    joined: bool = True,
) -> list[Any]:
    """``function(rank, world_size, *args)`` on every rank; its results in the order of ranks.

    ``function`` must be importable (module level); results must pickle (numpy or plain types).
    Ranks are forked from one server per process of pytest, which imports Lightning once for all.
    They have the environment that torchrun sets, and are a process group if they are ``joined``.
    """
    context = fork_server()
    queue = context.Queue()
    port = free_port()
    processes = [
        context.Process(
            target=_entry,
            args=(rank, world_size, port, function, args, dict(os.environ), joined, queue),
            daemon=True,
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    try:
        for _ in processes:
            rank, value, error = queue.get(timeout=timeout_seconds)
            if error:
                raise AssertionError(f"rank {rank} failed:\n{error}")
            results[rank] = value
        for process in processes:
            process.join(timeout=30)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
    return [results[rank] for rank in range(world_size)]
