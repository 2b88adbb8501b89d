"""Texts are exchanged behind the image tower: the same numbers, in another order of calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clipkit.distributed.collectives import begin_gather, begin_sum_to_owner
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    DistillationLoss,
    GlobalContrastiveLoss,
    LabelAwareContrastiveLoss,
    SigmoidLoss,
    StepExchange,
    StoredTeacher,
    WeightedTerm,
)
from clipkit.losses.kernels import text_exchange
from clipkit.models import DualEncoder, from_open_clip
from clipkit.types import Batch, NegativeBatch, TeacherBatch
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

SIZE = 12
SHARES = {1: (12,), 2: (7, 5), 4: (3, 3, 3, 3)}
IN_ORDER = [
    "text tower runs", "gather begins", "image tower runs", "gather is waited for", "sum begins",
    "gradient of the image tower", "sum is waited for", "gradient of the text tower",
]  # fmt: skip


def _two_terms() -> CombinedLoss:
    teacher = WeightedTerm(DistillationLoss(StoredTeacher(), 0.5, 0.5), 0.7)
    return CombinedLoss(ContrastiveLoss(), terms={"distillation": teacher})


LOSSES: dict[str, Callable[[], CombinedLoss]] = {
    "softmax": lambda: CombinedLoss(ContrastiveLoss(5), contrastive_weight=0.3),
    "sigmoid": lambda: CombinedLoss(SigmoidLoss()),
    "label-aware": lambda: CombinedLoss(LabelAwareContrastiveLoss()),
    "global": lambda: CombinedLoss(GlobalContrastiveLoss(SIZE)),
    "negatives": lambda: CombinedLoss(ContrastiveLoss()),
    "two terms": _two_terms,
}


class Step(nn.Module):
    """Encoder and loss as ``ContrastiveModule`` runs them; or without an exchange ahead."""

    def __init__(self, name: str, ahead: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        bias = {"init_logit_bias": -10.0, "init_logit_scale": 2.3} if name == "sigmoid" else {}
        self.encoder: DualEncoder = from_open_clip({**tiny.CONFIG, **bias})
        self.loss, self.ahead = LOSSES[name](), ahead

    def forward(self, batch: Batch) -> torch.Tensor:
        if not self.ahead:
            loss: torch.Tensor = self.loss(self.encoder(batch), batch)["loss"]
            return loss
        step = StepExchange(self.loss, batch)
        embeddings = self.encoder(step.batch, step.on_text if step.exchanges_text else None)
        ahead: torch.Tensor = self.loss(embeddings, step.sized(batch), step.text)["loss"]
        return ahead


def batch_of(number: int, world_size: int, name: str) -> Batch:
    """The part of a rank; all negatives belong to the last one."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (SIZE, 3, 16, 16), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(1, 49000, (SIZE, 6), generator=generator)
    more = torch.randint(1, 49000, (3, 6), generator=generator)
    tokens[:, -1] = more[:, -1] = 49407
    labels = torch.randint(0, 3, (SIZE,), generator=generator)
    teacher = torch.randn(2, SIZE, tiny.CONFIG["embed_dim"], generator=generator)
    start = sum(SHARES[world_size][:number])
    rows = slice(start, start + SHARES[world_size][number])
    keys = tuple("abcdefghijkl"[rows])
    batch = Batch(
        images[rows], tokens[rows], labels[rows], keys,
        sample_ids=torch.arange(SIZE)[rows], teacher=TeacherBatch(*teacher[:, rows]),
        rank_sizes=SHARES[world_size] if name == "softmax" else None,
    )  # fmt: skip
    if name == "negatives":
        own = more if number == world_size - 1 else more[:0]
        batch = replace(batch, negatives=NegativeBatch(tokens=own))
    return batch


def differentiated(model: nn.Module, batch: Batch) -> tuple[float, dict[str, np.ndarray]]:
    value = model(batch)
    value.backward()
    named = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
    return value.item(), {name: grad.numpy() for name, grad in named.items() if grad is not None}


def of_rank(number: int, world_size: int) -> dict[str, Any]:
    """Every loss with and without the exchange ahead, under DDP; and the order of the calls."""
    results: dict[str, Any] = {}
    for name in LOSSES:
        batch = batch_of(number, world_size, name)
        ahead, plain = (
            differentiated(DistributedDataParallel(Step(name, way)), batch) for way in (True, False)
        )
        assert ahead[0] == plain[0], name
        for key, gradient in plain[1].items():
            np.testing.assert_array_equal(ahead[1][key], gradient, err_msg=f"{name} {key}")
        results[name] = ahead
    return {"results": results, "events": recorded(batch_of(number, world_size, "softmax"))}


def note(events: list[str], event: str) -> Callable[..., None]:
    return lambda *_: events.append(event)


def recorded(batch):
    """The order of the calls of a step."""
    events = []

    def exchange(name, begin):
        def call(*args):
            events.append(f"{name} begins")
            arriving = begin(*args)
            wait = arriving.wait

            def waited():
                events.append(f"{name} is waited for")
                return wait()

            arriving.wait = waited
            return arriving

        return call

    step = Step("softmax", ahead=True)
    for side in ("image", "text"):
        tower = getattr(step.encoder, f"{side}_tower")
        tower.register_forward_pre_hook(note(events, f"{side} tower runs"))
        first = next(iter(tower.parameters()))
        first.register_post_accumulate_grad_hook(note(events, f"gradient of the {side} tower"))
    with pytest.MonkeyPatch.context() as patch:
        for name, begin in (("gather", begin_gather), ("sum", begin_sum_to_owner)):
            patch.setattr(text_exchange, begin.__name__, exchange(name, begin))
        step(batch).backward()
    return events


@pytest.mark.parametrize("world_size", [2, 4])
def test_numbers_are_those_of_one_process_and_of_an_exchange_inside_the_loss(
    world_size: int,
) -> None:
    ranks = run_ranks(of_rank, world_size)
    for name in LOSSES:
        value, gradients = differentiated(Step(name, ahead=True), batch_of(0, 1, name))
        for rank in ranks:
            got, of_rank_gradients = rank["results"][name]
            assert got == pytest.approx(value, rel=1e-5), name
            assert of_rank_gradients.keys() == gradients.keys()
            for key, expected in gradients.items():
                np.testing.assert_allclose(
                    of_rank_gradients[key], expected, rtol=1e-4, err_msg=f"{name} {key}",
                    atol=1e-5 * max(1.0, float(np.abs(expected).max())),
                )  # fmt: skip
    assert [rank["events"] for rank in ranks] == [IN_ORDER] * world_size


def test_one_process_exchanges_nothing() -> None:
    events = recorded(batch_of(0, 1, "softmax"))
    assert [event for event in events if "tower" not in event] == []


def test_gradients_can_be_asked_for_apart_and_twice() -> None:
    """Each backward pass multiplies the sums by its own upstream gradient."""
    text = torch.randn(4, 3, requires_grad=True)
    exchange, sums = text_exchange.TextExchange(), torch.randn(4, 3)
    exchange.begin(text, [4])
    late = exchange.begin_gradient(sums, [4])
    assert late is not None
    assert exchange.begin_gradient(sums, [4]) is None  # of a second loss
    value = (late.text * late.gradient).sum()
    for factor in (1.0, -2.0):
        (gradient,) = torch.autograd.grad(factor * value, text, retain_graph=True)
        assert torch.equal(gradient, factor * sums)
    assert exchange.gathered(text.clone()) is None
