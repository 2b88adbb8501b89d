"""The facts of the data page against loops, and what hostile data do to it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from clipkit.collection import Collection, CollectionImages
from clipkit.curation.overview import data_page, describe_data
from clipkit.curation.overview.pair_facts import pair_facts, scores_by_shard
from tests.helpers.collections import set_column, set_errors, write_collection
from tests.helpers.embedded_shards import embed_shards
from tests.helpers.factories import pair, write_shard, write_shards


def loop_pairs(collection):
    """Score, row and number of each caption, and its scores with all images."""
    images = collection.images(np.arange(len(collection))).astype(np.float64)
    found = []
    for start, files in zip(collection.starts, collection.shards, strict=False):
        starts, texts = files.text_starts(), files.texts().astype(np.float64)
        for row in range(len(starts) - 1):
            for at in range(starts[row], starts[row + 1]):
                scores = images @ texts[at]
                found.append((scores[start + row], int(start + row), at - starts[row], scores))
    return found


def test_the_lowest_pairs_are_those_of_a_loop(tmp_path):
    collection = Collection(write_collection(tmp_path, counts=(30, 20), captions_per_image=3))
    facts = pair_facts(collection, scores_by_shard(collection), num_mismatched=6)
    pairs = loop_pairs(collection)
    assert facts.num_pairs == 150
    lowest = {}
    for score, row, number, scores in sorted(pairs, key=lambda each: each[0]):
        lowest.setdefault(row, (score, number, scores))
    wanted = list(lowest.items())[:6]
    assert [(pair.row, pair.caption) for pair in facts.mismatched] == [
        (row, number) for row, (_, number, _) in wanted
    ]
    for found, (row, (score, _, scores)) in zip(facts.mismatched, wanted, strict=True):
        others = np.delete(scores, row)
        assert found.score == pytest.approx(score, abs=1e-6)
        assert found.num_better_images == (others > score).sum()
        assert found.best_score == pytest.approx(others.max(), abs=1e-6)
        assert scores[found.best_row] == others.max()
    assert facts.quantiles[4] == pytest.approx(np.median([score for score, *_ in pairs]), abs=1e-6)


def test_random_pairs_are_of_other_images(tmp_path):
    write_shards(tmp_path / "shards", (8, 8))
    collection = Collection(embed_shards(tmp_path / "shards", tmp_path / "embedded"))
    facts = pair_facts(collection, scores_by_shard(collection), num_mismatched=3)
    assert facts.quantiles[0] > 0.9
    assert facts.random_quantiles[4] < 0.5
    assert facts.share_below_random == 0
    assert sum(facts.histogram.matching) == pytest.approx(1)
    assert sum(facts.histogram.other) == pytest.approx(1)
    assert len(facts.histogram.edges) == len(facts.histogram.other) + 1


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_share_of_mismatched_pairs_is_estimated(tmp_path, share):
    rng = np.random.default_rng(0)
    folder = write_collection(tmp_path, counts=(1000,), width=64, captions_per_image=1)
    images = np.load(folder / "00000.images.f16.npy").astype(np.float64)
    texts = images + 0.05 * rng.standard_normal(images.shape)
    wrong = rng.random(1000) < share
    texts[wrong] = texts[rng.permutation(1000)][wrong]
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    np.save(folder / "00000.texts.f16.npy", texts.astype(np.float16))
    collection = Collection(folder)
    facts = pair_facts(collection, scores_by_shard(collection), num_mismatched=3)
    assert facts.estimated_mismatched_share == pytest.approx(share, abs=0.05)


def test_one_image_has_no_random_pairs(tmp_path):
    collection = Collection(write_collection(tmp_path, counts=(1,)))
    assert pair_facts(collection, scores_by_shard(collection), 3) is None
    assert describe_data(collection).pairs is None


def test_a_collection_without_texts_has_clusters_only(tmp_path):
    collection = Collection(write_collection(tmp_path, counts=(9,), captions_per_image=0))
    facts = describe_data(collection, num_clusters=2)
    assert facts.pairs is None
    assert len(facts.clusters) == 2
    assert facts.clusters[0].mean_score is None
    assert facts.captions.num_samples_without == 9


@pytest.fixture
def described(tmp_path):
    samples = [(f"{number:06d}", pair(number)) for number in range(24)]
    samples.append(("copy", samples[0][1]))
    write_shard(tmp_path / "shards/00000.tar", samples[:13])
    write_shard(tmp_path / "shards/00001.tar", samples[13:])
    collection = Collection(embed_shards(tmp_path / "shards", tmp_path / "embedded", noise=0.2))
    return collection, describe_data(collection, num_clusters=4)


def test_clusters_are_the_classes(described):
    collection, facts = described
    labels = collection.table(["label"]).column("label").to_pylist()
    assert sorted(cluster.size for cluster in facts.clusters) == sorted(Counter(labels).values())
    for cluster in facts.clusters:
        (name,) = [each.text for each in cluster.classes]
        assert cluster.classes[0].count == cluster.size
        assert {labels[row] for row in cluster.nearest + cluster.farthest} == {
            collection.info.class_names.index(name)
        }
        assert not set(cluster.nearest) & set(cluster.farthest)
        assert 0 < cluster.least_similarity <= cluster.mean_similarity <= 1
        assert cluster.mean_score > 0.5


def test_equal_files_are_one_group(described):
    _, facts = described
    files, appearance, _ = facts.duplicates
    assert (files.kind, files.num_groups, files.num_copies) == ("file", 1, 1)
    assert set(files.largest[0].rows) == {0, 24}
    assert facts.samples[24].key == "copy"
    assert all(24 not in group.rows or 0 not in group.rows for group in appearance.largest)


def test_json_names_samples_by_row_and_key(described):
    _, facts = described
    content = facts.as_json()
    assert {"row": 24, "key": "copy"} in content["duplicates"][0]["largest"][0]["samples"]
    lowest = content["pairs"]["mismatched"][0]
    assert set(lowest) >= {"sample", "best_sample", "caption", "score", "num_better_images"}
    assert lowest["caption"].endswith(f"number {int(lowest['sample']['key'])}")
    assert list(content["pairs"]["quantiles"]) == [
        "0", "0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99", "1",
    ]  # fmt: skip
    assert "samples" not in content


def test_the_page_has_the_images_of_all_samples_that_it_names(described, tmp_path):
    collection, facts = described
    calls = []
    page = data_page(facts, CollectionImages(collection), lambda *counts: calls.append(counts))
    assert calls[-1] == (len(facts.samples), len(facts.samples))
    assert all(image.data[:4] == b"RIFF" for card in page.clusters for image in card.nearest)
    assert [panel.title for panel in page.duplicates] == [
        "Equal files", "Equal appearance", "Similar embeddings",
    ]  # fmt: skip
    assert page.mismatched[0].image.caption.startswith("a ")


def test_an_image_that_cannot_be_read_is_a_cross(described):
    collection, facts = described
    set_column(collection.folder, "00000", "image_offset_bytes", [None] * 13)
    page = data_page(facts, CollectionImages(Collection(collection.folder)))
    shown = [image for card in page.clusters for image in card.nearest]
    assert {image.media_type for image in shown} == {"image/svg+xml", "image/webp"}
    assert "images of this page cannot be read" in page.facts[2].note


def test_rows_without_an_embedding_are_counted_and_not_shown(tmp_path):
    folder = write_collection(tmp_path, counts=(20, 10))
    set_errors(folder, "00001", {0, 1})
    images = np.load(folder / "00000.images.f16.npy")
    images[5] = np.nan
    np.save(folder / "00000.images.f16.npy", images)
    facts = describe_data(Collection(folder), num_clusters=3)
    assert facts.num_without_embedding == 3
    shown = {row for each in facts.clusters for row in each.nearest + each.farthest}
    assert not shown & {5, 20, 21}
    assert not {pair.row for pair in facts.pairs.mismatched} & {5, 20, 21}
