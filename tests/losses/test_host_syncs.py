"""Losses on made-up CUDA tensors: nothing may wait for the GPU, and no devices may be mixed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from packaging.version import Version

from clipkit.losses.kernels import tile_body
from clipkit.types import PairSizes
from tests.helpers.fake_cuda import IN_TILES, OBJECTIVES, fake_gpu, fake_ranks, make_step
from tests.helpers.oracles import make_batch

pytestmark = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.10"), reason="wants a driver for made-up tensors"
)


@pytest.fixture(autouse=True)
def _without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_body, "_kernels", lambda *_: None)


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("name", [*OBJECTIVES, *IN_TILES])
def test_objectives_wait_for_nothing(name: str, num_ranks: int) -> None:
    """Two steps, with what ``StepGuard`` does to losses with a memory."""
    objective = (OBJECTIVES | IN_TILES)[name]
    with fake_ranks(num_ranks), fake_gpu():
        with torch.device("cuda"):
            loss = objective.make()
        terms = [term for term in loss.children() if getattr(term, "remembers", False)]
        for _ in range(2):
            embeddings, batch = make_step(objective, num_ranks)
            for term in terms:
                term.begin_step()
            value = loss(embeddings, batch)["loss"]
            assert value.device.type == "cuda"
            assert value.requires_grad
            for term in terms:
                term.end_step(torch.zeros((), device="cuda") > 0)


@pytest.mark.parametrize("name", ["softmax", "softmax, mask", "softmax, negatives", "modalities"])
def test_ranks_whose_sizes_are_unknown_wait(name: str) -> None:
    with fake_ranks(8), fake_gpu():
        embeddings, batch = make_step(OBJECTIVES[name], 8)
        unknown = replace(batch, pair_sizes=None, joint_sizes=None, rank_sizes=(len(batch),))
        with pytest.raises(AssertionError, match=r"copies to|waits for"):
            OBJECTIVES[name].make()(embeddings, unknown)


@pytest.mark.parametrize("name", ["pair", "pair, reversed"])
def test_exchanged_sizes_of_pairs_without_masks_are_kept(name: str) -> None:
    """Of a stream that does not know the sizes of the other ranks."""
    with fake_ranks(8), fake_gpu():
        embeddings, batch = make_step(OBJECTIVES[name], 8)
        sizes = PairSizes((len(batch), *[3] * 7), (0,) * 8)
        given = replace(batch, rank_sizes=None, pair_sizes=sizes)
        assert OBJECTIVES[name].make()(embeddings, given)["loss"].requires_grad


def test_samples_that_are_not_counted_are_waited_for() -> None:
    with fake_gpu():
        embeddings, batch = make_step(OBJECTIVES["modalities"], 1)
        with pytest.raises(AssertionError, match="waits for"):
            OBJECTIVES["modalities"].make()(embeddings, replace(batch, num_joint=None))


def test_a_batch_knows_its_pairs_before_it_is_on_a_gpu() -> None:
    mask = torch.tensor([True, False, True])
    assert make_batch(3, pair_mask=mask).to("cpu").num_pairs == 2
    assert make_batch(3).to("cpu").num_pairs is None


def test_what_waits_is_found() -> None:
    with fake_gpu():
        values = torch.randn(4, device="cuda")
        host = torch.zeros(4)
        for wait in (
            lambda: values.sum().item(),
            lambda: torch.unique(values),
            lambda: values[values > 0],
            lambda: values.cpu(),
            lambda: host.to("cuda"),
            lambda: torch.tensor(1.0, device="cuda"),
            lambda: values + host,
        ):
            with pytest.raises(AssertionError, match=r"waits|copies|mixes"):
                wait()
