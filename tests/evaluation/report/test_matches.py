"""Images of the matching logit, and its explanations in the report."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.evaluation import EmbedOptions, Retrieval, embed_pairs, open_dataset
from clipkit.evaluation.report import evaluate_with_report, matching_png
from clipkit.evaluation.report.collect.matches import explained_matches, matching_content
from clipkit.evaluation.report.sections.word_maps import word_overlays
from clipkit.models import (
    CrossAttentionFusion,
    Explanation,
    MatchingExplanation,
    WordWeight,
    with_fusion,
)
from tests.helpers.evaluation_data import tiny_encoder, write_layout

GREY = 128


def matching(words=(("a", 0.1), ("dog", 1.0)), size=(40, 60)):
    pixels = torch.full((3, *size), GREY, dtype=torch.uint8)
    own = tuple(WordWeight(*word) for word in words)
    heat_map = torch.tensor([[1.0, 0.0]])
    caption = Explanation(heat_map, own, 2.5, "attention", pixels)
    return MatchingExplanation(caption, tuple(heat_map.flip(1) for _ in own))


def joint(depth=2):
    torch.manual_seed(0)
    return with_fusion(tiny_encoder(), CrossAttentionFusion(16, depth, 2)).eval()


@pytest.fixture
def data(tmp_path):
    return open_dataset(write_layout(tmp_path / "set", (7,)))


def test_a_word_has_its_own_small_map():
    image = np.asarray(Image.open(io.BytesIO(matching_png(matching(), width=400))).convert("RGB"))
    large, small = image[16:282, 16:416], image[-24 - 63 : -24, 16:110]
    assert (large[:, -1] == GREY).all()  # relevant on the left
    assert (small[:, 0] == GREY).all()  # the word on the right
    assert not (small[5, -1] == GREY).all()


def test_at_most_twelve_words_have_a_map():
    words = [(f"word{number}" * number, number / 30) for number in range(1, 31)]
    shown = [word for word, _ in word_overlays(matching(words), 40)]
    assert shown == [word for word, _ in words[-12:]]
    assert Image.open(io.BytesIO(matching_png(matching(words)))).width == 448 + 32


def test_content_of_the_page():
    found = matching()
    occluded = replace(found, caption=replace(found.caption, method="occlusion"))
    shown = matching_content(found, "a dog", occluded)
    assert shown.measure == "Matching logit"
    assert shown.similarity == 2.5
    assert shown.note == (
        "Attention in the fusion, times its gradient. Correlation with occlusion: 1.00."
    )
    assert [word for word, _ in shown.parts] == ["a", "dog"]
    assert matching_content(occluded, "a dog", occluded).note == "Occlusion."


def test_matches_are_selected_and_explained(data):
    pairs = embed_pairs(joint().dual(), data, EmbedOptions())
    found = explained_matches(joint(), data, pairs, count=2)
    assert [one.note.split(",")[0] for one in found] == ["Attention in the fusion"] * 2
    again = explained_matches(joint(), data, pairs, count=2)
    assert [one.similarity for one in again] == [one.similarity for one in found]
    by_occlusion = explained_matches(joint(depth=1), data, pairs, count=1)
    assert [one.note for one in by_occlusion] == ["Occlusion."]
    assert explained_matches(tiny_encoder(), data, pairs) == []


def test_the_report_of_a_joint_encoder_has_them(data, tmp_path):
    retrieval = Retrieval(data, ks=(1,))
    page = tmp_path / "report" / "report.html"
    own = evaluate_with_report(joint(), {"retrieval": retrieval}, page.parent, title="A run")
    assert page.read_text().count("Matching logit") == 4
    assert own == {"retrieval": retrieval.run(joint().dual())}
