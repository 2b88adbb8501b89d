"""Sounds next to images and captions in a collection."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clipkit.cli.main import main
from clipkit.collection import Collection, CollectionFiles, read_info
from clipkit.collection.embedding import Part
from clipkit.collection.embedding.sounds import may_have_sounds
from clipkit.data import ShardCache, ShardIndex
from clipkit.errors import ConfigError, DataError
from clipkit.models import MultimodalEncoder, TcnTower, save_encoder
from tests.helpers.embedding import arrays, contents, rows
from tests.helpers.factories import write_shard
from tests.helpers.servers import Misbehaviour, http_server
from tests.helpers.sound_collections import (
    embed,
    encoder,
    members,
    text_and_sound,
    write_data,
)

LACKING, BROKEN, NO_IMAGE = [1, 6], 4, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def complete(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("complete") / "collection"
    report = embed(data, folder)
    assert (report.total("num_images"), report.total("num_sounds")) == (7, 5)
    assert report.total("num_bad") == 1
    return folder


def test_sounds_are_embedded_as_single_files_are(complete, tmp_path):
    sounds, table = arrays(complete, "sound"), rows(complete)
    assert sounds.shape == (8, encoder().embedding_dim)
    assert np.flatnonzero(~sounds.any(1)).tolist() == sorted([*LACKING, BROKEN])
    for number in (0, 2, 7):
        kind = "flac" if number % 3 == 0 else "wav"
        (tmp_path / kind).write_bytes(members(number)[kind])
        expected = encoder().encode_sounds([tmp_path / kind])[0]
        np.testing.assert_allclose(sounds[number], expected, atol=2e-3)
        assert table[number]["sound_type"] == kind
        assert table[number]["sound_size_bytes"] == len(members(number)[kind])
    assert table[0]["sound_seconds"] == 1.5


def test_samples_without_a_sound_are_marked(complete):
    table = rows(complete)
    assert [row["sound_error"] for row in table if row["key"] in ("s1", "s6")] == ["no sound"] * 2
    assert "not a sound of a known format" in table[BROKEN]["sound_error"]
    assert (table[BROKEN]["sound_type"], table[BROKEN]["error"]) == ("wav", None)
    assert "no image: expected a member" in table[NO_IMAGE]["error"]
    assert (table[NO_IMAGE]["sound_error"], len(table[NO_IMAGE]["captions"])) == (None, 3)
    collection = Collection(complete)
    assert collection.info.kinds == ("image", "text", "sound")
    assert np.flatnonzero(~collection.embedded_rows("sound")).tolist() == [1, 4, 6]
    assert np.flatnonzero(~collection.embedded_rows()).tolist() == [NO_IMAGE]
    np.testing.assert_array_equal(
        collection.embeddings(np.array([7, 0]), "sound"), arrays(complete, "sound")[[7, 0]]
    )
    tiles = list(collection.tiles("sound", tile_rows=2))
    assert [first for first, _ in tiles] == [0, 2, 4, 5, 7]


def test_images_and_texts_are_those_of_an_encoder_of_both(complete, data, tmp_path):
    embed(data, tmp_path / "pairs", encoder().dual())
    with pytest.raises(DataError, match="expected embeddings of sounds, got those of images"):
        Collection(tmp_path / "pairs").embeddings(np.array([0]), "sound")
    for kind in ("images", "texts"):
        ours, theirs = arrays(complete, kind), arrays(tmp_path / "pairs", kind)
        if kind == "images":
            np.testing.assert_array_equal(ours, theirs)
        else:  # the sample without an image is bad there, and has no captions
            assert len(ours) == len(theirs) + 3


def test_parts_workers_and_a_second_start_write_the_same(complete, data, tmp_path):
    for part in (Part(2, 2), Part(1, 2)):
        embed(data, tmp_path / "parts", part=part, num_workers=part.number - 1)
    assert contents(tmp_path / "parts") == contents(complete)
    sounds = tmp_path / "parts" / "1.sound.f16.npy"
    sounds.write_bytes(sounds.read_bytes()[:-2])
    report = embed(data, tmp_path / "parts")
    assert (len(report.shards), report.num_kept) == (1, 1)
    assert contents(tmp_path / "parts") == contents(complete)


def test_another_encoder_does_not_continue(complete, data, tmp_path):
    shutil.copytree(complete, tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"was embedded otherwise: model: .*modalities: then"):
        embed(data, tmp_path / "copy", encoder().dual())


def test_an_encoder_without_a_tower_for_images(data, complete, tmp_path):
    report = embed(data, tmp_path / "out", text_and_sound())
    assert (report.total("num_images"), report.total("num_sounds")) == (0, 5)
    collection = Collection(tmp_path / "out")
    assert collection.info.kinds == ("text", "sound")
    assert not collection.embedded_rows().any()
    assert not list((tmp_path / "out").glob("*.images.*"))
    np.testing.assert_array_equal(arrays(tmp_path / "out", "sound"), arrays(complete, "sound"))
    table = rows(tmp_path / "out")
    assert table[0]["error"] == "the model has no tower for images"
    assert table[0]["image_size_bytes"] == len(members(0)["jpg"])  # for a page that shows it


def test_files_of_sounds_are_read_by_position(complete):
    files = CollectionFiles(Collection(complete), "sound")
    assert files.read(0) == members(0)["flac"]
    assert files.read(7) == members(7)["wav"]
    with pytest.raises(DataError, match="sample 1 has no sound"):
        files.read(1)


def test_too_many_broken_sounds(data, tmp_path):
    from clipkit.data import FaultOptions
    from clipkit.errors import FaultBudgetExceeded

    with pytest.raises(FaultBudgetExceeded, match="more than 0 bad samples of 5"):
        embed(data, tmp_path / "out", faults=FaultOptions(max_bad_fraction=0.0))


def test_data_without_sounds_are_embedded_as_pairs(tmp_path, monkeypatch):
    """Without empty files, and without the packages for sounds."""
    save_encoder(encoder(), tmp_path / "model")
    samples = [(f"s{number}", members(number, sound=False)) for number in range(3)]
    write_shard(tmp_path / "data" / "0.tar", samples)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    words = ["embed", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "data")]
    words += ["--device", "cpu", "--num-workers", "0", "--output"]
    assert main([*words, str(tmp_path / "out")]) == 0
    assert read_info(tmp_path / "out").kinds == ("image", "text")
    assert not list((tmp_path / "out").glob("*sound*"))
    embed(tmp_path / "data", tmp_path / "pairs", encoder().dual())
    np.testing.assert_array_equal(
        arrays(tmp_path / "out", "images"), arrays(tmp_path / "pairs", "images")
    )
    write_shard(tmp_path / "data" / "1.tar", [("s4", members(4))])
    assert main([*words, str(tmp_path / "with")]) == 2  # one of two shards has a sound
    monkeypatch.undo()
    assert main([*words, str(tmp_path / "with")]) == 0
    assert read_info(tmp_path / "with").kinds == ("image", "text", "sound")
    assert main([*words, str(tmp_path / "first"), "--limit", "3"]) == 0  # of the first shard
    assert read_info(tmp_path / "first").kinds == ("image", "text")


@pytest.mark.parametrize(
    ("sounds", "has_counts", "expected"),
    [((), False, False), ((1,), False, True), ((), True, True)],
    ids=["none", "in the last shard", "tables unknown"],
)
def test_remote_shards_have_sounds_by_their_tables(tmp_path, sounds, has_counts, expected):
    for number in range(2):
        sample = members(number, sound=number in sounds)
        write_shard(tmp_path / f"{number}.tar", [("s", sample)])
    if has_counts:
        (tmp_path / "sizes.json").write_text(json.dumps({f"{n}.tar": 1 for n in range(2)}))
    served = {f"/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    with http_server(served, Misbehaviour()) as url:
        cache = ShardCache(tmp_path / "cache")
        index = ShardIndex.from_urls(f"{url}/{{0,1}}.tar", cache=cache)
        assert may_have_sounds(SimpleNamespace(index=index), 2) is expected


def test_names_that_collide_are_refused(data, tmp_path):
    tower = encoder().towers["sound"]
    with pytest.raises(ConfigError, match="'images' names other files"):
        embed(data, tmp_path / "a", MultimodalEncoder({"images": tower}))
    with pytest.raises(ConfigError, match="columns: 'sound_type' is a column of the sounds"):
        embed(data, tmp_path / "b", columns=("sound_type",))


def test_a_record_of_a_previous_version_and_a_damaged_one(complete, tmp_path):
    shutil.copytree(complete, tmp_path / "copy")
    path = tmp_path / "copy" / "collection.json"
    content = json.loads(path.read_text())
    previous = {n: v for n, v in content.items() if n not in ("modalities", "has_images")}
    path.write_text(json.dumps(previous))
    assert read_info(tmp_path / "copy").kinds == ("image", "text")
    path.write_text(json.dumps({**content, "modalities": ["../x"]}))
    with pytest.raises(DataError, match="damaged"):
        read_info(tmp_path / "copy")


def test_towers_for_other_series_are_left_out(tmp_path, data):
    from clipkit.collection.embedding import EmbedPlan
    from clipkit.models import DualEncoder, save_encoder, with_towers

    torch.manual_seed(0)
    pairs = encoder().dual()
    series = TcnTower(pairs.embedding_dim, input_shape=(2, 9), width=8, num_blocks=1)
    save_encoder(with_towers(pairs, {"series": series}), tmp_path / "series")
    save_encoder(encoder(), tmp_path / "sounds")
    kinds = [
        type(EmbedPlan(str(tmp_path / name), str(data), tmp_path).load_encoder("cpu").encoder)
        for name in ("series", "sounds")
    ]
    assert kinds == [DualEncoder, MultimodalEncoder]
