"""Queries of several parts, filters, records, and the model that a collection belongs to."""

import dataclasses

import numpy as np
import pytest

from clipkit.collection import Collection, read_info, write_info
from clipkit.errors import ClipkitError, ConfigError, DataError
from clipkit.evaluation.hashes import model_hash
from clipkit.search import QueryPart, RowFilter, Searcher
from clipkit.search.query_parts import combined
from tests.helpers import tiny
from tests.helpers.collections import unit_rows, write_collection
from tests.helpers.factories import image_bytes

COUNTS = (30, 20)


@pytest.fixture(scope="module")
def encoder():
    return tiny.encoder().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, encoder):
    path = tmp_path_factory.mktemp("collection")
    write_collection(path, counts=COUNTS, width=encoder.embedding_dim)
    write_info(dataclasses.replace(read_info(path), model_hash=model_hash(encoder)), path)
    return path


@pytest.fixture(scope="module")
def searcher(folder, encoder):
    return Searcher(folder, encoder)


def test_the_vector_of_a_query_is_the_weighted_sum_of_its_parts(searcher, encoder):
    image, row = image_bytes("red"), 7
    parts = [QueryPart(2.0, image=image), QueryPart(text="at night"), QueryPart(-0.5, row=row)]
    text = encoder.encode(["at night"]).texts[0].numpy()
    stored = searcher.collection.images(np.array([row]))[0].astype(np.float64)
    embedded = searcher.encoder.image(image)
    expected = 2.0 * embedded + text - 0.5 * stored / np.linalg.norm(stored)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(searcher.query_vector(parts), expected, atol=1e-6)


def test_the_embedding_of_an_image_file_is_that_of_the_model(searcher, encoder, tmp_path):
    (tmp_path / "red.png").write_bytes(image_bytes("red"))
    expected = encoder.encode(images=[tmp_path / "red.png"]).images[0]
    found = searcher.encoder.image(image_bytes("red"))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_hits_are_ordered_and_leave_out_rows_of_the_query(searcher):
    result = searcher.search([QueryPart(row=3)], num_results=100)
    assert result.num_candidates == len(result.hits) == sum(COUNTS) - 1
    assert 3 not in [hit.row for hit in result.hits]
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    assert searcher.search([QueryPart(row=3)], num_results=5, offset=4).hits == result.hits[4:9]
    least = scores[10]
    assert (
        searcher.search([QueryPart(row=3)], num_results=100, min_score=least).hits
        == (result.hits[:11])
    )


@pytest.mark.parametrize(
    ("conditions", "passed"),
    [
        (["width_pixels>=84"], lambda row, _: row >= 20),
        (["width_pixels < 70", "label=1"], lambda row, _: row < 6 and row % 2),
        (["label=blue"], lambda row, _: row % 2),
        (["label!=blue"], lambda row, _: not row % 2),
        (["captions~00001-1"], lambda row, shard: shard == 1 and (row == 1 or row >= 10)),
        (["captions!~CAPTION"], lambda row, shard: False),
        (["captions=00000-4 caption 1"], lambda row, shard: shard == 0 and row == 4),
        (["key=00001-3"], lambda row, shard: shard == 1 and row == 3),
        (["key>=00001-9"], lambda row, shard: shard == 1 and row == 9),
        (["error=x"], lambda row, shard: False),
    ],
)
def test_filters_pass_the_rows_that_they_describe(searcher, conditions, passed):
    filters = [RowFilter.parse(text) for text in conditions]
    expected = [
        start + row
        for shard, (start, count) in enumerate(zip((0, 30), COUNTS, strict=True))
        for row in range(count)
        if passed(row, shard)
    ]
    assert np.flatnonzero(searcher.masks.mask(filters)).tolist() == expected
    found = searcher.search([QueryPart(text="a dog")], filters, num_results=100)
    assert sorted(hit.row for hit in found.hits) == expected
    assert found.num_candidates == len(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width_pixels", "expected COLUMN, one of"),
        (">=3", "expected COLUMN, one of"),
        ("captions~", "expected a value after '~'"),
        ("widht_pixels>3", "did you mean 'width_pixels'"),
        ("width_pixels>big", "expected a number, got 'big'"),
        ("width_pixels~3", "'~' is for texts"),
        ("label=bleu", "did you mean 'blue'"),
        ("label<blue", "expected the number of a class"),
        ("image_sha256=ab", "columns of type fixed_size_binary"),
        ("width_pixels>nan", "expected a number"),
        (f"width_pixels<{10**30}", "expected a number"),
    ],
)
def test_bad_filters_are_refused(searcher, text, message):
    with pytest.raises(ConfigError, match=message):
        searcher.search([QueryPart(row=0)], [RowFilter.parse(text)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QueryPart(), "expected one of text, image, row and sound, got none"),
        (lambda: QueryPart(text="a", row=1), "got text and row"),
        (lambda: QueryPart(0.0, text="a"), "finite number other than 0"),
        (lambda: QueryPart(float("nan"), text="a"), "finite number other than 0"),
        (lambda: combined(unit_rows(1, 4, 0).repeat(2, 0), [1.0, -1.0]), "cancel each other"),
        (lambda: combined(np.full((1, 4), np.nan, np.float32), [1.0]), "part 1 of the query"),
    ],
)
def test_bad_parts_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": []}, "expected 1 to 64 parts, got 0"),
        ({"parts": [QueryPart(row=50)]}, "row 50: expected 0 to 49"),
        ({"parts": [QueryPart(image=b"no image")]}, "not an image of a known format"),
        ({"num_results": 0}, "num_results, offset"),
        ({"offset": -1}, "num_results, offset"),
        ({"num_results": 10**9}, "at most 100,000"),
        ({"min_score": float("nan")}, "min_score: expected a cosine similarity"),
    ],
)
def test_bad_searches_are_refused(searcher, arguments, message):
    with pytest.raises((ConfigError, DataError), match=message):
        searcher.search(**{"parts": [QueryPart(row=0)], **arguments})


def test_the_sizes_of_weights_do_not_matter_for_one_part():
    vector = unit_rows(1, 16, 3).astype(np.float32)
    np.testing.assert_array_equal(combined(vector, [1e-30]), combined(vector, [1e30]))


def test_another_model_of_the_same_name_is_refused(folder, encoder):
    import torch

    other = tiny.encoder().eval()
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    with pytest.raises(ConfigError, match="expected the model tiny that embedded the collection"):
        Searcher(folder, other)


def test_a_missing_model_is_named_when_it_is_needed(folder):
    searcher = Searcher(folder, model="nowhere.ckpt")
    assert searcher.search([QueryPart(row=0)], num_results=1).hits
    with pytest.raises(ClipkitError, match=r"nowhere\.ckpt.*--model"):
        searcher.search([QueryPart(text="a dog")])


def test_records_are_plain_values_in_the_order_of_the_rows(searcher):
    first, second = searcher.records([31, 2])
    assert first["row"] == 31
    assert first["key"] == "00001-1"
    assert first["class_name"] == "blue"
    assert second["captions"] == ["00000-2 caption 0", "00000-2 caption 1"]
    assert searcher.records([2], ["image_sha256"]) == [
        {"row": 2, "image_sha256": (bytes([0, 2]) * 16).hex()}
    ]
    with pytest.raises(DataError, match="row 50"):
        searcher.records([50])
    assert Collection(searcher.collection.folder).locate(31) == (1, 1)
