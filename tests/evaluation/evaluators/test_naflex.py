"""Evaluators embed images of any shape as they are, whatever else is in their batch."""

from __future__ import annotations

import pytest
import torch

from clipkit.evaluation import (
    EmbedOptions,
    LabelHeadClassification,
    Retrieval,
    ZeroShotClassification,
    embed_pairs,
    evaluating,
    open_dataset,
)
from clipkit.models import DualEncoder, LinearLabelHead, TimmNaFlexTower, from_open_clip
from clipkit.models.inputs import transform_of
from clipkit.patches import to_patches
from tests.helpers.evaluation_data import OPEN_CLIP, captions, picture, write_layout

NUM = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_layout(tmp_path_factory.mktemp("data") / "set", (7, 5))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    tower = TimmNaFlexTower("test_vit", OPEN_CLIP["embed_dim"], max_tokens=20, patch_size=8)
    head = LinearLabelHead(OPEN_CLIP["embed_dim"], 6)
    return DualEncoder(tower, from_open_clip(OPEN_CLIP).text_tower, head)


@pytest.fixture(scope="module")
def alone(encoder):
    """Each image on its own."""
    transform = transform_of(encoder.image_tower)
    files = [picture(i, ("jpg", "png", "webp")[i % 3]) for i in range(NUM)]
    with evaluating(encoder):
        return [to_patches([transform.of_file(file)], 8) for file in files]


@pytest.mark.parametrize("options", [EmbedOptions(), EmbedOptions(5), EmbedOptions(4, 2)])
def test_embeddings_are_those_of_each_image_alone(root, encoder, alone, options):
    pairs = embed_pairs(encoder, open_dataset(root), options)
    with evaluating(encoder):
        wanted = torch.cat([encoder.encode_image(*image) for image in alone])
    assert len({patches.shape[1] for patches, _ in alone}) > 1
    torch.testing.assert_close(pairs.images, wanted, atol=2e-5, rtol=0)


def test_retrieval_zero_shot_and_label_head(root, encoder, alone):
    data = open_dataset(root)
    with evaluating(encoder):
        images = torch.cat([encoder.encode_image(*image) for image in alone])
        scores = torch.cat([encoder.classify(*image) for image in alone])
        texts = [text for i in range(NUM) for text in captions(i)]
        embedded = encoder.encode(texts).texts
    owners = torch.tensor([i for i in range(NUM) for _ in captions(i)])
    found = (embedded @ images.T).argmax(1) == owners
    result = Retrieval(data).run(encoder)
    key = next(name for name in result if name.endswith("text_to_image/recall_at_1"))
    assert result[key] == pytest.approx(found.float().mean().item())
    predictions = LabelHeadClassification(data).predict(encoder)
    torch.testing.assert_close(predictions.scores, scores, atol=2e-5, rtol=0)
    predictions = ZeroShotClassification(data, templates=["a {c} picture"]).predict(encoder)
    classes = encoder.encode([f"a {name} picture" for name in data.class_names]).texts
    torch.testing.assert_close(predictions.scores, images @ classes.T, atol=2e-5, rtol=0)
