"""Fused terms over ranks and micro-batches give what loops over the joined batch give."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from clipkit.distributed.row_requests import RowRequests
from clipkit.losses import MicroBatchedEncoder
from clipkit.losses.accumulation import split_batch
from tests.helpers import joint
from tests.helpers.ranks import run_ranks


def share_of(number, world_size):
    """The samples of a rank, with captions padded to its own longest."""
    size = -(-joint.SIZE // world_size)
    part = next(islice(split_batch(joint.batch(), size), number, None))
    longest = int((part.tokens != 0).sum(1).max())
    return replace(part, tokens=part.tokens[:, :longest], cursor=joint.CURSOR)


def on_a_rank(number, world_size):
    """Values and gradients on a rank, and rows that all ranks want of one."""
    results = {}
    for micro_batch_size in (None, 3):
        model = joint.encoder()
        inner = model if micro_batch_size is None else MicroBatchedEncoder(model, micro_batch_size)
        wrapped = DistributedDataParallel(inner)
        batch = share_of(number, world_size)
        values = joint.objective(micro_batch_size)(wrapped(batch), batch)
        values["loss"].backward()
        numbers = {name: float(value.detach()) for name, value in values.items()}
        results[micro_batch_size] = numbers, joint.gradients(model)
    sizes = [3, 1, 0, 2][:world_size] if world_size > 2 else [3, 1]
    rows = torch.arange(sizes[number])[:, None] + 10.0 * number
    rows.requires_grad_()
    wanted = torch.full((sizes[number],), 1)
    fetched = RowRequests(wanted, sizes).fetch(rows)
    (fetched * (1 + number)).sum().backward()
    return results, (fetched.detach().numpy(), rows.grad.numpy(), sizes)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_in_micro_batches_equal_loops_in_one_process(world_size):
    model, batch = joint.encoder(), joint.batch()
    value = joint.naive_objective(model, batch)
    value.backward()
    expected = joint.gradients(model)
    for number, (results, (fetched, gradient, sizes)) in enumerate(
        run_ranks(on_a_rank, world_size)
    ):
        for micro_batch_size, (numbers, gradients) in results.items():
            assert numbers["loss"] == pytest.approx(value.item(), abs=1e-9)
            assert numbers["matching_num_samples"] == 13
            assert gradients.keys() == expected.keys()
            for name, reference in expected.items():
                case = f"{micro_batch_size}: {name}"
                np.testing.assert_allclose(gradients[name], reference, atol=1e-9, err_msg=case)
        assert fetched.tolist() == [[1.0]] * sizes[number]
        asked = sum((1 + rank) * size for rank, size in enumerate(sizes)) if number == 0 else 0
        assert gradient.sum() == asked
