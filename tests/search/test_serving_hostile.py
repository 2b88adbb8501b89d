"""Collections of strangers: files that are no images, captions that are markup, missing shards."""

import tarfile
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from fastapi.testclient import TestClient

from clipkit.collection import (
    Collection,
    CollectionImages,
    ShardRows,
    write_info,
    write_shard_files,
)
from clipkit.search import Searcher
from clipkit.search.records import read_records
from clipkit.search.serving import ServeOptions, create_app
from clipkit.search.serving.column_facts import column_names, describe_column
from clipkit.search.serving.service import Service
from tests.helpers import tiny
from tests.helpers.collections import unit_rows, write_collection
from tests.helpers.factories import image_bytes, write_shard

FILES = MappingProxyType(
    {
        "html": b"<html><script>alert(1)</script></html>",
        "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "text": b"text",
        "image": image_bytes("red"),
        "cut": image_bytes("red")[:200],
    }
)
CAPTION = "<img src=x onerror=alert(1)> \u202e\0 </script>"
KEY = '../../etc/passwd"\r\nSet-Cookie: a=b'


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    encoder = tiny.encoder().eval()
    folder = tmp_path_factory.mktemp("hostile")
    write_collection(folder, counts=(len(FILES), 1), width=encoder.embedding_dim)
    searcher = Searcher(folder, encoder)
    tar = write_shard(folder / "00000.tar", [(name, {"jpg": data}) for name, data in FILES.items()])
    with tarfile.open(tar) as file:
        places = [(member.offset_data, member.size) for member in file]
    count = len(FILES)
    columns = {
        "key": [KEY] * (count - 1) + ["k" * 3000],
        "captions": [[CAPTION]] * (count - 1) + [["c" * 3000, *["b"] * 2000]],
        "label": [10**12] * count,
        "image_type": ["html"] * count, "image_offset_bytes": [place[0] for place in places],
        "image_size_bytes": [place[1] for place in places], "width_pixels": [-1] * count,
        "height_pixels": [None] * count, "image_sha256": [None] * count,
        "image_signature": [None] * count, "error": [None] * count,
    }  # fmt: skip
    rows = ShardRows(unit_rows(count, encoder.embedding_dim, 3), None, columns)
    write_shard_files(rows, folder, "00000")
    write_info(searcher.collection.info, folder)
    options = ServeOptions()

    def load(_):
        again = Searcher(folder, encoder)
        return Service(again, CollectionImages(again.collection).read, options.limits)

    with TestClient(create_app(folder, options, load), "http://localhost") as client:
        while client.get("/api/status").json()["state"] == "loading":
            pass
        yield client


@pytest.mark.parametrize("name", ["html", "svg", "text"])
def test_files_that_could_hold_scripts_are_not_served(client, name):
    row = list(FILES).index(name)
    for path in ("file", "thumbnail"):
        answer = client.get(f"/api/images/{row}/{path}")
        assert answer.status_code == 415
        assert answer.headers["content-type"] == "application/json"


def test_an_image_is_served_under_its_number(client):
    row = list(FILES).index("image")
    answer = client.get(f"/api/images/{row}/file")
    assert answer.content == FILES["image"]
    assert answer.headers["content-disposition"] == f'inline; filename="{row}.jpg"'
    assert "set-cookie" not in answer.headers


def test_a_truncated_image_is_served_but_has_no_thumbnail(client):
    row = list(FILES).index("cut")
    assert client.get(f"/api/images/{row}/file").content == FILES["cut"]
    assert client.get(f"/api/images/{row}/thumbnail").status_code == 415


def test_texts_of_strangers_are_json_and_nothing_else(client):
    query = {"parts": [{"row": 3}], "num_results": 10}
    answer = client.post("/api/search", json=query)
    assert answer.headers["content-type"] == "application/json"
    hit = next(hit for hit in answer.json()["results"] if hit["row"] == 0)
    assert (hit["key"], hit["caption"], hit["class_name"]) == (KEY, CAPTION, None)
    assert hit["label"] == 10**12
    assert client.get("/api/images/0").json()["captions"] == [CAPTION]
    values = client.get("/api/columns/key").json()["values"]
    assert values[0] == {"value": KEY, "count": len(FILES) - 1}


def test_long_texts_are_cut(client):
    query = {"parts": [{"row": 3}], "num_results": 10}
    hits = {hit["row"]: hit for hit in client.post("/api/search", json=query).json()["results"]}
    row = list(FILES).index("cut")
    assert hits[row]["caption"] == "c" * 1999 + "…"
    assert hits[row]["key"] == "k" * 1999 + "…"
    answer = client.get(f"/api/images/{row}").json()
    assert answer["captions"] == ["c" * 1999 + "…", *["b"] * 999]
    assert answer["key"] == "k" * 1999 + "…"


@pytest.mark.parametrize("path", ["file", "thumbnail"])
def test_a_missing_shard_is_one_line(client, path):
    answer = client.get(f"/api/images/{len(FILES)}/{path}")
    assert answer.status_code == 404
    assert "cannot be read" in answer.json()["error"]


def test_similarities_are_finite(client):
    found = client.post("/api/labels", json={"row": 0, "labels": ["a", CAPTION.replace("\0", "")]})
    assert np.isfinite([label["score"] for label in found.json()["labels"]]).all()


def test_a_collection_without_images(tmp_path):
    encoder = tiny.encoder().eval()
    write_collection(tmp_path, counts=(0,), width=encoder.embedding_dim)

    def load(_):
        searcher = Searcher(tmp_path, encoder)
        return Service(searcher, CollectionImages(searcher.collection).read, ServeOptions().limits)

    with TestClient(create_app(tmp_path, None, load), "http://localhost") as client:
        while client.get("/api/status").json()["state"] == "loading":
            pass
        found = client.post("/api/search", json={"parts": [{"text": "a"}]}).json()
        assert (found["results"], found["num_candidates"]) == ([], 0)
        assert client.get("/api/map").json() == {"points": []}
        assert client.get("/api/images/0").status_code == 404
        assert client.get("/api/columns/label").json()["values"] == []


def test_numbers_that_json_has_not_are_missing(tmp_path):
    folder = write_collection(tmp_path, counts=(4, 2))
    info = replace(Collection(folder).info, columns=("json:x",), column_types={"json:x": "double"})
    write_info(info, folder)
    for files, values in (
        (Collection(folder).shards[0], [float("nan"), float("inf"), 2.5, None]),
        (Collection(folder).shards[1], [float("-inf"), float("nan")]),
    ):
        columns = {**files.table().to_pydict(), "json:x": values}
        write_shard_files(
            ShardRows(np.array(files.images()), None, columns), folder, files.shard.name
        )
    collection = Collection(folder)
    found = [record["json:x"] for record in read_records(collection, range(6), ["json:x"])]
    assert found == [None, None, 2.5, None, None, None]
    (column,) = [each for each in column_names(collection) if each.name == "json:x"]
    facts = describe_column(collection, column)
    assert (facts.minimum, facts.maximum, facts.num_missing) == (2.5, 2.5, 1)
