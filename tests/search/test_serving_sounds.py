"""The server of a collection with sounds: uploads, searches for sounds, files."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient

from clipkit.search import QueryPart, Searcher
from clipkit.search.serving import Limits, ServeOptions, create_app
from clipkit.search.serving.load_service import load_service
from tests.helpers.sound_collections import encoder, members, write_served
from tests.helpers.sounds import encoded, tone

EMBEDDED = [0, 2, 3, 5, 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_served(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def client(folder):
    options = ServeOptions(limits=Limits(upload_seconds=30))
    app = create_app(
        folder, options, load=lambda report: load_service(folder, options, report, encoder())
    )
    with TestClient(app, "http://localhost:8000") as started:
        while app.state.loading.status().state == "loading":
            time.sleep(0.01)
        yield started


def search(client, **query):
    answer = client.post("/api/search", json=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_sounds_are_uploaded_and_found(client, folder):
    assert client.get("/api/status").json()["modalities"] == ["image", "sound"]
    upload = client.post("/api/uploads", content=members(3)["flac"]).json()
    assert (upload["width_pixels"], upload["seconds"]) == (None, 1.5)
    parts = [{"upload": upload["upload"]}]
    found = search(client, parts=parts, modality="sound")
    assert (found["results"][0]["row"], found["num_candidates"]) == (3, len(EMBEDDED))
    assert [hit["has_sound"] for hit in found["results"]] == [True] * len(EMBEDDED)
    assert [h["row"] for h in found["results"] if not h["has_image"]] == [2]
    searcher = Searcher(folder, encoder())
    expected = searcher.search([QueryPart(sound=members(3)["flac"])]).hits
    images = search(client, parts=parts)
    assert [hit["row"] for hit in images["results"]] == [hit.row for hit in expected]
    labels = client.post("/api/labels", json={"upload": upload["upload"], "labels": ["dog", "cat"]})
    assert len(labels.json()["labels"]) == 2


def test_texts_images_and_rows_find_sounds(client):
    for part in ({"text": "a bell"}, {"row": 3}):
        found = search(client, parts=[part], modality="sound")
        rows = {hit["row"] for hit in found["results"]}
        assert rows == set(EMBEDDED) - ({3} if "row" in part else set())
    without = client.post("/api/search", json={"parts": [{"row": 1}], "modality": "sound"})
    assert (without.status_code, "expected one with an embedding" in without.text) == (422, True)
    other = client.post("/api/search", json={"parts": [{"row": 1}], "modality": "smell"})
    assert "expected one of image, sound, got 'smell'" in other.json()["error"]
    filters = [{"column": "sound_type", "operator": "=", "value": "flac"}]
    found = search(client, parts=[{"text": "a"}], modality="sound", filters=filters)
    assert {hit["row"] for hit in found["results"]} == {0, 3}


def test_files_of_sounds_are_served(client):
    answer = client.get("/api/images/3/sound")
    assert (answer.status_code, answer.content) == (200, members(3)["flac"])
    assert answer.headers["content-type"] == "audio/flac"
    assert "sandbox" in answer.headers["content-security-policy"]
    tag = {"If-None-Match": answer.headers["etag"]}
    assert client.get("/api/images/3/sound", headers=tag).status_code == 304
    assert client.get("/api/images/5/sound").headers["content-type"] == "audio/wav"
    assert client.get("/api/images/1/sound").status_code == 404
    assert client.get("/api/images/99/sound").status_code == 404
    assert client.get("/api/images/4/sound").status_code == 415  # its bytes are no sound
    record = client.get("/api/images/2").json()
    assert (record["has_image"], record["has_sound"]) == (False, True)


def part_of(client, wanted, **headers):
    return client.get("/api/images/3/sound", headers={"Range": wanted, **headers})


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [("bytes=0-", 0, None), ("bytes=0-3", 0, 4), ("bytes=500-999", 500, 1000),
     ("bytes=-700", -700, None), ("bytes=900-99999999", 900, None)],
)  # fmt: skip
def test_a_player_that_seeks_gets_the_part_it_asks_for(client, wanted, start, end):
    content = members(3)["flac"]
    answer = part_of(client, wanted)
    assert (answer.status_code, answer.content) == (206, content[start:end])
    assert answer.headers["content-type"] == "audio/flac"
    first = start % len(content)
    last = first + len(answer.content) - 1
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(content)}"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "sandbox" in answer.headers["content-security-policy"]


def test_ranges_that_are_not_given(client):
    complete = client.get("/api/images/3/sound")
    assert complete.headers["accept-ranges"] == "bytes"
    size, tag = len(complete.content), complete.headers["etag"]
    beyond = part_of(client, f"bytes={size}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    assert f"expected bytes from 0 to {size - 1}" in beyond.json()["error"]
    for wanted in ("bytes=0-1,4-5", "bytes=5-3", "lines=1-2", "bytes=-"):
        answer = part_of(client, wanted)
        assert (answer.status_code, answer.content) == (200, complete.content)
    assert part_of(client, "bytes=0-9", **{"If-Range": tag}).status_code == 206
    assert part_of(client, "bytes=0-9", **{"If-Range": '"other"'}).status_code == 200
    assert part_of(client, "bytes=0-9", **{"If-None-Match": tag}).status_code == 304
    for row, status in ((1, 404), (99, 404), (4, 415)):
        answer = client.get(f"/api/images/{row}/sound", headers={"Range": "bytes=4-8"})
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"RIFF\0\0\0\0WAVE", 422, "sound of the query: "),
        (members(0)["flac"][:300], 422, "sound of the query: "),
        (b"ID3" + bytes(100), 422, "sound of the query: "),
        (b"OggS" + bytes(40), 422, "sound of the query: "),
        (encoded(tone(31.0, 8000), 8000), 422, "above the limit"),
        (b"<svg></svg>", 415, "or a sound of type WAV, FLAC, OGG, MP3"),
        (b"", 415, "got an empty body"),
    ],
)
def test_hostile_sounds_are_refused(client, content, status, message):
    answer = client.post("/api/uploads", content=content)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


def test_a_collection_without_sounds_takes_none(start):
    client = start()
    assert client.get("/api/status").json()["modalities"] == ["image"]
    answer = client.post("/api/uploads", content=members(0)["flac"])
    assert answer.status_code == 415
    assert "sound" not in answer.json()["error"]
    assert client.get("/api/images/0/sound").status_code == 404
