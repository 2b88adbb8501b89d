"""The label head's accuracy against a plain loop, over ranks, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import EmbedOptions, LabelHeadClassification, open_dataset
from clipkit.models import LinearLabelHead
from clipkit.models.inputs import transform_of
from tests.helpers.evaluation_data import CLASSES, tiny_encoder, write_layout
from tests.helpers.ranks import run_ranks

NUM = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_layout(tmp_path_factory.mktemp("data") / "set", (7, 5))


def encoder_with_head(num_classes: int = len(CLASSES)):
    encoder = tiny_encoder()
    encoder.label_head = LinearLabelHead(encoder.embedding_dim, num_classes)
    torch.manual_seed(1)
    torch.nn.init.normal_(encoder.label_head.linear.weight)
    return encoder


def test_scores_are_those_of_a_plain_loop(root):
    encoder = encoder_with_head().eval()
    data, transform = open_dataset(root), transform_of(encoder.image_tower)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        expected = [
            encoder.classify(transform(data.sample(i).image, rng)[None])[0] for i in range(NUM)
        ]
    right = [int(scores.argmax()) == data.sample(i).label for i, scores in enumerate(expected)]

    predictions = LabelHeadClassification(root, options=EmbedOptions(5)).predict(encoder)

    torch.testing.assert_close(predictions.scores, torch.stack(expected), atol=1e-5, rtol=0)
    top1 = LabelHeadClassification(root).run(encoder)["top1"]
    assert top1 == pytest.approx(sum(right) / NUM)


def _on_rank(rank, world_size, root):
    predictions = LabelHeadClassification(root, options=EmbedOptions(2)).predict(
        encoder_with_head()
    )
    return predictions.scores.numpy(), predictions.labels.numpy()


def test_two_ranks_give_what_one_gives(root):
    alone = LabelHeadClassification(root).predict(encoder_with_head())
    for scores, labels in run_ranks(_on_rank, 2, root):
        np.testing.assert_allclose(scores, alone.scores.numpy(), atol=1e-5)
        np.testing.assert_array_equal(labels, alone.labels.numpy())


def test_an_encoder_without_a_head_is_refused(root):
    with pytest.raises(ConfigError, match="label_head: expected an encoder with a label head"):
        LabelHeadClassification(root).run(tiny_encoder())


def test_a_class_beyond_the_head_is_named(root):
    with pytest.raises(DataError, match="expected 0 to 1"):
        LabelHeadClassification(root).run(encoder_with_head(num_classes=2))
