"""Worker processes against the cores and the shared memory of a machine."""

from __future__ import annotations

import re

import pytest

from clipkit.training.preflight.loader import (
    LoaderPlan,
    describe_loader,
    loader_notes,
    make_loader_plan,
)

GIB = 2**30


@pytest.mark.parametrize(
    ("batch_sizes", "samples"),
    [([64], 64), ([4096], 128), ([130], 65), ([512, 64], 128 + 64)],
)
def test_the_inputs_of_all_prepared_parts_are_counted(batch_sizes, samples):
    """Two per worker and the one that is joined, on each of two ranks."""
    plan = make_loader_plan(100, batch_sizes, num_workers=3, num_ranks=2)
    assert plan.shared_bytes == 2 * (3 * 2 + 1) * samples * 100
    assert plan.num_cores >= 1
    assert plan.free_bytes is None or plan.free_bytes >= 0


def test_a_machine_that_suffices_needs_no_note():
    plan = LoaderPlan(8, 4, 32, GIB, 16 * GIB)
    assert loader_notes(plan) == []
    assert describe_loader(plan).startswith("32 processes on 32 cores")


@pytest.mark.parametrize(
    ("plan", "note"),
    [
        (LoaderPlan(16, 4, 32, GIB, None), r"64 worker processes share 32 cores.* to 8 or less"),
        (LoaderPlan(4, 1, 8, GIB, 64 * 2**20), r"64 MiB free .* needs at least 1 GiB.*--shm-size"),
        (LoaderPlan(4, 8, 4, GIB, None), r"set data.num_workers to 1 or less"),
    ],
)
def test_what_a_machine_lacks_is_said_with_a_solution(plan, note):
    (said,) = loader_notes(plan)
    assert re.search(note, said)


def test_without_workers_nothing_is_shared():
    assert loader_notes(LoaderPlan(0, 8, 2, 0, 0)) == []
