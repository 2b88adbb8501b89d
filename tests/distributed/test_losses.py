"""Several gloo processes give the losses and gradients of one process on the joined batch."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clipkit.distributed.collectives import rank
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    DistillationLoss,
    GlobalContrastiveLoss,
    LabelAwareContrastiveLoss,
    LabelLoss,
    MultiLabelLoss,
    SigmoidLoss,
    StoredTeacher,
)
from clipkit.losses.accumulation import split_batch
from clipkit.types import IGNORE_LABEL, Embeddings
from tests.distributed.spawn import run_ranks
from tests.losses import test_accumulation as accumulation
from tests.losses.oracles import make_batch

pytestmark = pytest.mark.distributed

WIDTH, CLASSES, ROWS = 6, 4, 24
TOLERANCE = {"global": 1e-6}  # its averages are kept in fp32
CASES = (
    "softmax",
    "groups",
    "labels",
    "sigmoid",
    "sigmoid groups",
    "sigmoid mask",
    "sigmoid negatives",
    "mask",
    "negatives",
    "distillation",
    "global",
    "multi-label",
    "prototypes",
    "uncertainty",
)


class TinyEncoder(nn.Module):
    """Two linear towers, a label head and learnable scale and bias, all in fp64."""

    def __init__(self, bias: bool, prototypes: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.prototypes = prototypes
        self.image, self.text = nn.Linear(5, WIDTH), nn.Linear(5, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.bias = nn.Parameter(torch.tensor(-4.0)) if bias else None
        self.double()

    def forward(self, rows, negatives=None):
        def unit(x):
            return nn.functional.normalize(x, dim=1)

        image, text = unit(self.image(rows[:, :5])), unit(self.text(rows[:, 5:]))
        extra = (None, None)
        if negatives is not None:
            extra = unit(self.image(negatives[0])), unit(self.text(negatives[1]))
        logits = self.head(image)
        if self.prototypes:  # the text tower reads the names of the classes
            names = torch.eye(CLASSES, 5, dtype=rows.dtype)
            logits = logits + 5 * image @ unit(self.text(names)).T
        return Embeddings(image, text, self.log_scale.exp(), self.bias, logits, *extra)


def joined_data():
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(ROWS, 10, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    labels[10:] = IGNORE_LABEL  # the later ranks have none
    groups = torch.randint(-2, 6, (ROWS,), generator=generator)
    mask = torch.rand(ROWS, generator=generator) > 0.3
    negatives = torch.randn(2, ROWS, 5, generator=generator, dtype=torch.float64)
    return rows, labels, groups, mask, negatives


def objective(case):
    tile = None if "groups" in case else 5
    pairs = {
        "labels": LabelAwareContrastiveLoss(tile),
        "global": GlobalContrastiveLoss(2 * ROWS, gamma=0.4, tile_size=tile),
    }.get(case, SigmoidLoss(tile) if case.startswith("sigmoid") else ContrastiveLoss(tile))
    label = MultiLabelLoss([1.0, 2.0, 0.5, 3.0]) if case == "multi-label" else LabelLoss()
    if case == "uncertainty":
        loss = CombinedLoss(pairs, label, 0.7, 1.3, uncertainty=True).double()
        loss.log_variances["label"].data.fill_(0.6)
        return loss
    if case != "distillation":
        return CombinedLoss(pairs, label, 0.7, 1.3)
    distillation = DistillationLoss(StoredTeacher(20.0), 1.0, 0.5, tile_size=5)
    return CombinedLoss(pairs, label, 0.7, 1.3, distillation, 2.0)


def own_batch(case, own):
    """What a rank, or one process, gets of the joined data."""
    rows, labels, groups, mask, negatives = joined_data()
    batch = make_batch(
        len(rows[own]),
        labels[own],
        groups[own] if "groups" in case else None,
        mask[own] if "mask" in case or case == "distillation" else None,
        2 * torch.arange(ROWS)[own],
    )
    multi_labels = torch.where(labels >= 0, groups, IGNORE_LABEL)[:, None] > torch.arange(-2, 2)
    multi_labels = torch.where(labels[:, None] >= 0, multi_labels.long(), IGNORE_LABEL)
    return replace(
        batch,
        multi_labels=multi_labels[own],
        teacher_image=rows[own, :WIDTH],
        teacher_text=negatives[0, own, :WIDTH].repeat(1, 2)[:, :WIDTH],
    )


def encoder_for(case):
    return TinyEncoder(bias=case.startswith("sigmoid"), prototypes=case == "prototypes")


def settle(loss, case, encoder, own):
    """A step before the measured one, for a loss that remembers."""
    if case == "global":
        rows = joined_data()[0].flip(1)[own]
        loss(encoder(rows), own_batch(case, own))


def one_step(case, own, wrap):
    rows, _, _, _, negatives = joined_data()
    encoder = encoder_for(case)
    model = DistributedDataParallel(encoder) if wrap else encoder
    extra = None
    if "negatives" in case:  # uneven, and none on the first rank
        first = 6 if own.start == 0 else own.start
        extra = negatives[0, first : own.stop : 3], negatives[1, first : own.stop : 2]
    loss = objective(case)
    settle(loss, case, encoder, own)
    terms = loss(model(rows[own], extra), own_batch(case, own))
    terms["loss"].backward()
    learned = [*encoder.parameters(), *loss.parameters()]
    gradients = [parameter.grad.numpy() for parameter in learned]
    return [value.detach().numpy() for value in terms.values()], gradients


def joined_negatives(sizes):
    """The rows that the ranks of ``one_step`` take, in the order of ranks."""
    negatives = joined_data()[4]
    ends = np.cumsum([0, *sizes])
    starts = [6 if start == 0 else start for start in ends[:-1]]
    return tuple(
        torch.cat([negatives[k, i:j:step] for i, j in zip(starts, ends[1:], strict=True)])
        for k, step in ((0, 3), (1, 2))
    )


def single_process(case, sizes):
    encoder = encoder_for(case)
    extra = joined_negatives(sizes) if "negatives" in case else None
    loss, everything = objective(case), slice(0, ROWS)
    settle(loss, case, encoder, everything)
    terms = loss(encoder(joined_data()[0], extra), own_batch(case, everything))
    terms["loss"].backward()
    learned = [*encoder.parameters(), *loss.parameters()]
    gradients = [parameter.grad.numpy() for parameter in learned]
    return [value.detach().numpy() for value in terms.values()], gradients


def accumulated(name, own):
    """Under DDP in micro-batches: gradients, and how often DDP reduced."""
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
    whole = accumulation.make_batch(with_groups=name != "global")
    batch = next(islice(split_batch(whole, own.stop - own.start), rank(), None))
    loss = accumulation.LOSSES[name]()
    loss(model(batch), batch)["loss"].backward()
    return [parameter.grad.numpy() for parameter in encoder.parameters()], len(reductions)


def all_cases(number, world_size, all_sizes):
    results = []
    for sizes in all_sizes:
        ends = np.cumsum([0, *sizes])
        own = slice(int(ends[number]), int(ends[number + 1]))
        results.append({case: one_step(case, own, wrap=True) for case in CASES})
    share = slice(0, -(-accumulation.SIZE // world_size))
    return results, {name: accumulated(name, share) for name in accumulation.LOSSES}


@pytest.mark.parametrize("all_sizes", [((12, 12), (15, 9)), ((6, 6, 6, 6), (11, 0, 7, 6))])
def test_ranks_equal_one_process(all_sizes):
    ranks = run_ranks(all_cases, len(all_sizes[0]), all_sizes)
    for index, sizes in enumerate(all_sizes):
        for case in CASES:
            values, gradients = single_process(case, sizes)
            assert float(values[0]) > 0.1
            for number, (results, _) in enumerate(ranks):
                rank_values, rank_gradients = results[index][case]
                for got, expected in zip(
                    (*rank_values, *rank_gradients), (*values, *gradients), strict=True
                ):
                    np.testing.assert_allclose(
                        got,
                        expected,
                        atol=TOLERANCE.get(case, 1e-10),
                        err_msg=f"{case}, rank {number}, {sizes}",
                    )
    for name in accumulation.LOSSES:
        encoder = accumulation.Encoder(bias=name == "sigmoid")
        _, expected = accumulation.gradients(encoder, encoder, accumulation.LOSSES[name]())
        for _, accumulated_on_rank in ranks:
            gradients, num_reductions = accumulated_on_rank[name]
            assert num_reductions == 1
            for got, reference in zip(gradients, expected.values(), strict=True):
                atol = TOLERANCE.get(name, 1e-12)
                np.testing.assert_allclose(got, reference, atol=atol, err_msg=name)
