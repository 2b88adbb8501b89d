"""Several modalities over ranks, micro-batches and shards give what loops over all samples give."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, product

import numpy as np
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    MicroBatchedEncoder,
    ModalityPairLoss,
    StepExchange,
    WeightedTerm,
)
from clipkit.losses.accumulation import split_batch
from clipkit.losses.kernels import pairs as pairs_of_ranks
from clipkit.training.strategies.sharding import reduce_whole_parameters, shard_encoder
from clipkit.types import Embeddings, NegativeBatch
from tests.helpers import modalities
from tests.helpers.oracles import make_batch, unit_rows
from tests.helpers.ranks import run_ranks

CASES = [
    (*ways[number % 4], mask)
    for ways in [list(product(modalities.PAIRS, modalities.LOSSES))]
    for number, mask in enumerate(modalities.MASKS)
] + [("anchor", "sigmoid", "some"), ("all pairs", "softmax", "not on the second rank")]
"""Every mask, each pair of terms and losses, and masks that matter with two of them."""


def refused(*_, **__):
    raise AssertionError("a loss exchanges numbers of pairs, for which it waits for a GPU")


def on_a_rank(number, world_size):
    """Value and gradients on a rank, which has every second half of the samples."""
    pairs_of_ranks.gather_sizes = refused  # type: ignore[attr-defined]
    results = {}
    for pairs, kind, series in CASES:
        model = modalities.encoder(bias=kind == "sigmoid")
        wrapped = DistributedDataParallel(MicroBatchedEncoder(model, 4))
        share = -(-modalities.SIZE // world_size)
        joined = modalities.batch(series, with_groups=True)
        batch = next(islice(split_batch(joined, share), number, None)).to("cpu")
        loss = modalities.objective(pairs, kind)
        step = StepExchange(loss, batch)
        terms = loss(wrapped(batch), step.sized(batch))
        terms["loss"].backward()
        grads = {name: p.grad.numpy() for name, p in model.named_parameters()}
        results[pairs, kind, series] = float(terms["loss"].detach()), grads
    return results, in_both_orders(number)


def in_both_orders(number):
    """Losses of images with texts and of texts with images, with uneven numbers of negatives."""
    image, text, images, texts = (
        unit_rows(rows, 5, seed + 10 * number)
        for seed, rows in enumerate((4, 4, 1 + number, 3 - number))
    )
    embeddings = Embeddings(
        image, text, torch.tensor(5.0).double(), negative_image=images, negative_text=texts
    )
    negatives = NegativeBatch(torch.zeros(len(images), 3, 2, 2), torch.zeros(len(texts), 2).long())
    batch = replace(make_batch(4), negatives=negatives)
    values = []
    for names in (("image", "text"), ("text", "image")):
        pair = ModalityPairLoss(ContrastiveLoss(), *names)
        loss = CombinedLoss(terms={"pair": WeightedTerm(pair)})
        values.append(float(loss(embeddings, StepExchange(loss, batch).sized(batch))["loss"]))
    return values


def test_ranks_in_micro_batches_equal_loops_in_one_process():
    for results, (value, other_way) in run_ranks(on_a_rank, 2):
        np.testing.assert_allclose(value, other_way, atol=1e-9)
        for (pairs, kind, series), (value, gradients) in results.items():
            batch = modalities.batch(series, with_groups=True)
            expected, references = modalities.naive_gradients(pairs, kind, batch)
            case = f"{pairs}, {kind}, {series}"
            np.testing.assert_allclose(value, expected, atol=1e-9, err_msg=case)
            assert gradients.keys() == references.keys()
            for name, reference in references.items():
                np.testing.assert_allclose(
                    gradients[name], reference, atol=1e-9, err_msg=f"{case}: {name}"
                )


def on_a_shard(number, world_size):
    """Gradients of towers that are sharded over the ranks (FSDP2), gathered, for each mask."""
    mesh = init_device_mesh("cpu", (world_size,))
    results = {}
    for series in modalities.MASKS:
        model = modalities.encoder()
        shard_encoder(model, mesh)
        reduce_whole_parameters(model, mesh)
        share = -(-modalities.SIZE // world_size)
        joined = modalities.batch(series, with_groups=True)
        batch = next(islice(split_batch(joined, share), number, None)).to("cpu")
        terms = modalities.objective("all pairs", "softmax")(model(batch), batch)
        terms["loss"].backward()
        assert any(isinstance(p, DTensor) for p in model.towers["series"].parameters())
        grads = {name: p.grad for name, p in model.named_parameters()}
        results[series] = (
            float(terms["loss"].detach()),
            {
                name: (g.full_tensor() if isinstance(g, DTensor) else g).numpy()
                for name, g in grads.items()
            },
        )
    return results


def test_sharded_towers_have_the_gradients_of_one_process():
    for results in run_ranks(on_a_shard, 2):
        for series, (value, gradients) in results.items():
            batch = modalities.batch(series, with_groups=True)
            expected, references = modalities.naive_gradients("all pairs", "softmax", batch)
            np.testing.assert_allclose(value, expected, atol=1e-9, err_msg=series)
            assert gradients.keys() == references.keys()
            for name, reference in references.items():
                np.testing.assert_allclose(
                    gradients[name], reference, atol=1e-9, err_msg=f"{series}: {name}"
                )
