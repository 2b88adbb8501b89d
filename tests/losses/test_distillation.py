"""Distillation against torch's kl_div and against loops; teachers of other shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clipkit.errors import ConfigError
from clipkit.losses import DistillationLoss, EncoderTeacher, StoredTeacher
from clipkit.types import Embeddings
from tests.losses.oracles import assert_close, make_batch, unit_rows, value_and_gradients

SIZE, TEACHER_SCALE = 13, 30.0


def inputs(width=5, scale=12.0):
    return unit_rows(SIZE, width, 0), unit_rows(SIZE, width, 1), torch.tensor(scale).double()


def stored_batch(width=7, **changes):
    batch = make_batch(SIZE)
    image, text = 3 * unit_rows(SIZE, width, 2), unit_rows(SIZE, width, 3)
    return replace(batch, teacher_image=image, teacher_text=text, **changes)


def plain_divergence(image, text, scale, batch):
    teacher_image = F.normalize(batch.teacher_image, dim=1)
    teacher = TEACHER_SCALE * teacher_image @ batch.teacher_text.T
    student = scale * image @ text.T
    return (
        sum(
            F.kl_div(s.log_softmax(1), t.log_softmax(1), reduction="batchmean", log_target=True)
            for s, t in ((student, teacher), (student.T, teacher.T))
        )
        / 2
    )


@pytest.mark.parametrize("tile", [None, 1, 4, 13])
def test_similarities_equal_kl_div(tile):
    batch = stored_batch()
    loss = DistillationLoss(StoredTeacher(TEACHER_SCALE), tile_size=tile)
    got = value_and_gradients(lambda *x: loss(Embeddings(*x), batch), inputs())
    expected = value_and_gradients(lambda *x: plain_divergence(*x, batch), inputs())
    assert_close(got, expected, 1e-11)
    assert float(got[0]) > 0.1


def test_a_perfect_student_has_no_loss_and_no_gradient():
    image, text, _ = inputs()
    batch = replace(make_batch(SIZE), teacher_image=image, teacher_text=text)
    loss = DistillationLoss(StoredTeacher(20.0), 1.0, 1.0, tile_size=5)
    scale = torch.tensor(20.0).double()
    got = value_and_gradients(lambda *x: loss(Embeddings(*x), batch), (image, text, scale))
    assert_close(got[:1], [torch.zeros(())], 1e-12)
    assert_close(got[3:], [torch.zeros(())], 1e-12)


def test_features_are_one_minus_cosine():
    batch = stored_batch(width=5)
    image, text, scale = inputs()
    loss = DistillationLoss(StoredTeacher(), 0.0, 0.5)
    expected = 0.0
    for own, other in ((image, batch.teacher_image), (text, batch.teacher_text)):
        expected += (1 - F.cosine_similarity(own, other)).mean() / 2
    got = loss.term(Embeddings(image, text, scale), batch)
    torch.testing.assert_close(got.value, 0.5 * expected)
    assert got.num_samples == SIZE


def test_both_parts_add_up_and_masked_pairs_do_not_count():
    mask = torch.arange(SIZE) % 3 > 0
    batch = stored_batch(width=5, pair_mask=mask)
    embeddings = Embeddings(*inputs())
    teacher = StoredTeacher(TEACHER_SCALE)
    both, similar, features = (
        DistillationLoss(teacher, *weights).term(embeddings, batch)
        for weights in ((0.7, 0.2), (1.0, 0.0), (0.0, 1.0))
    )
    torch.testing.assert_close(both.value, 0.7 * similar.value + 0.2 * features.value)
    assert both.num_samples == int(mask.sum())
    kept = replace(
        make_batch(int(mask.sum())),
        teacher_image=batch.teacher_image[mask],
        teacher_text=batch.teacher_text[mask],
    )
    image, text, scale = inputs()
    plain = plain_divergence(image[mask], text[mask], scale, kept)
    torch.testing.assert_close(similar.value, plain)


class Pixels(nn.Module):
    """A teacher that looks at 8 by 8 pixels and at its own tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(3 * 8 * 8, 4), nn.EmbeddingBag(10, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch):
        assert batch.images.shape[1:] == (3, 8, 8)
        assert batch.images.dtype == torch.uint8
        image = self.dropout(self.image(batch.images.flatten(1).float()))
        text = self.text(batch.tokens)
        return Embeddings(F.normalize(image, dim=1), F.normalize(text, dim=1), torch.tensor(9.0))


def test_another_encoder_with_its_own_tokens_and_size():
    encoder = Pixels()
    teacher = EncoderTeacher(
        encoder, image_size=8, tokenize=lambda texts: torch.tensor([[len(x)] for x in texts])
    )
    images = torch.arange(SIZE * 3 * 16 * 16).reshape(SIZE, 3, 16, 16).remainder(256)
    batch = replace(
        make_batch(SIZE),
        images=images.to(torch.uint8),
        captions=tuple("x" * (i % 10) for i in range(SIZE)),
    )
    teacher.train()
    first, second = teacher(batch), teacher(batch)
    assert torch.equal(first.image, second.image)  # it stays in evaluation mode
    assert not first.image.requires_grad
    assert not teacher.state_dict()
    assert not list(teacher.parameters())
    torch.testing.assert_close(first.text[2], first.text[12])
    loss = DistillationLoss(teacher)(Embeddings(*inputs()), batch)
    assert float(loss) > 0
    with pytest.raises(ConfigError, match="needs the captions, expected 13"):
        teacher(replace(batch, captions=()))


def test_a_constant_picture_stays_itself_when_resized():
    class Spy(nn.Module):
        def forward(self, batch):
            self.seen = batch.images
            one = torch.ones(len(batch), 1)
            return Embeddings(one, one, torch.tensor(1.0))

    spy = Spy()
    batch = replace(make_batch(2), images=torch.full((2, 3, 12, 12), 200, dtype=torch.uint8))
    EncoderTeacher(spy, image_size=5)(batch)
    assert torch.equal(spy.seen, torch.full((2, 3, 5, 5), 200, dtype=torch.uint8))


def test_what_cannot_work_is_refused():
    embeddings = Embeddings(*inputs())
    with pytest.raises(ConfigError, match="teacher_image and teacher_text"):
        DistillationLoss(StoredTeacher())(embeddings, make_batch(SIZE))
    with pytest.raises(ConfigError, match="width 5, got 7"):
        DistillationLoss(StoredTeacher(), 0.0, 1.0)(embeddings, stored_batch())
    with pytest.raises(ConfigError, match="not both 0"):
        DistillationLoss(StoredTeacher(), 0.0, 0.0)
    with pytest.raises(ConfigError, match="expected a batch"):
        DistillationLoss(StoredTeacher())(embeddings)
