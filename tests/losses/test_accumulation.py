"""Micro-batches give the big batch's gradient, with the activations of one micro-batch."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from clipkit.errors import ConfigError
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    DistillationLoss,
    GlobalContrastiveLoss,
    LabelAwareContrastiveLoss,
    LabelLoss,
    MicroBatchedEncoder,
    MultiLabelLoss,
    SigmoidLoss,
    StoredTeacher,
    WeightedTerm,
)
from clipkit.losses.accumulation import split_batch
from clipkit.types import Batch, Embeddings, NegativeBatch, TeacherBatch

SIZE = 22


class Encoder(nn.Module):
    def __init__(self, dropout: float = 0.0, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Linear(12, 9), nn.Dropout(dropout), nn.Linear(9, 6))
        self.text = nn.EmbeddingBag(20, 6)
        self.head = nn.Linear(6, 4)
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.bias = nn.Parameter(torch.tensor(-3.0)) if bias else None
        self.double()

    def forward(self, batch: Batch) -> Embeddings:
        image = self.image(batch.images.flatten(1).double() / 255)
        text = self.text(batch.tokens)
        image, text = (nn.functional.normalize(x, dim=1) for x in (image, text))
        return Embeddings(image, text, self.log_scale.exp(), self.bias, self.head(image))


def make_batch(with_groups: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(1)
    groups = torch.randint(-1, 5, (SIZE,), generator=generator) if with_groups else None
    labels = torch.randint(0, 4, (SIZE,), generator=generator)
    labels[3:15] = -100
    return Batch(
        torch.randint(0, 256, (SIZE, 3, 2, 2), generator=generator, dtype=torch.uint8),
        torch.randint(0, 20, (SIZE, 5), generator=generator),
        labels,
        tuple(str(i) for i in range(SIZE)),
        cursor={"position": 3},
        sample_ids=torch.arange(SIZE),
        pair_mask=torch.rand(SIZE, generator=generator) > 0.2,
        teacher=TeacherBatch(
            torch.randn(SIZE, 5, generator=generator, dtype=torch.float64),
            torch.randn(SIZE, 5, generator=generator, dtype=torch.float64),
        ),
        multi_labels=torch.randint(0, 2, (SIZE, 4), generator=generator),
        groups=groups,
    )


def gradients(encoder, embed, loss):
    batch = make_batch(with_groups=not isinstance(loss.contrastive, GlobalContrastiveLoss))
    torch.manual_seed(7)
    terms = loss(embed(batch), batch)
    terms["loss"].backward()
    return terms["loss"].detach(), {n: p.grad.clone() for n, p in encoder.named_parameters()}


LOSSES = {
    "softmax": lambda: CombinedLoss(ContrastiveLoss(7), LabelLoss(), 1.0, 0.5),
    "labels": lambda: CombinedLoss(LabelAwareContrastiveLoss(), LabelLoss(), 1.0, 0.5),
    "sigmoid": lambda: CombinedLoss(SigmoidLoss(7), LabelLoss(), 1.0, 0.5),
    "global": lambda: CombinedLoss(
        GlobalContrastiveLoss(SIZE, gamma=0.5, tile_size=7), LabelLoss(), 1.0, 0.5
    ),
    "multi-label": lambda: CombinedLoss(ContrastiveLoss(7), MultiLabelLoss(), 1.0, 0.5),
    "uncertainty": lambda: CombinedLoss(
        ContrastiveLoss(7), LabelLoss(), 1.0, 0.5, uncertainty=True
    ).double(),
    "distillation": lambda: CombinedLoss(
        ContrastiveLoss(7),
        LabelLoss(),
        1.0,
        0.5,
        terms={
            "distillation": WeightedTerm(DistillationLoss(StoredTeacher(20.0), tile_size=7), 2.0)
        },
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [1, 5, 11, 50])
def test_equals_the_big_batch(name, size):
    encoder = Encoder(bias=name == "sigmoid")
    expected = gradients(encoder, encoder, LOSSES[name]())
    encoder.zero_grad()
    got = gradients(encoder, MicroBatchedEncoder(encoder, size), LOSSES[name]())
    # The averages of the global loss are kept in fp32.
    atol = 1e-6 if name == "global" else 1e-13
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)
    assert float(expected[1]["log_scale"].abs()) > 1e-3


def in_parts(encoder, size):
    """The same micro-batches and random numbers, but all activations are kept."""

    def embed(batch):
        parts = [encoder(part) for part in split_batch(batch, size)]
        return Embeddings(
            torch.cat([part.image for part in parts]),
            torch.cat([part.text for part in parts]),
            parts[0].logit_scale,
            label_logits=torch.cat([part.label_logits for part in parts]),
        )

    return embed


def test_dropout_repeats_itself():
    encoder, loss = Encoder(dropout=0.5), LOSSES["softmax"]()
    expected = gradients(encoder, in_parts(encoder, 5), loss)
    encoder.zero_grad()
    got = gradients(encoder, MicroBatchedEncoder(encoder, 5), loss)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def activations_alive(encoder, embed):
    """How many outputs of a layer inside the image tower are alive, each time one is made."""
    layer, alive, counts = encoder.image[1], set(), []

    def watch(module, inputs, output):
        number = len(counts)
        alive.add(number)
        weakref.finalize(output, alive.discard, number)
        counts.append(len(alive))

    handle = layer.register_forward_hook(watch)
    gradients(encoder, embed, LOSSES["softmax"]())
    handle.remove()
    return counts


def test_one_micro_batch_is_alive_at_a_time():
    encoder = Encoder(dropout=0.1)
    kept = activations_alive(encoder, in_parts(encoder, 2))
    assert kept == list(range(1, 12))  # eleven micro-batches pile up
    remade = activations_alive(encoder, MicroBatchedEncoder(encoder, 2))
    assert len(remade) == 22  # each of them twice
    assert max(remade) <= 2


def test_split_keeps_every_field():
    batch = make_batch()
    parts = list(split_batch(batch, 8))
    assert [len(part) for part in parts] == [8, 8, 6]
    assert torch.equal(torch.cat([part.groups for part in parts]), batch.groups)  # type: ignore[misc]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert sum((part.keys for part in parts), ()) == batch.keys
    assert parts[0].cursor is None
    with pytest.raises(ConfigError, match="micro_batch_size"):
        list(split_batch(batch, 0))


def test_negatives_are_shared_out_and_none_is_lost():
    tokens = torch.arange(7)[:, None]
    batch = replace(make_batch(), negatives=NegativeBatch(torch.zeros(0, 3, 2, 2), tokens))
    parts = list(split_batch(batch, 5))
    shares = [part.negatives for part in parts if part.negatives is not None]
    assert len(shares) == len(parts)
    assert torch.equal(torch.cat([share.tokens for share in shares]), tokens)  # type: ignore[misc]
    assert max(len(share.tokens) for share in shares) == 2
    assert all(share.images.shape == (0, 3, 2, 2) for share in shares)


def test_without_gradient_it_is_the_plain_encoder():
    encoder, batch = Encoder(), make_batch()
    with torch.no_grad():
        got, expected = MicroBatchedEncoder(encoder, 4)(batch), encoder(batch)
    torch.testing.assert_close(got.image, expected.image, rtol=0, atol=1e-14)
    assert not got.image.requires_grad
