"""Micro-batches under DDP give the gradients of one process on the joined batch."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from clipkit.losses.accumulation import split_batch
from tests.helpers.ranks import run_ranks
from tests.losses import test_accumulation as accumulation

TOLERANCE = {"global": 1e-6}  # its averages are kept in fp32


def accumulated(name, number, world_size):
    """Gradients of the encoder and of the loss on a rank, and how often DDP reduced."""
    encoder = accumulation.Encoder(bias=name == "sigmoid")
    model = DistributedDataParallel(accumulation.MicroBatchedEncoder(encoder, 3))
    reductions = []

    def count_reductions(_, bucket):
        reductions.append(bucket.index())
        return (
            dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
            .get_future()
            .then(lambda future: future.value()[0])
        )

    model.register_comm_hook(None, count_reductions)
    joined = accumulation.make_batch(with_groups=name != "global")
    share = -(-accumulation.SIZE // world_size)
    batch = next(islice(split_batch(joined, share), number, None))
    loss = accumulation.LOSSES[name]()
    loss(model(batch), batch)["loss"].backward()
    learned = [*encoder.parameters(), *loss.parameters()]
    return [parameter.grad.numpy() for parameter in learned], len(reductions)


def all_losses(number, world_size):
    return {name: accumulated(name, number, world_size) for name in accumulation.LOSSES}


def test_ranks_in_micro_batches_equal_one_process():
    ranks = run_ranks(all_losses, 2)
    for name in accumulation.LOSSES:
        encoder = accumulation.Encoder(bias=name == "sigmoid")
        loss = accumulation.LOSSES[name]()
        _, expected = accumulation.gradients(encoder, encoder, loss)
        references = [*expected.values(), *(parameter.grad for parameter in loss.parameters())]
        for results in ranks:
            gradients, num_reductions = results[name]
            assert num_reductions == 1
            for got, reference in zip(gradients, references, strict=True):
                atol = TOLERANCE.get(name, 1e-12)
                np.testing.assert_allclose(got, reference, atol=atol, err_msg=name)
