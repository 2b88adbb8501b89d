"""Teachers of other shapes, and a student without anything left to learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clipkit.errors import ConfigError
from clipkit.losses import DistillationLoss, EncoderTeacher, StoredTeacher
from clipkit.types import Embeddings, TeacherBatch
from tests.helpers.oracles import assert_close, make_batch, unit_rows, value_and_gradients

SIZE, TEACHER_SCALE = 13, 30.0


def inputs(width=5, scale=12.0):
    return unit_rows(SIZE, width, 0), unit_rows(SIZE, width, 1), torch.tensor(scale).double()


def stored_batch(width=7, **changes):
    batch = make_batch(SIZE)
    image, text = 3 * unit_rows(SIZE, width, 2), unit_rows(SIZE, width, 3)
    return replace(batch, teacher=TeacherBatch(image, text), **changes)


def test_a_perfect_student_has_no_loss_and_no_gradient():
    image, text, _ = inputs()
    batch = replace(make_batch(SIZE), teacher=TeacherBatch(image, text))
    loss = DistillationLoss(StoredTeacher(20.0), 1.0, 1.0, tile_size=5)
    scale = torch.tensor(20.0).double()
    got = value_and_gradients(lambda *x: loss(Embeddings(*x), batch), (image, text, scale))
    assert_close(got[:1], [torch.zeros(())], 1e-12)
    assert_close(got[3:], [torch.zeros(())], 1e-12)


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


@pytest.mark.parametrize("masked", [False, True])
def test_negatives_are_no_part_of_it(masked):
    batch = stored_batch(pair_mask=torch.arange(SIZE) % 4 > 0 if masked else None)
    plain = Embeddings(*inputs())
    negatives = {"negative_text": unit_rows(4, 5, 8), "negative_image": unit_rows(3, 5, 9)}
    loss = DistillationLoss(StoredTeacher())
    value = loss(replace(plain, **negatives), batch)
    assert_close([value], [loss(plain, batch)], 1e-12)


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
    with pytest.raises(ConfigError, match=r"teacher\.image and teacher\.text"):
        DistillationLoss(StoredTeacher())(embeddings, make_batch(SIZE))
    with pytest.raises(ConfigError, match="width 5, got 7"):
        DistillationLoss(StoredTeacher(), 0.0, 1.0)(embeddings, stored_batch())
    with pytest.raises(ConfigError, match="not both 0"):
        DistillationLoss(StoredTeacher(), 0.0, 0.0)
    with pytest.raises(ConfigError, match="expected a batch"):
        DistillationLoss(StoredTeacher())(embeddings)
