"""The group of exchanges beside a step, and what replaces it where gloo cannot connect."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from clipkit.distributed.background import background_group
from clipkit.distributed.delayed_max import DelayedMax
from tests.helpers.ranks import run_ranks


def exchanged(rank: int, world_size: int, broken_rank: int | None) -> tuple[list[int], bool, str]:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("clipkit.distributed.background").addHandler(handler)
    if rank == broken_rank:
        real = dist.new_group

        def refuse(*args, **options):
            real(*args, **options)  # the others are inside
            raise RuntimeError("gloo: no interface\nwith a long trace")

        dist.new_group = refuse
    first, second = DelayedMax(), DelayedMax()
    values = []
    for step in range(3):
        values += [first.all_reduce(10 * step + rank), second.all_reduce(-step - rank)]
    values += [first.wait(), second.wait()]
    own = background_group().group is not None
    return values, own and first._background is second._background, "".join(said)


def test_all_users_share_one_group():
    for values, is_own, said in run_ranks(exchanged, 2, None):
        assert values == [0, 0, 1, 0, 11, -1, 21, -2]
        assert is_own
        assert said == ""


def test_without_gloo_the_default_group_is_used_on_every_rank():
    first, second = run_ranks(exchanged, 2, 1)
    for values, is_own, said in (first, second):
        assert values == [0, 0, 1, 0, 11, -1, 21, -2]
        assert not is_own
        assert "GLOO_SOCKET_IFNAME" in said
    assert "on another rank" in first[2]
    assert "no interface" in second[2]
    assert "long trace" not in second[2]


def test_one_process_has_no_group():
    assert background_group().group is None
    assert background_group().device == torch.device("cpu")
