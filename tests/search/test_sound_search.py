"""Search by sounds and for sounds: Python, command, index, page."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from clipkit.cli.main import main
from clipkit.collection import Collection
from clipkit.errors import ConfigError, DataError
from clipkit.models import CrossAttentionFusion, save_encoder, with_fusion
from clipkit.models.inputs import sound_transform_of, tokenizer_of
from clipkit.search import QueryPart, Searcher
from tests.helpers.sound_collections import (
    embed,
    encoder,
    members,
    text_and_sound,
    write_served,
)

EMBEDDED = [0, 2, 3, 5, 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_served(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def searcher(folder):
    return Searcher(folder, encoder(), modality="sound")


def query(folder, *words: str) -> int:
    return main(["search", "query", str(folder), *words, "--device", "cpu"])


def test_a_sound_finds_itself_and_sounds_only(searcher):
    result = searcher.search([QueryPart(sound=members(3)["flac"])])
    assert (result.hits[0].row, round(result.hits[0].score, 2)) == (3, 1.0)
    assert sorted(hit.row for hit in result.hits) == EMBEDDED
    assert result.num_candidates == len(EMBEDDED)
    assert 3 not in [hit.row for hit in searcher.search([QueryPart(row=3)]).hits]
    with pytest.raises(ConfigError, match=r"row 1: expected a row with an embedding \(sound\)"):
        searcher.search([QueryPart(row=1)])


def test_texts_and_images_find_sounds_and_sounds_find_images(searcher, folder):
    sounds = searcher.collection.embeddings(np.array(EMBEDDED), "sound").astype(np.float64)
    vector = searcher.query_vector([QueryPart(text="a bell"), QueryPart(-0.5, text="a dog")])
    hits = searcher.search([QueryPart(text="a bell"), QueryPart(-0.5, text="a dog")]).hits
    expected = [EMBEDDED[place] for place in np.argsort(-(sounds @ vector))]
    assert [hit.row for hit in hits] == expected
    image = members(0)["jpg"]
    assert len(searcher.search([QueryPart(image=image)]).hits) == len(EMBEDDED)
    images = Searcher(folder, encoder()).search([QueryPart(sound=members(0)["flac"])])
    assert images.num_candidates == 7  # of 8 samples, one has no image


def test_the_model_is_loaded_with_all_towers(folder):
    found = Searcher(folder, modality="sound", device="cpu")
    assert found.search([QueryPart(sound=members(0)["flac"])]).hits[0].row == 0


def test_sounds_that_cannot_be_read(searcher):
    for content in (b"", b"RIFF", members(0)["jpg"], members(0)["flac"][:60]):
        with pytest.raises(DataError, match="sound of the query: "):
            searcher.search([QueryPart(sound=content)])
    with pytest.raises(ConfigError, match="expected one of text, image, row and sound, got image"):
        QueryPart(image=b"a", sound=b"b")


def test_models_and_collections_without_sounds_are_named(tmp_path, folder):
    data = folder.parent / "data"
    embed(data, tmp_path / "pairs", encoder().dual())
    with pytest.raises(ConfigError, match="--modality: the collection has embeddings of image, "):
        Searcher(tmp_path / "pairs", encoder().dual(), modality="sound")
    searcher = Searcher(tmp_path / "pairs", encoder().dual())
    with pytest.raises(ConfigError, match="has no tower for sounds, so it cannot read one"):
        searcher.search([QueryPart(sound=members(0)["flac"])])
    embed(data, tmp_path / "sounds", text_and_sound())
    searcher = Searcher(tmp_path / "sounds", text_and_sound())
    assert searcher.modality == "sound"  # it has nothing else
    with pytest.raises(ConfigError, match="has no tower for images"):
        searcher.search([QueryPart(image=members(0)["jpg"])])
    write = {"s0": members(1, sound=False)}
    from tests.helpers.factories import write_shard

    write_shard(tmp_path / "silent" / "0.tar", list(write.items()))
    embed(tmp_path / "silent", tmp_path / "none")
    with pytest.raises(ConfigError, match="no sample of the collection has an embedded sound"):
        Searcher(tmp_path / "none", encoder(), modality="sound")


def test_the_command_writes_files_and_a_page_with_players(folder, tmp_path, capsys):
    (tmp_path / "bell.flac").write_bytes(members(3)["flac"])
    words = ["--sound", str(tmp_path / "bell.flac"), "--modality", "sound"]
    assert query(folder, *words, "--output", str(tmp_path / "out.json")) == 0
    assert capsys.readouterr().out == f"5 sounds: {tmp_path / 'out.json'}\n"
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found[0]["row"], found[0]["sound_type"], found[0]["sound_error"]) == (3, "flac", None)
    assert query(folder, "a bell", "--modality", "sound", "--html", str(tmp_path / "a.html")) == 0
    page = (tmp_path / "a.html").read_text()
    assert page.count("<audio controls") == page.count("data:audio/mpeg;base64,") == 5
    assert "media-src data:" in page
    assert page.count('<article class="card sample">') == 5
    assert "The 5 most similar of 5 sounds" in page
    assert query(folder, *words, "--exact", "--where", "sound_type=wav") == 0
    assert query(folder, "--without-sound", str(tmp_path / "bell.flac")) == 0


@torch.no_grad()
def test_the_best_sounds_are_reranked(folder, tmp_path, capsys):
    """The order of what a loop over single sounds gives, by a fusion of sounds and texts."""
    torch.manual_seed(1)
    towers, fusion = deepcopy(text_and_sound()), CrossAttentionFusion(16, 1, 2, context=["sound"])
    joint = with_fusion(towers, fusion).eval()
    save_encoder(joint, tmp_path / "joint")
    words = ["a bell", "--modality", "sound", "--output"]
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert query(folder, *words, str(before)) == 0
    more = ["--rerank", "4", "--reranker", str(tmp_path / "joint")]
    assert query(folder, *words, str(after), *more) == 0
    assert "re-ranked 4 sounds in" in capsys.readouterr().err
    rows, reranked = ([each["row"] for each in json.loads(p.read_text())] for p in (before, after))
    text = joint.read_text(tokenizer_of(joint.text_tower)(["a bell"]))
    transform = sound_transform_of(joint.towers["sound"])
    scores = {}
    for row in rows[:4]:
        (name,) = members(row).keys() & {"flac", "wav"}
        sound = joint.read_signal("sound", transform.of_file(members(row)[name])[None])
        pooled = joint.fuse({"sound": sound.tokens, "text": text.tokens}).pooled
        cosine = sound.embedding[0] @ text.embedding[0]
        scores[row] = float(joint.match(pooled) + joint.logit_scale * cosine)
    assert reranked == [*sorted(scores, key=lambda row: -scores[row]), *rows[4:]]
    assert query(folder, "a bell", "--modality", "image", *more) == 2
    assert "an encoder that fuses images and texts, got one that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sound", "none.wav"], "--sound: none.wav cannot be read: No such file"),
        (["--sound", "{bad}"], "sound of the query: not a sound of a known format"),
        (["a", "--modality", "smell"], "--modality: the collection has embeddings of image and"),
        (["--near-duplicates", "--modality", "sound"], "--modality: expected a query"),
    ],
)
def test_errors_are_one_line(folder, tmp_path, capsys, words, message):
    (tmp_path / "bad.wav").write_bytes(b"not a sound at all")
    words = [word.replace("{bad}", str(tmp_path / "bad.wav")) for word in words]
    assert query(folder, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_index_over_the_sounds(folder, capsys):
    words = ["search", "build", str(folder), "--modality", "sound", "--factory", "IVF2,Flat"]
    assert main([*words, "--num-probes", "2"]) == 0
    assert "for sounds" in capsys.readouterr().out
    collection = Collection(folder)
    assert (folder / "index-sound" / "index.json").is_file()
    assert not (folder / "index").exists()
    searcher = Searcher(folder, encoder(), modality="sound")
    assert "IVF2" in searcher.engine.description
    parts = [QueryPart(sound=members(5)["wav"])]
    found = [(hit.row, hit.score) for hit in searcher.search(parts).hits]
    exact = Searcher(folder, encoder(), modality="sound")
    from clipkit.search import ExactEngine

    exact.engine = ExactEngine(collection, modality="sound")
    assert found == [(hit.row, hit.score) for hit in exact.search(parts).hits]
    assert Searcher(folder, encoder()).engine.description == "exact"


def test_previews_are_short_and_bounded():
    from clipkit.data.audio.decode import sound_info
    from clipkit.data.audio.previews import sound_preview
    from tests.helpers.sounds import encoded, tone

    sound = encoded(tone(30.0, 44_100, channels=2), 44_100)
    copy, media_type = sound_preview(sound, seconds=5)
    assert media_type == "audio/mpeg"
    assert len(copy) < 60_000
    assert len(sound_preview(sound, seconds=5, max_bytes=9000)[0]) <= 9000
    assert 4.9 < (sound_info(copy).seconds or 0) < 5.2
