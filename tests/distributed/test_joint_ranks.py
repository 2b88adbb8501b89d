"""Fused terms over ranks and micro-batches give what loops over the joined batch give."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import islice

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from clipkit.distributed.row_requests import RowRequests
from clipkit.losses import MicroBatchedEncoder
from clipkit.losses.accumulation import split_batch
from tests.helpers import joint, joint_teachers
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
    distilled = distilled_on_a_rank(share_of(number, world_size))
    sizes = [3, 1, 0, 2][:world_size] if world_size > 2 else [3, 1]
    rows = torch.arange(sizes[number])[:, None] + 10.0 * number
    rows.requires_grad_()
    wanted = torch.full((sizes[number],), 1)
    fetched = RowRequests(wanted, sizes).fetch(rows)
    (fetched * (1 + number)).sum().backward()
    exchanged = fetched.detach().numpy(), rows.grad.numpy(), sizes
    others = of_transposed_rows(number, sizes), of_uneven_shares(number)
    return results, exchanged, *others, distilled


def distilled_on_a_rank(batch):
    """Values and gradients of a fusion that is distilled; the teacher is the same on all ranks."""
    model = joint.encoder()
    loss, wrapped = joint_teachers.objective(micro_batch_size=3), DistributedDataParallel(model)
    values = loss(wrapped(batch), batch)
    values["loss"].backward()
    return {name: float(value.detach()) for name, value in values.items()}, joint.gradients(model)


def transposed_rows(number, size):
    """Maps of channels that are read as tokens, as those of convolutional towers."""
    values = torch.arange(size * 6, dtype=torch.float64) + 100 * number
    return values.view(size, 3, 2).transpose(1, 2)


def wanted_rows(number, sizes):
    return (torch.arange(sizes[number]) * 2 + number) % sum(sizes)


def of_transposed_rows(number, sizes):
    rows = transposed_rows(number, sizes[number]).requires_grad_()
    fetched = RowRequests(wanted_rows(number, sizes), sizes).fetch(rows)
    fetched.backward(transposed_rows(number + 1, sizes[number]))
    return fetched.detach().numpy(), rows.grad.numpy()


UNEVEN = {2: [11, 3], 4: [6, 0, 5, 3]}
"""Samples of each rank; one rank has none."""


def uneven_batch():
    """All but the last rank's samples are in one group: only that rank has their negatives."""
    groups = torch.full((joint.SIZE,), 4)
    groups[-3:] = -1
    return replace(joint.batch(), groups=groups)


def of_uneven_shares(number):
    """Terms over ranks with other numbers of samples, and the mean of their gradients."""
    sizes, given = UNEVEN[dist.get_world_size()], uneven_batch()
    rows = slice(sum(sizes[:number]), sum(sizes[: number + 1]))
    fields = ("images", "tokens", "labels", "keys", "sample_ids", "groups", "pair_mask")
    share = replace(given, **{name: getattr(given, name)[rows] for name in fields})
    found = []
    for micro_batch_size in (None, 2):
        model = joint.encoder()
        out = model(given)
        tokens = {name: one.rows(rows) for name, one in out.tokens.items()}
        own = replace(out, image=out.image[rows], text=out.text[rows], tokens=tokens)
        values = joint.objective(micro_batch_size, fused_only=True)(own, share)
        values["loss"].backward()
        gradients = joint.gradients(model)
        for name in sorted(gradients):  # the ranks exchange the same ones in the same order
            everyone = torch.from_numpy(gradients[name])
            dist.all_reduce(everyone)
            gradients[name] = everyone.numpy() / len(sizes)
        found.append(({name: float(v.detach()) for name, v in values.items()}, gradients))
    return found


@cache
def of_loops():
    """Value and gradients of all terms, by loops over all samples."""
    model = joint.encoder()
    value = joint.naive_objective(model, joint.batch())
    value.backward()
    return value.item(), joint.gradients(model)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_in_micro_batches_equal_loops_in_one_process(world_size):
    value, expected = of_loops()
    everything = run_ranks(on_a_rank, world_size)
    for number, (results, (fetched, gradient, sizes), *_) in enumerate(everything):
        for micro_batch_size, (numbers, gradients) in results.items():
            assert numbers["loss"] == pytest.approx(value, abs=1e-9)
            assert numbers["matching_num_samples"] == 13
            assert gradients.keys() == expected.keys()
            for name, reference in expected.items():
                case = f"{micro_batch_size}: {name}"
                np.testing.assert_allclose(gradients[name], reference, atol=1e-9, err_msg=case)
        assert fetched.tolist() == [[1.0]] * sizes[number]
        asked = sum((1 + rank) * size for rank, size in enumerate(sizes)) if number == 0 else 0
        assert gradient.sum() == asked
    check_transposed_rows([(sizes, *one) for _, (*_, sizes), one, _, _ in everything])
    check_uneven_shares([found for *_, found, _ in everything])
    check_distilled([found for *_, found in everything])


def check_transposed_rows(of_ranks):
    sizes = of_ranks[0][0]
    everyone = torch.cat([transposed_rows(rank, size) for rank, size in enumerate(sizes)])
    expected = torch.zeros_like(everyone)
    for rank, (_, fetched, _) in enumerate(of_ranks):
        wanted = wanted_rows(rank, sizes)
        np.testing.assert_array_equal(fetched, everyone[wanted])
        expected.index_add_(0, wanted, transposed_rows(rank + 1, sizes[rank]))
    got = np.concatenate([gradient for *_, gradient in of_ranks])
    np.testing.assert_array_equal(got, expected)


@cache
def of_distilling_loops():
    model, given, teacher = joint.encoder(), joint.batch(), joint_teachers.larger()
    projection = joint_teachers.terms()["states"].double().projection
    terms = joint_teachers.naive_terms(model, teacher, given, projection)
    value = sum(joint_teachers.WEIGHTS[name] * one for name, one in terms.items())
    value.backward()
    return value.item(), joint.gradients(model), len(joint.naive_masking(given)[1])


def check_distilled(of_ranks):
    value, expected, num_words = of_distilling_loops()
    for numbers, gradients in of_ranks:
        assert numbers["loss"] == pytest.approx(value, abs=1e-9)
        assert numbers["words_num_samples"] == num_words
        for name, reference in expected.items():
            np.testing.assert_allclose(gradients[name], reference, atol=1e-9, err_msg=name)


@cache
def of_uneven_loops():
    model, given = joint.encoder(), uneven_batch()
    value = joint.naive_objective(model, given) - joint.naive_contrastive(model, given)
    value.backward()
    return value.item(), joint.gradients(model)


def check_uneven_shares(of_ranks):
    value, expected = of_uneven_loops()
    for numbers, gradients in (one for found in of_ranks for one in found):
        assert numbers["loss"] == pytest.approx(value, abs=1e-9)
        assert numbers["matching_num_samples"] == 13
        for name, reference in expected.items():
            np.testing.assert_allclose(gradients[name], reference, atol=1e-9, err_msg=name)
