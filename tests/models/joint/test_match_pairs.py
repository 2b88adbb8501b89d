"""Matching logits of images and texts as they are."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from clipkit.errors import ConfigError, DataError
from clipkit.models import CrossAttentionFusion, MergedFusion, match_pairs, with_fusion
from clipkit.models.inputs import pixels_of, token_batches
from tests.helpers import naflex, sound_collections, tiny

TEXTS = ["a red square", "a", "a much longer text about a blue square", "a red square"]


def images():
    return [Image.new("RGB", (40 + 9 * n, 30), (60 * n, 100, 200)) for n in range(len(TEXTS))]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_logits_are_those_of_single_pairs(batch_size):
    torch.manual_seed(0)
    joint = with_fusion(tiny.encoder(), CrossAttentionFusion(16, 2, 2)).train()
    found = match_pairs(joint, images(), TEXTS, batch_size)
    assert joint.training
    assert not found.requires_grad
    expected = []
    with torch.no_grad():
        for image, text in zip(images(), TEXTS, strict=True):
            (tokens,) = token_batches(joint.text_tower, [text], 1)
            seen = joint.eval().read_image(pixels_of(joint.image_tower, image, "image")[None])
            parts = {"image": seen.tokens, "text": joint.read_text(tokens).tokens}
            expected.append(joint.match(joint.fuse(parts).pooled))
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-4)
    assert match_pairs(joint, [], []).shape == (0,)


def test_images_of_any_shape():
    joint = with_fusion(naflex.encoder(), MergedFusion(16, 1, 2))
    one_by_one = torch.cat(
        [match_pairs(joint, [i], [t]) for i, t in zip(images(), TEXTS, strict=True)]
    )
    torch.testing.assert_close(match_pairs(joint, images(), TEXTS), one_by_one)


def test_what_does_not_fit(tmp_path):
    joint = with_fusion(tiny.encoder(), CrossAttentionFusion(16, 1, 2))
    with pytest.raises(ConfigError, match="texts: expected one per image, 4, got 1"):
        match_pairs(joint, images(), ["a"])
    with pytest.raises(ConfigError, match="images: expected a list of images"):
        match_pairs(joint, images()[0], ["a"])
    with pytest.raises(ConfigError, match="texts: expected a list of texts"):
        match_pairs(joint, images(), "text")
    with pytest.raises(DataError, match="cannot be read"):
        match_pairs(joint, [tmp_path / "no.jpg"], ["a"])
    fusion = CrossAttentionFusion(16, 1, 2, context=["sound"])
    with pytest.raises(ConfigError, match="images and texts alone, got one of text, sound"):
        match_pairs(with_fusion(sound_collections.encoder(), fusion), images(), TEXTS)
