"""Every term of the objective over several processes against one process."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch

from clipkit.types import Embeddings
from tests.helpers.loss_cases import CASES, make_inputs, rows_of
from tests.helpers.loss_tester import differentiate
from tests.helpers.oracles import assert_close
from tests.helpers.ranks import run_ranks

SIZES = {1: ((24,),), 2: ((15, 9), (24, 0), (12, 12)), 4: ((6, 6, 6, 6), (11, 0, 7, 6))}


def of_rank(number: int, world_size: int) -> list[dict[str, tuple[Any, ...]]]:
    """Values and gradients of this rank's part, for all sizes and cases; see the test."""
    results = []
    for sizes in SIZES[world_size]:
        start = sum(sizes[:number])
        rows = slice(start, start + sizes[number])
        of_case = {}
        for name, case in CASES.items():
            loss = case.make(5)
            for step in range(case.passes):
                inputs, batch = make_inputs(case, 24, seed=7 + step)
                inputs, batch = rows_of(inputs, batch, rows, negatives_of(number, world_size))
                if 0 not in sizes:  # the others exchange it
                    batch.rank_sizes = sizes
                term = differentiate(loss, inputs, batch)
            samples = case.make(5).term(Embeddings(**inputs), batch).num_samples
            gradients = [gradient.numpy() for gradient in term[1].values()]
            of_case[name] = (term[0].item(), samples.item(), gradients)
        results.append(of_case)
    return results


def negatives_of(number: int, world_size: int) -> list[slice]:
    """Uneven shares of three and of two negatives; none of the images' on the first rank."""
    shares = []
    for count in (3, 2):
        ends = [count * k // world_size for k in range(world_size + 1)]
        shares.append(slice(ends[number], ends[number + 1]))
    return shares


@cache
def expected_of(name: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Value and gradients of the oracle of a case on all samples."""
    case = CASES[name]
    oracle = case.oracle()
    for step in range(case.passes):
        value, gradients = differentiate(oracle, *make_inputs(case, 24, seed=7 + step))
    return float(value), gradients


@pytest.mark.parametrize("world_size", SIZES)
def test_ranks_equal_one_process(world_size: int) -> None:
    """Every rank has the value of one process, and its part of the gradient."""
    ranks = run_ranks(of_rank, world_size)
    for index, name in itertools.product(range(len(SIZES[world_size])), CASES):
        case, sizes = CASES[name], SIZES[world_size][index]
        inputs, batch = make_inputs(case, 24, seed=6 + case.passes)
        value, expected = expected_of(name)
        shared = {key: torch.zeros(()).double() for key in inputs if inputs[key].ndim == 0}
        start = 0
        for number, results in enumerate(ranks):
            got, samples, rank_gradients = results[index][name]
            assert got == pytest.approx(value, abs=case.atol), (name, sizes, number)
            assert samples == ranks[0][index][name][1] > 0
            rows = slice(start, start + sizes[number])
            start = rows.stop
            parts, _ = rows_of(expected, batch, rows, negatives_of(number, world_size))
            for (key, wanted), gradient in zip(parts.items(), rank_gradients, strict=True):
                mean = torch.from_numpy(gradient) / world_size  # as DDP does
                if key in shared:
                    shared[key] += mean
                else:
                    assert_close([mean], [wanted], case.atol)
        for key, total in shared.items():
            assert_close([total], [expected[key]], max(case.atol, 1e-8))
