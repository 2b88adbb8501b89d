"""What is collected for the page agrees with other implementations, and images are read once."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.neighbors import NearestNeighbors

from clipkit.errors import ConfigError
from clipkit.evaluation import (
    EmbedOptions,
    LabelHeadClassification,
    Retrieval,
    ZeroShotClassification,
    embed_pairs,
    open_dataset,
)
from clipkit.evaluation.correct_pairs import RetrievalOptions, match_candidates
from clipkit.evaluation.memory import is_remembered, recall, remembering
from clipkit.evaluation.outcomes.classification import classification_outcomes
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.multi_label import multi_label_outcomes
from clipkit.evaluation.report import Examples, evaluate_with_report, evaluated
from clipkit.evaluation.report.collect import embedding_map as maps
from clipkit.evaluation.report.collect import planes
from clipkit.evaluation.report.collect.classification import (
    class_rows,
    classifier_content,
    confusion_content,
    multi_label_content,
    with_average_precisions,
)
from clipkit.evaluation.report.collect.health import measure_health
from clipkit.evaluation.report.collect.retrieval import Search, error_gallery, recall_curves
from clipkit.evaluation.report.collect.thumbnails import Thumbnails, reduced, thumbnail
from clipkit.evaluation.report.evaluated import measure, merged_result
from clipkit.evaluation.report.sections.classes import class_table
from tests.helpers import tiny
from tests.helpers.evaluation_data import CLASSES, tiny_encoder, write_layout
from tests.helpers.factories import write_shards
from tests.helpers.html import parse

NUM = 12
NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_dataset(write_layout(tmp_path_factory.mktemp("data") / "set", (7, 5)))


@pytest.fixture(scope="module")
def pairs(encoder, data):
    return embed_pairs(encoder, data, EmbedOptions())


def classes_of(seed: int = 0, count: int = 200):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.integers(0, 3, count)), torch.tensor(rng.integers(0, 4, count))


def test_recall_curves_count_what_a_loop_counts(pairs):
    text_curve, image_curve = recall_curves(match_candidates(pairs, RetrievalOptions()))

    scores = (pairs.texts.double() @ pairs.images.double().T).numpy()
    owner = pairs.text_to_image.numpy()
    ranks = [int((row >= row[own]).sum()) for row, own in zip(scores, owner, strict=True)]
    for k, share in text_curve.points:
        assert share == pytest.approx(np.mean([rank <= k for rank in ranks]))
    best = []
    for image in range(NUM):
        right = scores[owner == image, image].max()
        best.append(1 + int((scores[owner != image, image] >= right).sum()))
    for k, share in image_curve.points:
        assert share == pytest.approx(np.mean([rank <= k for rank in best]))
    assert text_curve.median_rank == np.median(ranks)
    assert image_curve.mean_rank == pytest.approx(np.mean(best))
    assert (text_curve.num_candidates, image_curve.num_candidates) == (NUM, len(owner))
    assert text_curve.points[-1] == (NUM, 1.0)


def test_errors_are_sorted_by_their_margin(data, pairs):
    candidates = match_candidates(pairs, RetrievalOptions())
    search = Search("set", candidates, pairs.captions, Thumbnails(data, {}, 20))

    gallery = error_gallery(search, 5, seed=0)

    assert gallery.text_queries
    ranks = [query.rank for query in gallery.text_queries]
    assert min(ranks + [query.rank for query in gallery.image_queries]) > 1
    scores = pairs.texts.double() @ pairs.images.double().T
    margins = []
    for query in gallery.text_queries:
        row = pairs.captions.index(query.text)
        own = int(pairs.text_to_image[row])
        wrong = torch.cat([scores[row, :own], scores[row, own + 1 :]])
        margins.append(float(wrong.max() - scores[row, own]))
    assert margins == sorted(margins, reverse=True)


def test_rows_of_classes_are_those_of_scikit_learn():
    labels, chosen = classes_of()

    rows = class_rows(chosen, labels, NAMES)

    precision, recalls, f1, support = precision_recall_fscore_support(
        labels, chosen, labels=range(4), zero_division=np.nan
    )
    for row, *expected in zip(rows[:3], precision, recalls, f1, support, strict=False):
        assert [row.precision, row.recall, row.f1, row.support] == pytest.approx(expected)
    assert (rows[3].support, rows[3].recall, rows[3].f1) == (0, None, None)
    assert rows[3].precision == 0


def test_confusions_are_counted_and_bounded():
    labels, chosen = classes_of()

    few = confusion_content(chosen, labels, NAMES)
    many = confusion_content(chosen, labels, (*NAMES, *(f"class {i}" for i in range(2000))))

    assert few.counts == confusion_matrix(labels, chosen, labels=range(4)).tolist()
    assert len(many.counts) == 1000
    assert many.class_names[:4] == list(NAMES)
    assert sum(map(sum, many.counts)) == len(labels)


def test_the_reliability_diagram_is_that_of_the_outcomes():
    scores = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    labels, keys = classes_of(0, 300)[0], [str(row) for row in range(300)]
    outcomes = classification_outcomes(scores, labels, keys, NAMES, logit_scale=2.0)

    (diagram,) = classifier_content("x", outcomes).reliabilities

    confidence = (2 * scores).softmax(1).amax(1).numpy()
    is_right = (scores.argmax(1) == labels).numpy()
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(is_right[inside].mean() - confidence[inside].mean())
    assert diagram.error == pytest.approx(expected)
    assert sum(part.count for part in diagram.bins) == 300
    assert (diagram.bins[0].low, diagram.bins[-1].high) == (0, 1)


def test_hits_and_errors_show_their_own_images(data):
    scores = torch.eye(4)[torch.tensor([0, 1, 2, 3] * 3)] * 0.9
    scores[5] = torch.tensor([0.1, 0.2, 0.95, 0.0])
    labels = torch.arange(NUM) % 4
    keys = [str(row) for row in range(NUM)]
    outcomes = classification_outcomes(scores, labels, keys, NAMES)

    content = classifier_content("x", outcomes, Thumbnails(data, {}, 20), num_images=20)

    assert [(hit.true, hit.predicted, hit.rank) for hit in content.errors] == [("bee", "cat", 2)]
    assert content.errors[0].image.caption == data.sample(5).key
    assert len(content.hits) == NUM - 1
    assert {hit.image.caption for hit in content.hits} == {
        data.sample(row).key for row in range(NUM) if row != 5
    }


def test_the_plane_is_that_of_scikit_learn():
    rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 9)

    plane = planes.fit_plane(rows)
    places = np.array(plane.place(rows))

    expected = PCA(2).fit(rows.double().numpy())
    assert plane.explained == pytest.approx(expected.explained_variance_ratio_.sum())
    np.testing.assert_allclose(np.abs(places), np.abs(expected.transform(rows.double().numpy())))


def test_the_map_shows_each_image_at_its_place_on_the_sheet(data, pairs):
    content = maps.embedding_map(pairs, CLASSES, Thumbnails(data, {}, 20), seed=0)

    assert content is not None
    assert [name.name for name in content.projections] == ["PCA"]
    assert "umap-learn is not installed" in content.note
    assert list(content.captions) == list(pairs.keys)
    assert [content.classes[n].name for n in content.class_of] == [
        CLASSES[label] for label in pairs.labels.tolist()
    ]
    sheet = Image.open(io.BytesIO(content.sheet.image.data)).convert("RGB")
    assert sheet.size == (64 * content.sheet.num_columns, 64 * content.sheet.num_rows)
    own = Image.open(io.BytesIO(data.sample(5).image)).convert("RGB").resize((64, 64))
    centre = np.asarray(sheet)[24:40, 5 * 64 + 24 : 5 * 64 + 40].astype(float).mean((0, 1))
    assert np.abs(centre - np.asarray(own)[24:40, 24:40].astype(float).mean((0, 1))).max() < 40


def test_neighbours_of_the_map_are_those_of_scikit_learn(data, pairs):
    content = maps.embedding_map(pairs, CLASSES, Thumbnails(data, {}, 20), seed=0)

    finder = NearestNeighbors(n_neighbors=11).fit(pairs.images.numpy())
    nearest = finder.kneighbors(pairs.images.numpy(), return_distance=False)[:, 1:]
    same = (pairs.labels.numpy()[nearest] == pairs.labels.numpy()[:, None]).mean(1)
    assert content is not None
    for part in content.classes:
        rows = pairs.labels.numpy() == CLASSES.index(part.name)
        assert part.neighbours == pytest.approx(same[rows].mean())
        assert part.count == rows.sum()


def test_umap_is_drawn_where_it_is_installed(data, pairs, monkeypatch):
    seen = []

    def positions(rows, seed):
        seen.append((len(rows), seed))
        return [(float(n), 0.0) for n in range(len(rows))]

    monkeypatch.setattr(maps, "has_umap", lambda: True)
    monkeypatch.setattr(maps, "umap_positions", positions)
    content = maps.embedding_map(pairs, CLASSES, Thumbnails(data, {}, 20), seed=3)

    assert content is not None
    assert [projection.name for projection in content.projections] == ["PCA", "UMAP"]
    assert seen == [(NUM, 3)]
    assert [x for x, _ in content.projections[1].positions] == list(range(NUM))
    assert "not installed" not in content.note


def test_large_data_are_sampled_and_the_page_says_so(data, pairs, monkeypatch):
    monkeypatch.setattr(maps, "_MAX_POINTS", 5)
    monkeypatch.setattr("clipkit.evaluation.report.collect.health._MAX_ROWS", 6)

    content = maps.embedding_map(pairs, CLASSES, Thumbnails(data, {}, 20), seed=1)
    again = maps.embedding_map(pairs, CLASSES, Thumbnails(data, {}, 20), seed=1)
    health = measure_health(pairs, seed=1)

    assert content == again
    assert content is not None
    assert len(content.captions) == 5
    assert content.note.startswith("5 of 12 images, selected at random (seed 1).")
    assert "measured on 6 of 12" in health.measures[0].note


def test_health_without_captions_needs_images_alone(encoder, data):
    images = embed_pairs(encoder, data, EmbedOptions(), captions=False)

    health = measure_health(images, seed=0)

    assert [fact.name for fact in health.measures] == [
        "Effective rank of images",
        "Uniformity of images",
    ]
    assert (health.similarity, health.clouds) == (None, None)


def test_a_report_reads_every_image_once(encoder, data, tmp_path, monkeypatch):
    passes = []
    embed = encoder.encode_image
    monkeypatch.setattr(
        encoder,
        "encode_image",
        lambda images, *rest: passes.append(len(images)) or embed(images, *rest),
    )
    # explanations read changed copies of a few images
    monkeypatch.setattr(evaluated, "explained_pairs", lambda *arguments: [])
    folder = tmp_path / "set"
    write_layout(folder, (7, 5))
    evaluators = {
        "zero-shot": ZeroShotClassification(str(folder)),
        "retrieval": Retrieval(str(folder)),
    }

    metrics = evaluate_with_report(encoder, evaluators, tmp_path / "out", title="Once")

    assert sum(passes) == NUM
    assert list(metrics) == ["zero-shot", "retrieval"]
    assert metrics["retrieval"] == Retrieval(data).run(encoder)


def test_results_are_remembered_within_a_block_only(encoder, data):
    options = EmbedOptions()
    with remembering():
        first = embed_pairs(encoder, data, options)
        assert embed_pairs(encoder, data, options) is first
        images_only = embed_pairs(encoder, data, options, captions=False)
        assert images_only.images is first.images
        assert (len(images_only.texts), images_only.captions) == (0, ())
        assert embed_pairs(encoder, data, EmbedOptions(limit=3)) is not first
        assert recall("key", None, lambda: [1]) is recall("key", None, lambda: [2])

    assert embed_pairs(encoder, data, options) is not first
    assert not is_remembered("key")


def test_a_collapsed_model_is_drawn(data, pairs):
    same = F.normalize(torch.ones_like(pairs.images), dim=-1)
    texts = F.normalize(torch.ones_like(pairs.texts), dim=-1)
    collapsed = type(pairs)(
        same, texts, pairs.text_to_image, pairs.labels, pairs.keys, pairs.captions
    )

    content = maps.embedding_map(collapsed, CLASSES, Thumbnails(data, {}, 20), seed=0)
    health = measure_health(collapsed, seed=0)

    assert content is not None
    assert np.isfinite(content.projections[0].positions).all()
    assert health.clouds is not None
    assert all(
        curve.points[0][1] == 0
        for curve in recall_curves(match_candidates(collapsed, RetrievalOptions()))
    )


def test_a_label_head_alone_shows_its_images(tmp_path):
    write_shards(tmp_path, (9,))
    measured = measure(
        tiny.encoder(labels=True).eval(), {"label-head": LabelHeadClassification(str(tmp_path))}
    )

    examples = measured.examples()
    result = merged_result("A", measured, "note")

    (classifier,) = examples.classifiers
    assert len(classifier.hits) + len(classifier.errors) == 9
    assert (examples.map, examples.recalls, examples.gallery.text_queries) == (None, (), ())
    assert result.metrics["top1"] == 0  # a collapsed model: ties are never won
    assert not any(key.startswith(("recall/", "f1/")) for key in result.metrics)


def test_further_positives_are_right_answers_in_the_gallery_too(data, encoder, tmp_path):
    path = tmp_path / "more.json"
    keys = [data.sample(row).key for row in range(NUM)]
    path.write_text(json.dumps({"text_to_image": {keys[0]: keys}}))
    evaluator = Retrieval(data, ks=(1,), correct=RetrievalOptions(positives=str(path)))

    measured = measure(encoder, {"retrieval": evaluator})
    examples = measured.examples()

    recalls = {curve.direction: curve.points[0][1] for curve in examples.recalls}
    metrics = measured.evaluations["retrieval"].metrics
    assert recalls["Text to image"] == pytest.approx(metrics["text_to_image/recall_at_1"])
    assert recalls["Image to text"] == pytest.approx(metrics["image_to_text/recall_at_1"])
    first = data.sample(0).captions[0]
    queries = [query for query in examples.gallery.text_queries if query.text == first]
    assert all(hit.is_match for query in queries for hit in query.hits)
    right = {query.image.caption: query for query in examples.gallery.image_queries}
    for query in right.values():
        assert all(hit.is_match for hit in query.hits if hit.caption == first)


def test_classes_of_images_that_have_several():
    rng = np.random.default_rng(0)
    scores = torch.tensor(rng.random((50, 3)))
    targets = torch.tensor(rng.integers(0, 2, (50, 3)))
    targets[:, 2] = 0
    keys = [str(row) for row in range(50)]
    outcomes = multi_label_outcomes(scores, targets, keys, NAMES[:3], scores > 0.4)
    metrics = outcome_metrics(outcomes)

    content = with_average_precisions(multi_label_content("x", outcomes), metrics)

    expected = precision_recall_fscore_support(targets[:, :2], scores[:, :2] > 0.4)
    for row, *values in zip(content.classes[:2], *expected, strict=False):
        assert [row.precision, row.recall, row.f1, row.support] == pytest.approx(values)
        assert row.average_precision == pytest.approx(metrics[f"average_precision/{row.name}"])
    assert (content.classes[2].support, content.classes[2].recall) == (0, None)
    assert content.classes[2].average_precision is None
    unpredicted = multi_label_outcomes(scores, targets, keys, NAMES[:3])
    table = class_table(
        with_average_precisions(multi_label_content("x", unpredicted), metrics).classes
    )
    assert [title for title, _, _ in table.columns] == ["AP"]
    assert (table.sorted_by, table.rows[-1].name) == ("AP", "cat")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_images_fill_a_page_without_nan(encoder, tmp_path, count):
    folder = str(write_layout(tmp_path / "set", (count,)))
    evaluators = {"retrieval": Retrieval(folder), "zero-shot": ZeroShotClassification(folder)}

    evaluate_with_report(encoder, evaluators, tmp_path / "out", title="Few")

    page = parse((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    assert not {"nan", "inf", "None"} & set(" ".join(page.text).split())
    assert ("map" in page.ids) == (count >= 3)


def test_the_previous_spelling_of_a_confusion_matrix_names_the_new_one():
    with pytest.raises(ConfigError, match=r"confusion is now called classifiers=\[Classifier"):
        Examples(confusion=None)  # type: ignore[call-arg]


@pytest.mark.parametrize(("orientation", "size", "corner"), [(1, (40, 20), 0), (6, (20, 40), 1)])
def test_thumbnails_are_upright(orientation, size, corner):
    pixels = np.full((80, 160, 3), 255, dtype=np.uint8)
    pixels[:40, :40] = 0  # upper left as stored; upper right after a quarter turn
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(out, "JPEG", exif=exif.tobytes())
    small = reduced(out.getvalue(), 40)
    assert small.size == size
    corners = [small.getpixel((2, 2)), small.getpixel((size[0] - 3, 2))]
    assert [sum(each) < 100 for each in corners] == [corner == 0, corner == 1]
    assert Image.open(io.BytesIO(thumbnail(out.getvalue(), 40))).size == size
