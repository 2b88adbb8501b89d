"""Collections of sounds: without images in the data, or without a tower for images."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from clipkit.cli.main import main
from clipkit.collection import Collection
from clipkit.collection.embedding import EmbedPlan
from clipkit.curation.candidates import Candidates
from clipkit.data import FaultOptions
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.prompts.class_prompts import SOUND_TEMPLATES
from clipkit.models import MultimodalEncoder, save_encoder
from clipkit.search import QueryPart, Searcher, result_page
from clipkit.search.collection_map import map_collection
from clipkit.search.export.shard_export import read_shard
from clipkit.search.near_duplicates import near_duplicates
from clipkit.search.serving import ServeOptions, create_app
from clipkit.search.serving.load_service import load_service
from tests.helpers.factories import write_shard
from tests.helpers.sound_collections import embed, encoder, members, text_and_sound


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six sounds without an image, embedded by a model that has a tower for images, too."""
    place = tmp_path_factory.mktemp("alone")
    samples = [(f"s{number}", members(number, image=False)) for number in range(6)]
    write_shard(place / "data" / "0.tar", samples)
    save_encoder(encoder(), place / "model")
    all_bad = FaultOptions(max_bad_fraction=1.0)
    embed(place / "data", place / "collection", name=str(place / "model"), faults=all_bad)
    return place / "collection"


def test_sounds_are_searched_where_nothing_else_is_embedded(folder):
    searcher = Searcher(folder, encoder())
    assert searcher.modality == "sound"
    found = searcher.search([QueryPart(sound=members(3)["flac"])])
    assert (found.hits[0].row, found.num_candidates) == (3, 6)
    with pytest.raises(ConfigError, match="no sample of the collection has an embedded image"):
        Searcher(folder, encoder(), modality="image")


def test_the_command_shows_sounds(folder, tmp_path, capsys):
    words = ["search", "query", str(folder), "a dog", "--device", "cpu", "--exact"]
    assert main([*words, "--html", str(tmp_path / "a.html")]) == 0
    assert "The 6 most similar of 6 sounds" in (tmp_path / "a.html").read_text()


def test_near_duplicates_need_images(folder, capsys):
    assert main(["search", "query", str(folder), "--near-duplicates"]) == 2
    assert "compares images, but" in capsys.readouterr().err


def test_further_sounds_have_no_player_and_are_counted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(result_page, "MAX_SOUNDS", 2)
    searcher = Searcher(folder, encoder())
    records = [{**each, "score": 1.0} for each in searcher.records(list(range(6)))]
    group = result_page.ResultGroup("", records)
    result_page.write_result_page(tmp_path / "a.html", searcher.collection, [group], "a", "b")
    page = (tmp_path / "a.html").read_text()
    assert page.count("<audio controls") == 2
    assert "Sounds without a player: 4" in page
    assert "could not be read" not in page


def test_a_page_without_the_packages_for_sounds(folder, tmp_path, monkeypatch):
    def fail(_content: bytes, **_options: int) -> tuple[bytes, str]:
        raise ConfigError("sounds: need soundfile")

    monkeypatch.setattr(result_page, "sound_preview", fail)
    searcher = Searcher(folder, encoder())
    records = [{**each, "score": 1.0} for each in searcher.records([0, 1])]
    group = result_page.ResultGroup("", records)
    result_page.write_result_page(tmp_path / "a.html", searcher.collection, [group], "a", "b")
    assert "Sounds without a player: 2" in (tmp_path / "a.html").read_text()


def test_the_server_labels_sounds_as_the_evaluators_do(folder, tmp_path):
    model = encoder()
    options = ServeOptions()
    app = create_app(folder, options, load=lambda told: load_service(folder, options, told, model))
    with TestClient(app, "http://localhost:8000") as client:
        while app.state.loading.status().state == "loading":
            time.sleep(0.01)
        assert client.get("/api/status").json()["modalities"] == ["sound"]
        upload = client.post("/api/uploads", content=members(3)["flac"]).json()["upload"]
        given = ({"upload": upload}, {"row": 3}, {"row": 3, "modality": "sound"})
        answers = [
            client.post("/api/labels", json={**each, "labels": ["dog", "cat"]}) for each in given
        ]
        places = client.get("/api/map")
        wrong = client.post("/api/labels", json={"row": 3, "modality": "image"})
    assert wrong.status_code == 422
    assert (places.status_code, "embedded images" in places.text) == (422, True)
    (tmp_path / "a.flac").write_bytes(members(3)["flac"])
    expected = _probabilities(model, tmp_path / "a.flac", ["dog", "cat"])
    for answer in answers:
        scores = {each["name"]: each["score"] for each in answer.json()["labels"]}
        np.testing.assert_allclose([scores["dog"], scores["cat"]], expected, atol=2e-3)


def _probabilities(model: MultimodalEncoder, sound: Path, names: list[str]) -> np.ndarray:
    """Zero-shot classification, written out."""
    query = model.encode_sounds([sound])[0]
    means = []
    for name in names:
        rows = model.encode(text=[each.format(name) for each in SOUND_TEMPLATES])["text"]
        mean = np.mean(np.asarray(rows), axis=0)
        means.append(mean / np.linalg.norm(mean))
    logits = float(model.scale_with_text("sound").detach()) * np.stack(means) @ np.asarray(query)
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


def test_what_compares_images_names_that_there_are_none(tmp_path, folder):
    embed(folder.parent / "data", tmp_path / "collection", text_and_sound())
    collection = Collection(tmp_path / "collection")
    rows = np.arange(len(collection))
    for use in (
        lambda: near_duplicates(collection),
        lambda: map_collection(collection),
        lambda: read_shard(collection, 0, ()),
        lambda: next(iter(Candidates(collection, rows).embeddings())),
        lambda: next(collection.image_tiles()),
    ):
        with pytest.raises(DataError, match="expected embeddings of images, got those of sounds"):
            use()


def test_a_collection_of_pairs_is_continued_as_it_was_begun(tmp_path, folder):
    write_shard(tmp_path / "data" / "0.tar", [("a", members(0)), ("b", members(1))])
    output = tmp_path / "collection"
    embed(tmp_path / "data", output, encoder().dual())
    plan = EmbedPlan(str(folder.parent / "model"), str(tmp_path / "data"), output)
    assert set(plan.load_encoder("cpu").encoder.towers) == {"image", "text"}
    other = EmbedPlan(plan.model, plan.data, tmp_path / "new")
    assert "sound" in other.load_encoder("cpu").encoder.towers
