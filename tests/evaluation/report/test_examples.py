"""What the report shows of an encoder agrees with what the evaluators measure."""

from __future__ import annotations

import io
import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipkit.errors import DataError
from clipkit.evaluation import (
    EmbeddedPairs,
    EmbedOptions,
    Retrieval,
    ZeroShotClassification,
    embed_pairs,
    embedding_health,
    open_dataset,
)
from clipkit.evaluation.report import ReportData, build_examples, render_report
from clipkit.evaluation.report.collect.health import similarity_histogram
from clipkit.evaluation.report.collect.thumbnails import thumbnail
from tests.helpers.evaluation_data import CLASSES, captions, tiny_encoder, write_layout

NUM = 12


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_dataset(write_layout(tmp_path_factory.mktemp("data") / "set", (7, 5)))


@pytest.fixture(scope="module")
def examples(encoder, data):
    classes = ZeroShotClassification(data)
    return build_examples(encoder, data, classes=classes, num_queries=100)


def test_ranks_in_the_gallery_are_those_that_recall_counts(encoder, data, examples):
    metrics = Retrieval(data, ks=(1, 5)).run(encoder)

    for queries, way in (
        (examples.gallery.text_queries, "text_to_image"),
        (examples.gallery.image_queries, "image_to_text"),
    ):
        for k in (1, 5):
            share = sum(query.rank <= k for query in queries) / len(queries)
            assert share == pytest.approx(metrics[f"{way}/recall_at_{k}"])
    assert len(examples.gallery.image_queries) == NUM
    assert len(examples.gallery.text_queries) == sum(len(captions(i)) for i in range(NUM))


def test_hits_are_sorted_and_marked_where_they_belong(examples):
    own = {text: i for i in range(NUM) for text in captions(i)}
    for query in (*examples.gallery.text_queries, *examples.gallery.image_queries):
        similarities = [hit.similarity for hit in query.hits]
        assert similarities == sorted(similarities, reverse=True)
        assert any(hit.is_match for hit in query.hits) == (query.rank <= 5)
    for query in examples.gallery.text_queries:
        for hit in query.hits:
            assert hit.is_match == (own[hit.image.caption] == own[query.text])
        assert own[query.answer.caption] == own[query.text]
    for query in examples.gallery.image_queries:
        for hit in query.hits:
            assert hit.is_match == (own[hit.caption] == own[query.image.caption])
        assert own[query.answer] == own[query.image.caption]


def test_the_draw_is_seeded(encoder, data):
    def texts(seed):
        drawn = build_examples(encoder, data, num_queries=4, seed=seed)
        return [query.text for query in drawn.gallery.text_queries]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_confusion_adds_up_to_the_pictures(encoder, data, examples):
    confusion = examples.classifiers[0].confusion
    counts = torch.tensor(confusion.counts)

    assert confusion.class_names == list(CLASSES)
    assert counts.sum() == NUM
    top1 = ZeroShotClassification(data).run(encoder)["top1"]
    assert counts.trace() / NUM == pytest.approx(top1)


def test_examples_fill_a_report(examples):
    page = render_report(ReportData("A run", examples=examples))

    assert "Effective rank of images" in page
    assert page.count("data:image/webp") >= 5 * len(examples.gallery.text_queries)


def test_data_without_captions_have_no_gallery(tmp_path, encoder):
    data = open_dataset(write_layout(tmp_path, text=False))

    with pytest.raises(DataError, match="gallery needs captions"):
        build_examples(encoder, data)


def test_histogram_sums_to_one_and_separates(encoder, data):
    pairs = embed_pairs(encoder, data, EmbedOptions())

    drawn = similarity_histogram(pairs, num_bins=10)

    assert len(drawn.edges) == 11
    assert sum(drawn.matching) == pytest.approx(1)
    assert sum(drawn.other) == pytest.approx(1)


def test_histogram_of_perfect_pairs_keeps_them_apart():
    basis = torch.eye(6)
    pairs = EmbeddedPairs(
        basis, basis, torch.arange(6), torch.zeros(6, dtype=torch.int64), ("",) * 6, ("",) * 6
    )

    drawn = similarity_histogram(pairs, num_bins=4)

    assert drawn.matching == [0, 0, 0, 1]
    assert drawn.other == [1, 0, 0, 0]


def test_thumbnail_is_small_on_white_and_keeps_its_shape():
    out = io.BytesIO()
    Image.new("RGBA", (400, 200), (0, 0, 0, 0)).save(out, "PNG")

    with Image.open(io.BytesIO(thumbnail(out.getvalue(), 100))) as image:
        assert image.format == "WEBP"
        assert image.size == (100, 50)
        assert min(image.convert("L").getdata()) > 250


def test_health_of_known_spaces():
    same = F.normalize(torch.ones(10, 4), dim=-1)
    basis = torch.eye(4)

    assert embedding_health.effective_rank(same) == pytest.approx(1, abs=1e-3)
    assert embedding_health.effective_rank(basis) == pytest.approx(4, abs=1e-3)
    assert embedding_health.uniformity(same) == pytest.approx(0, abs=1e-6)
    assert embedding_health.uniformity(basis) == pytest.approx(-4)  # every distance squared is 2
    assert embedding_health.alignment(basis, -basis) == pytest.approx(4)
    assert embedding_health.modality_gap(basis, -basis) == pytest.approx(2 * math.sqrt(4 / 16))
    assert embedding_health.spread(torch.arange(10), 4).tolist() == [0, 3, 6, 9]
