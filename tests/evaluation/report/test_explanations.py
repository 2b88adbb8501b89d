"""Images of explanations, and explanations in the report."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.evaluation import EmbedOptions, embed_pairs, open_dataset
from clipkit.evaluation.report import build_examples, explanation_png, overlay_png
from clipkit.evaluation.report.collect.explanations import (
    as_content,
    correlation,
    explained_pairs,
)
from clipkit.models import Explanation, WordWeight
from tests.helpers.evaluation_data import tiny_encoder, write_layout

GREY = 128


def explanation(heat_map, words=(("a", 0.1), ("dog", 1.0)), size=(40, 60), method="attention"):
    pixels = torch.full((3, *size), GREY, dtype=torch.uint8)
    words = tuple(WordWeight(*word) for word in words)
    return Explanation(torch.tensor(heat_map), words, 0.25, method, pixels)


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.fixture
def data(tmp_path):
    return open_dataset(write_layout(tmp_path / "set", (7,)))


def test_only_relevant_parts_are_coloured():
    image = opened(overlay_png(explanation([[0.0, 1.0], [0.0, 0.0]]), width=120))
    assert image.shape == (80, 120, 3)
    assert (image[:, :20] == GREY).all()
    red, green, blue = image[5, 115]
    assert red > GREY > blue  # yellow
    assert green > GREY
    assert (opened(overlay_png(explanation([[0.0]]))) == GREY).all()


def test_words_are_drawn_below_the_image():
    wide = opened(explanation_png(explanation([[0.0]]), width=300))
    long = opened(explanation_png(explanation([[0.0]], [("word", 0.5)] * 40), width=300))
    assert wide.shape[1] == long.shape[1]
    assert long.shape[0] > wide.shape[0] + 100
    below = wide[220:]
    assert (below[..., 2] > below[..., 0] + 60).any()  # blue of the word with weight 1
    unusual = [("犬", 1.0), ("x" * 500, 0.0), ("", 0.0), ("\U0001f415", 0.3)]
    assert (
        opened(explanation_png(explanation([[0.0]], unusual), width=300)).shape[1] == wide.shape[1]
    )


def test_agreement_is_the_correlation_at_the_lower_resolution():
    generator = torch.Generator().manual_seed(0)
    small, large = torch.rand(2, 3, generator=generator), torch.rand(4, 6, generator=generator)
    means = large.view(2, 2, 3, 2).mean((1, 3))
    expected = np.corrcoef(small.flatten(), means.flatten())[0, 1]
    first, second = explanation(small.tolist()), explanation(large.tolist())
    assert correlation(first, second) == pytest.approx(expected, abs=1e-5)
    assert correlation(second, first) == pytest.approx(expected, abs=1e-5)
    assert correlation(first, explanation([[0.0] * 8] * 8)) is None


def test_content_of_the_page():
    occluded = explanation([[0.0, 1.0]], method="occlusion")
    content = as_content(explanation([[0.0, 1.0]]), "a dog", occluded)
    assert content.words == (("a", 0.1), ("dog", 1.0))
    assert content.similarity == 0.25
    assert content.note == "Gradient-weighted attention rollout. Correlation with occlusion: 1.00."
    assert content.overlay.caption == "Heat map: a dog"
    assert Image.open(io.BytesIO(content.image.data)).format == "WEBP"
    assert as_content(occluded, "a dog", occluded).note == "Occlusion."


def test_the_report_explains_matches(data):
    encoder = tiny_encoder()
    pairs = embed_pairs(encoder, data, EmbedOptions())
    first = explained_pairs(encoder, data, pairs, count=3)
    assert len(first) == 3
    assert [e.similarity for e in first] == [
        e.similarity for e in explained_pairs(encoder, data, pairs, count=3)
    ]
    examples = build_examples(encoder, data, num_queries=2)
    assert len(examples.explanations) == min(6, len(pairs.captions))


def test_towers_that_cannot_be_explained_are_left_out(data, monkeypatch):
    encoder = tiny_encoder()
    pairs = embed_pairs(encoder, data, EmbedOptions())
    encoder.text_tower.tokenizer_name = "open_clip:none"
    assert explained_pairs(encoder, data, pairs) == []


def test_a_full_memory_leaves_occlusion(data, monkeypatch):
    encoder = tiny_encoder()
    pairs = embed_pairs(encoder, data, EmbedOptions())
    explain = encoder.explain

    def full(image, text, method="auto"):
        if method == "auto":
            raise torch.OutOfMemoryError
        return explain(image, text, method)

    monkeypatch.setattr(encoder, "explain", full)
    notes = [explanation.note for explanation in explained_pairs(encoder, data, pairs, count=2)]
    assert notes == ["Occlusion."] * 2
