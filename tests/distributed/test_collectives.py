"""What the ranks exchange, with uneven and empty shares."""

from __future__ import annotations

import pytest
import torch

from clipkit.distributed import collectives
from clipkit.distributed.texts import gather_texts
from tests.helpers.ranks import run_ranks

SIZES = (2, 0, 3)


def exchange(number, world_size):
    start = sum(SIZES[:number])
    results: dict[str, object] = {}
    results["sizes"] = collectives.gather_sizes(SIZES[number], number, device=torch.device("cpu"))
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        rows = torch.arange(5)[start : start + SIZES[number], None].expand(-1, 2).to(dtype)
        results[str(dtype)] = collectives.gather_rows(rows, SIZES).tolist()
    part = torch.arange(5.0)[:, None] * (number + 1)
    results["own"] = collectives.sum_rows_to_owner(part, SIZES).flatten().tolist()
    results["slice"] = collectives.own_slice(SIZES)
    values = torch.tensor([-torch.inf, -torch.inf, 900.0 + number])
    values[1] = 1.0 if number == 1 else -torch.inf
    results["logsumexp"] = collectives.logsumexp_over_ranks(values).tolist()
    results["max"] = float(collectives.max_over_ranks(torch.tensor(float(number))))
    results["place"] = (collectives.rank(), collectives.world_size())
    return results


def test_uneven_and_empty_shares():
    gathered = [[i, i] for i in range(5)]
    for number, got in enumerate(run_ranks(exchange, 3)):
        assert got["sizes"] == [(2, 0), (0, 1), (3, 2)]
        for dtype in (torch.float32, torch.bfloat16, torch.int64):
            assert got[str(dtype)] == gathered
        start = sum(SIZES[:number])
        assert got["own"] == [6.0 * i for i in range(start, start + SIZES[number])]
        assert got["slice"] == slice(start, start + SIZES[number])
        exact = torch.tensor([900.0, 901, 902]).double().logsumexp(0).item()
        assert got["logsumexp"] == pytest.approx([float("-inf"), 1.0, exact])
        assert got["max"] == 2
        assert got["place"] == (number, 3)


def test_one_process_exchanges_nothing():
    rows = torch.arange(6.0).view(3, 2)
    assert collectives.gather_sizes(3, 1, device=rows.device) == [(3, 1)]
    assert collectives.gather_rows(rows, [3]).data_ptr() == rows.data_ptr()
    assert collectives.sum_rows_to_owner(rows, [3]) is rows
    assert collectives.logsumexp_over_ranks(rows).equal(rows)


def exchange_texts(number, world_size):
    texts = [["ä", ""], [], ["last"]][number]
    empty = gather_texts([], [0] * world_size, torch.device("cpu"))
    return list(empty), list(gather_texts(texts, [2, 0, 1], torch.device("cpu")))


def test_texts_of_all_ranks_and_of_none():
    assert run_ranks(exchange_texts, 3) == [([], ["ä", "", "last"])] * 3


def test_texts_go_over_a_gpu_if_nccl_is_the_only_backend(monkeypatch):
    assert collectives.exchange_device() == torch.device("cpu")
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for backend, device in {"nccl": "cuda:1", "gloo": "cpu", "undefined": "cpu"}.items():
        monkeypatch.setattr(torch.distributed, "get_backend", lambda backend=backend: backend)
        assert collectives.exchange_device() == torch.device(device)
