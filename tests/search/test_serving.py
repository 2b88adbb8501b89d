"""Every route of the search server, against the files of the collection."""

import io
import threading

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from clipkit.collection import Collection, ShardFiles
from clipkit.errors import DataError
from clipkit.models import load_model
from clipkit.search import QueryPart, RowFilter, Searcher
from clipkit.search.serving import create_app
from tests.helpers.factories import COLORS, image_bytes

NUM_IMAGES = 23


@pytest.fixture(scope="module")
def searcher(served):
    return Searcher(served)


@pytest.fixture(scope="module")
def upload(client):
    return client.post("/api/uploads", content=image_bytes("red")).json()["upload"]


def search(client, parts, **more):
    answer = client.post("/api/search", json={"parts": parts, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_status_describes_the_collection(client):
    status = client.get("/api/status").json()
    assert (status["state"], status["progress"], status["num_images"]) == ("ready", 1, NUM_IMAGES)
    assert (status["class_names"], status["num_classes"]) == (list(COLORS), len(COLORS))
    assert status["engine"] == "exact"
    assert {"name": "json:color", "type": "string"} in status["columns"]
    assert not {"image_sha256", "image_offset_bytes"} & {c["name"] for c in status["columns"]}


def test_results_are_those_of_the_searcher(client, searcher):
    parts = [{"weight": 2.0, "text": "red"}, {"weight": -0.5, "row": 3}]
    wanted = {"num_results": 5, "offset": 2, "min_score": -0.9}
    filters = [{"column": "label", "operator": "!=", "value": "blue"}]
    found = search(client, parts, filters=filters, **wanted)
    expected = searcher.search(
        [QueryPart(2.0, text="red"), QueryPart(-0.5, row=3)],
        [RowFilter("label", "!=", "blue")],
        **wanted,
    )
    assert [hit["row"] for hit in found["results"]] == [hit.row for hit in expected.hits]
    scores = [hit["score"] for hit in found["results"]]
    np.testing.assert_allclose(scores, [hit.score for hit in expected.hits], atol=1e-6)
    assert found["num_candidates"] == expected.num_candidates


def test_a_result_has_what_the_page_shows(client):
    hit = search(client, [{"row": 0}], num_results=1)["results"][0]
    row = hit["row"]
    assert hit["key"] == f"{row:06d}"
    assert hit["caption"] == f"a {list(COLORS)[row % 4]} square number {row}"
    assert (hit["label"], hit["class_name"]) == (row % 4, list(COLORS)[row % 4])
    assert (hit["width_pixels"], hit["height_pixels"]) == (40, 32)


def test_numbers_are_values_of_filters_too(client):
    filters = [{"column": "json:number", "operator": "<", "value": 4}]
    found = search(client, [{"text": "a"}], filters=filters)
    assert sorted(hit["row"] for hit in found["results"]) == [0, 1, 2, 3]
    assert found["num_candidates"] == 4


def test_an_uploaded_image_is_embedded_as_the_model_embeds_it(client, served, upload):
    encoder = load_model(served.parent / "model", "cpu").encoder
    with Image.open(io.BytesIO(image_bytes("red"))) as image:
        query = encoder.encode(images=[image]).images[0].numpy()
    images = np.concatenate([rows for _, rows in Collection(served).image_tiles()])
    expected = images.astype(np.float32) @ query
    found = search(client, [{"upload": upload}], num_results=NUM_IMAGES)
    for hit in found["results"]:
        assert hit["score"] == pytest.approx(expected[hit["row"]], abs=1e-5)
    assert found["results"][0]["class_name"] == "red"


def test_an_upload_has_its_upright_size_and_one_name(client):
    out = io.BytesIO()
    turned = Image.new("RGB", (40, 20), "red")
    turned.save(out, "JPEG", exif=_exif(orientation=6))
    answers = [client.post("/api/uploads", content=out.getvalue()).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert (answers[0]["width_pixels"], answers[0]["height_pixels"]) == (20, 40)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_all_types_of_images_are_accepted(client, kind):
    assert client.post("/api/uploads", content=image_bytes(format=kind)).status_code == 200


def test_the_name_of_an_upload_is_no_hash_of_its_bytes_alone(start):
    names = {start().post("/api/uploads", content=image_bytes()).json()["upload"] for _ in range(2)}
    assert len(names) == 2


def test_labels_are_scored_as_zero_shot_classification_does(client, served):
    from clipkit.evaluation import GENERIC_TEMPLATES, class_embeddings, tokenizer_of

    encoder = load_model(served.parent / "model", "cpu").encoder
    classes = class_embeddings(
        encoder, list(COLORS), GENERIC_TEMPLATES, tokenizer_of(encoder)
    ).numpy()
    image = Collection(served).images(np.array([5]))[0].astype(np.float32)
    similarities = dict(zip(COLORS, (classes @ image).tolist(), strict=True))
    logits = float(encoder.logit_scale.detach()) * np.array(list(similarities.values()))
    scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    for labels in (None, list(COLORS)):
        found = client.post("/api/labels", json={"row": 5, "labels": labels}).json()["labels"]
        sorted_scores = [label["score"] for label in found]
        np.testing.assert_allclose(sorted_scores, sorted(scores, reverse=True), atol=1e-4)
        for label in found:
            assert label["similarity"] == pytest.approx(similarities[label["name"]], abs=1e-5)


def test_labels_of_an_upload(client, upload):
    found = client.post("/api/labels", json={"upload": upload, "labels": ["a", "b", "a"]}).json()
    assert sorted(label["name"] for label in found["labels"]) == ["a", "b"]
    assert sum(label["score"] for label in found["labels"]) == pytest.approx(1)


def test_an_image_with_all_its_columns(client):
    image = client.get("/api/images/10").json()
    assert image["captions"] == ["a blue square number 10"]
    assert image["columns"] == {"json:color": "blue", "json:number": 10}
    assert (image["shard"], image["error"], image["class_name"]) == ("00001", None, "blue")


def test_the_file_of_an_image_is_that_of_the_shard(client):
    answer = client.get("/api/images/10/file")
    assert answer.content == image_bytes("blue", seed=10)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"] == 'inline; filename="10.jpg"'
    assert "sandbox" in answer.headers["content-security-policy"]
    again = client.get("/api/images/10/file", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_thumbnail_is_small_and_cached(client):
    answer = client.get("/api/images/10/thumbnail?size_pixels=20")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("JPEG", (40, 32))  # never enlarged
    assert answer.headers["cache-control"] == "private, no-cache"
    tag = {"If-None-Match": answer.headers["etag"]}
    assert client.get("/api/images/10/thumbnail?size_pixels=64", headers=tag).status_code == 304
    assert client.get("/api/images/10/thumbnail?size_pixels=65", headers=tag).status_code == 200


def test_columns_have_values_or_a_range(client):
    label = client.get("/api/columns/label").json()
    assert label["values"][0] == {"value": 0, "count": 6}
    assert sum(value["count"] for value in label["values"]) == NUM_IMAGES
    number = client.get("/api/columns/json%3Anumber").json()
    assert (number["values"], number["minimum"], number["maximum"]) == (None, 0, 22)
    error = client.get("/api/columns/error").json()
    assert (error["num_missing"], error["values"]) == (NUM_IMAGES, [])


def test_the_map_places_images(client):
    points = client.get("/api/map?num_points=10").json()["points"]
    assert len(points) == 10
    for x, y, row, label in points:
        assert -1 <= x <= 1
        assert -1 <= y <= 1
        assert label == row % 4


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "part"),
    [
        ("GET", "/api/images/23", None, 404, "row: expected 0 to 22, got 23"),
        ("GET", "/api/images/23/file", None, 404, "got 23"),
        ("GET", "/api/images/23/thumbnail", None, 404, "got 23"),
        ("GET", "/api/images/-1", None, 422, "row"),
        ("GET", "/api/images/x", None, 422, "row"),
        ("GET", "/api/images/..%2f..%2fetc%2fpasswd", None, 404, "Not Found"),
        ("GET", "/api/images/1/thumbnail?size_pixels=99999", None, 422, "size_pixels"),
        ("GET", "/api/columns/image_sha256", None, 404, "column: expected one of key"),
        ("GET", "/api/map?num_points=0", None, 422, "num_points"),
        ("GET", "/api/search", None, 405, "Method Not Allowed"),
        ("GET", "/static/../serving.py", None, 404, ""),
        ("GET", "/static/index.html", None, 404, "no such file"),
        ("POST", "/api/uploads", b"<svg></svg>", 415, "image: expected a file of type JPEG"),
        ("POST", "/api/uploads", b"", 415, "an empty body"),
        ("POST", "/api/uploads", image_bytes()[:300], 422, "image"),
        ("POST", "/api/search", {}, 422, "body.parts: Field required"),
        ("POST", "/api/search", {"parts": []}, 422, "body.parts"),
        ("POST", "/api/search", {"parts": [{"text": ""}]}, 422, "text"),
        ("POST", "/api/search", {"parts": [{"text": "\0" * 2001}]}, 422, "text"),
        ("POST", "/api/search", {"parts": [{"text": "a"}] * 17}, 422, "parts"),
        ("POST", "/api/search", {"parts": [{"row": 23}]}, 404, "got 23"),
        ("POST", "/api/search", {"parts": [{"row": 1.5}]}, 422, "row"),
        ("POST", "/api/search", {"parts": [{"row": 1, "text": "a"}]}, 422, "text"),
        ("POST", "/api/search", {"parts": [{"text": "a", "weight": 0}]}, 422, "weight"),
        ("POST", "/api/search", {"parts": [{"text": "a", "weight": 1e9}]}, 422, "weight"),
        ("POST", "/api/search", {"parts": [{"upload": "0" * 32}]}, 404, "upload"),
        ("POST", "/api/search", {"parts": [{"upload": "../a"}]}, 422, "upload"),
        ("POST", "/api/search", {"parts": [{"text": "a"}], "num_results": 1001}, 422, "1000"),
        ("POST", "/api/search", {"parts": [{"text": "a"}], "offset": 10**6}, 422, "offset"),
        ("POST", "/api/search", {"parts": [{"text": "a"}], "more": 1}, 422, "more"),
        ("POST", "/api/search", b'{"parts": [{"text": "a", "weight": NaN}]}', 422, "finite"),
        ("POST", "/api/search", b'{"parts": [{"text": "a", "weight": 1e999}]}', 422, "finite"),
        ("POST", "/api/search", b'{"parts": [{"row": %s}]}' % (b"9" * 99), 422, "row"),
        ("POST", "/api/search", b'{"parts": [{"row": %s}]}' % (b"9" * 9999), 400, "parsing"),
        ("POST", "/api/search", b'{"parts": [{"text": true}]}', 422, "text"),
        ("POST", "/api/search", b'{"parts": [{"row": true}]}', 422, "row"),
        ("POST", "/api/search", b'{"parts": [{"row": "1"}]}', 422, "row"),
        ("POST", "/api/search", b"{", 422, "JSON decode error"),
        ("POST", "/api/search", b"\xff", 400, "parsing the body"),
        ("POST", "/api/search", b"[" * 100_000, 400, "parsing the body"),
        ("POST", "/api/search", b'{"parts": [{"text": "\\ud800"}]}', 422, "text"),
        ("POST", "/api/labels", {"row": 1, "labels": []}, 422, "labels"),
        ("POST", "/api/labels", {"row": 1, "labels": ["a"] * 101}, 422, "labels"),
        ("POST", "/api/labels", {"labels": ["a"]}, 422, "upload"),
        ("POST", "/api/labels", {"upload": "0" * 32}, 404, "upload"),
    ],
)
def test_wrong_requests_get_one_line(client, method, path, content, status, part):
    body = {"json": content} if isinstance(content, dict) else {"content": content}
    headers = {"Content-Type": "application/json"} if method == "POST" else {}
    answer = client.request(method, path, headers=headers, **body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert part in error
    assert "\n" not in error
    assert len(error) <= 400


@pytest.mark.parametrize(
    ("condition", "part"),
    [
        ({"column": "nope", "operator": "=", "value": 1}, "has no column 'nope'"),
        ({"column": "width_pixels", "operator": "~", "value": "1"}, "is for texts"),
        ({"column": "width_pixels", "operator": "<", "value": "many"}, "expected a number"),
        ({"column": "label", "operator": "=", "value": "gren"}, "green"),
        ({"column": "image_sha256", "operator": "=", "value": "a"}, "cannot be filtered"),
        ({"column": "key", "operator": "like", "value": "a"}, "operator"),
        ({"column": "key", "operator": "=", "value": None}, "value"),
        ({"column": "key", "operator": "~", "value": ""}, "expected a value"),
    ],
)
def test_wrong_filters_get_one_line(client, condition, part):
    answer = client.post("/api/search", json={"parts": [{"text": "a"}], "filters": [condition]})
    assert answer.status_code == 422
    assert part in answer.json()["error"]


def test_parts_that_cancel_each_other_are_refused(client):
    parts = [{"row": 1, "weight": 1.0}, {"row": 1, "weight": -1.0}]
    answer = client.post("/api/search", json={"parts": parts})
    assert answer.status_code == 422
    assert "cancel each other" in answer.json()["error"]


def test_json_needs_its_content_type(client):
    text = client.post("/api/search", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (text.status_code, text.json()["error"]) == (
        415,
        "Content-Type: expected application/json",
    )


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_a_damaged_table_is_no_fault_of_the_request(start, monkeypatch):
    def damaged(self, *_):
        raise DataError("00000.parquet: cannot be read")

    client = start()
    monkeypatch.setattr(ShardFiles, "table", damaged)
    monkeypatch.setattr(ShardFiles, "rows", damaged)
    for path in ("/api/images/0", "/api/columns/key"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert answer.json() == {"error": "00000.parquet: cannot be read"}


def test_while_the_collection_is_loaded_only_page_and_status_answer(served):
    release, reported = threading.Event(), threading.Event()

    def load(report):
        report(0.25, "reading the embeddings")
        reported.set()
        assert release.wait(30)
        raise DataError("00000.images.f16.npy: cannot be read;\nembed the shard again")

    with TestClient(create_app(served, None, load), "http://localhost") as client:
        assert reported.wait(30)
        status = client.get("/api/status").json()
        assert (status["state"], status["progress"]) == ("loading", 0.25)
        assert (status["message"], status["num_images"]) == ("reading the embeddings", NUM_IMAGES)
        assert client.get("/").status_code == 200
        for path in ("/api/images/0", "/api/images/0/file", "/api/columns/key", "/api/map"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert answer.json()["error"] == "loading (25%): reading the embeddings"
        release.set()
        while client.get("/api/status").json()["state"] == "loading":
            pass
        status = client.get("/api/status").json()
        assert status["state"] == "failed"
        expected = "00000.images.f16.npy: cannot be read; embed the shard again"
        assert status["message"] == expected
        assert client.get("/api/map").json()["error"] == f"loading failed: {expected}"


def test_other_errors_of_loading_are_shown_without_a_traceback(served):
    def load(_):
        raise RuntimeError("CUDA out of memory.\nTry again")

    with TestClient(create_app(served, None, load), "http://localhost") as client:
        while client.get("/api/status").json()["state"] == "loading":
            pass
        assert client.get("/api/status").json()["message"] == "RuntimeError: CUDA out of memory."
