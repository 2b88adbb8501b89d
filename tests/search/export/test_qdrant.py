"""Points of Qdrant in memory: the neighbours of an exact scan, payloads, and stops."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from clipkit.cli.main import main
from clipkit.collection import Collection
from clipkit.errors import ConfigError, DataError
from clipkit.search import ExactEngine
from clipkit.search.export import qdrant
from clipkit.search.export.qdrant import QdrantReport, export_qdrant, qdrant_client
from tests.helpers.collections import set_errors, unit_rows, write_collection

qdrant_package = pytest.importorskip("qdrant_client")


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    folder = write_collection(tmp_path / "collection", (40, 1, 30), width=16)
    set_errors(folder, "00000", {0, 7})
    return Collection(folder)


@pytest.fixture
def client():
    client = qdrant_package.QdrantClient(":memory:")
    yield client
    client.close()


def test_neighbours_are_those_of_an_exact_scan(collection, client):
    assert export_qdrant(collection, client, "images") == QdrantReport(69, 0)
    queries = unit_rows(20, 16, seed=5).astype(np.float32)
    is_usable = np.ones(71, dtype=bool)
    is_usable[[0, 7]] = False
    ranked = ExactEngine(collection).search(queries, 10, is_usable)
    for query, scores, rows in zip(queries, ranked.scores, ranked.rows, strict=True):
        points = client.query_points("images", query.tolist(), limit=10).points
        assert [point.id for point in points] == rows.tolist()
        np.testing.assert_allclose([point.score for point in points], scores, atol=1e-5)


def test_payloads(collection, client):
    export_qdrant(collection, client, "images")
    (point,) = client.retrieve("images", [41])
    assert point.payload == {
        "key": "00002-0",
        "captions": ["00002-0 caption 0", "00002-0 caption 1"],
        "label": 0,
        "class_name": "red",
        "shard": collection.info.shards[2].url,
        "image_offset_bytes": 512,
        "image_size_bytes": 100,
    }
    assert client.retrieve("images", [0, 7, 71]) == []


@pytest.mark.parametrize("num_before", [0, 1, 5, 33, 38, 39, 68])
def test_an_export_that_was_stopped_continues(collection, num_before, monkeypatch):
    monkeypatch.setattr(qdrant, "_BATCH_POINTS", 1)
    client = qdrant_package.QdrantClient(":memory:")
    upsert, written = client.upsert, []

    def stop(name, batch, wait):
        if len(written) == num_before:
            raise KeyboardInterrupt
        written.extend(batch.ids)
        return upsert(name, batch, wait=wait)

    monkeypatch.setattr(client, "upsert", stop)
    with pytest.raises(KeyboardInterrupt):
        export_qdrant(collection, client, "images")
    before, num_before = list(written), -1
    assert export_qdrant(collection, client, "images") == QdrantReport(69, len(before))
    assert len(written) == len(set(written)) == 69
    assert client.count("images", exact=True).count == 69
    assert export_qdrant(collection, client, "images") == QdrantReport(69, 69)


def test_another_collection_of_that_name_is_refused(collection, client, tmp_path):
    export_qdrant(collection, client, "images")
    wider = write_collection(tmp_path / "wider", (3,), width=8)
    with pytest.raises(ConfigError, match="--name: Qdrant has a collection 'images' with vectors "):
        export_qdrant(Collection(wider), client, "images")
    others = write_collection(tmp_path / "others", (40, 1, 30), width=16, seed=9)
    set_errors(others, "00000", {0, 7})
    with pytest.raises(ConfigError, match="with another vector as point"):
        export_qdrant(Collection(others), client, "images")
    renamed = write_collection(tmp_path / "renamed", (5, 3), width=16)
    with pytest.raises(ConfigError, match="with the key '00000-6' as point 6"):
        export_qdrant(Collection(renamed), client, "images")


def test_points_of_others_in_the_same_collection_are_noticed(collection, client):
    export_qdrant(collection, client, "images")
    vector = unit_rows(1, 16, seed=0)[0].astype(np.float32).tolist()
    client.upsert("images", [qdrant_package.models.PointStruct(id=500, vector=vector)])
    with pytest.raises(ConfigError, match="'images' with 70 points; expected"):
        export_qdrant(collection, client, "images")


def test_the_command_and_its_errors(collection, tmp_path, monkeypatch, capsys):
    words = ["search", "export", str(collection.folder), "--format", "qdrant"]
    assert main(words) == 2
    assert "--url: expected with --format qdrant, got none" in capsys.readouterr().err
    assert main([*words, "--url", "http://127.0.0.1:9"]) == 2
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9: " in error
    assert "the same command continues" in error
    assert main([*words, "--url", "no address", "--output", "x"]) == 2
    assert "--output: expected without --format qdrant" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    assert main([*words, "--url", "http://127.0.0.1:9"]) == 2
    assert "pip install 'clipkit[qdrant]'" in capsys.readouterr().err


def test_the_key_is_that_of_the_environment(collection, monkeypatch, capsys):
    given, in_memory = [], qdrant_package.QdrantClient(":memory:")

    def connect(url, api_key, timeout):
        given.append((url, api_key))
        return in_memory

    monkeypatch.setattr(qdrant_package, "QdrantClient", connect)
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    words = ["search", "export", str(collection.folder), "--format", "qdrant"]
    assert main([*words, "--url", "https://qdrant.example"]) == 0
    assert given == [("https://qdrant.example", "secret")]
    captured = capsys.readouterr()
    assert "69 of 71 samples, 0 of them before: collection collection of https" in captured.out
    assert "secret" not in captured.out + captured.err


def test_an_answer_that_refuses_is_named(monkeypatch):
    from qdrant_client.http.exceptions import UnexpectedResponse

    with (
        pytest.raises(DataError, match="http://localhost:6333: Unexpected Response: 401"),
        qdrant_client("http://localhost:6333"),
    ):
        raise UnexpectedResponse(401, "Unauthorized", b"", None)
