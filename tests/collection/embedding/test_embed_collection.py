"""Files of an embedded collection against ``embed_pairs``, however the work was divided."""

from __future__ import annotations

import hashlib
import io
import itertools
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkit.collection import Collection, read_info
from clipkit.collection.embedding import Part, embed_shard, start_collection
from clipkit.data.images.perceptual_hash import image_signature
from clipkit.errors import ConfigError
from clipkit.evaluation import open_dataset
from tests.helpers.embedding import arrays, contents, embed, encoder, oracle, plan_of, rows
from tests.helpers.evaluation_data import CLASSES, captions, picture, sample, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.servers import Misbehaviour, http_server

ROUNDING = 3e-4
"""Largest error of float16 in a component of a unit vector, and of another batch size."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_layout(tmp_path_factory.mktemp("data") / "set", (7, 1, 6))


@pytest.fixture(scope="module")
def complete(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("complete") / "out"
    embed(data, folder)
    return folder


def test_embeddings_are_those_of_embed_pairs(data, complete):
    pairs = oracle(data)
    np.testing.assert_allclose(arrays(complete, "images"), pairs.images.numpy(), atol=ROUNDING)
    np.testing.assert_allclose(arrays(complete, "texts"), pairs.texts.numpy(), atol=ROUNDING)
    table = rows(complete)
    assert [row["key"] for row in table] == list(pairs.keys)
    assert [text for row in table for text in row["captions"]] == list(pairs.captions)
    assert [row["label"] for row in table] == pairs.labels.tolist()


def test_columns_describe_the_image_files(data, complete):
    for number, row in enumerate(rows(complete)):
        info = read_info(complete)
        shard = info.shards[Collection(complete).locate(number)[0]]
        start = row["image_offset_bytes"]
        file = Path(shard.url).read_bytes()[start : start + row["image_size_bytes"]]
        assert file == picture(number, row["image_type"])
        assert row["image_sha256"] == hashlib.sha256(file).digest()
        assert row["image_signature"] == image_signature(file).astype("<u8").tobytes()
        with Image.open(io.BytesIO(file)) as image:
            assert (row["width_pixels"], row["height_pixels"]) == image.size
        assert row["error"] is None


def test_the_record_names_model_and_data(data, complete):
    info = read_info(complete)
    assert (info.embedding_dim, info.has_texts, info.class_names) == (24, True, CLASSES)
    assert [shard.name for shard in info.shards] == ["0", "1", "2"]
    assert [shard.num_samples for shard in info.shards] == [7, 1, 6]
    assert len(info.model_hash) == 32
    assert info.data == str(data)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(data, complete, tmp_path, workers):
    embed(data, tmp_path, num_workers=workers)
    assert contents(tmp_path) == contents(complete)


def test_parts_make_the_files_of_one_process(data, complete, tmp_path):
    first = embed(data, tmp_path, Part(2, 2))
    assert ([shard.number for shard in first.shards], first.num_missing) == ([1], 2)
    last = embed(data, tmp_path, Part(1, 2))
    assert ([shard.number for shard in last.shards], last.num_missing) == ([0, 2], 0)
    assert contents(tmp_path) == contents(complete)
    assert embed(data, tmp_path, Part(9, 9)).shards == ()


def test_single_shards_make_the_files_of_one_process(data, complete, tmp_path):
    plan = plan_of(data, tmp_path)
    start_collection(plan, encoder(), None, open_dataset(data))
    reports = [embed_shard(plan, encoder(), open_dataset(data), number) for number in (2, 0, 1)]
    assert [report.num_images for report in reports] == [6, 7, 1]
    assert contents(tmp_path) == contents(complete)


@pytest.mark.parametrize(("limit", "counts"), [(3, [3]), (7, [7]), (8, [7, 1]), (12, [7, 1, 4])])
def test_a_limit_takes_the_first_samples(data, complete, tmp_path, limit, counts):
    report = embed(data, tmp_path, limit=limit)
    assert report.total("num_images") == limit
    assert [shard.num_samples for shard in read_info(tmp_path).shards] == counts
    pairs = oracle(data, limit=limit)
    np.testing.assert_allclose(arrays(tmp_path, "images"), pairs.images.numpy(), atol=ROUNDING)
    assert len(Collection(tmp_path)) == limit


def test_images_only_stores_captions_without_embeddings(data, complete, tmp_path):
    report = embed(data, tmp_path, images_only=True)
    assert report.total("num_texts") == 0
    assert not list(tmp_path.glob("*.texts.*"))
    expected = {name: value for name, value in contents(complete).items() if "texts" not in name}
    found = contents(tmp_path)
    del found["collection.json"], expected["collection.json"]
    assert found == expected


def test_a_resumed_run_repeats_no_shard(data, complete, tmp_path):
    embed(data, tmp_path)
    (tmp_path / "1.parquet").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    report = embed(data, tmp_path)
    assert ([shard.number for shard in report.shards], report.num_kept) == ([1], 2)
    changed = {p.name for p in tmp_path.iterdir() if p.stat().st_mtime_ns != times.get(p.name)}
    assert changed == {"1.images.f16.npy", "1.texts.f16.npy", "1.parquet"}
    assert contents(tmp_path) == contents(complete)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: cut(folder / "0.parquet"),
        lambda folder: (folder / "0.parquet").write_bytes(b""),
        lambda folder: (folder / "0.parquet").write_bytes((folder / "1.parquet").read_bytes()),
        lambda folder: cut(folder / "0.images.f16.npy"),
        lambda folder: (folder / "0.images.f16.npy").unlink(),
        lambda folder: (folder / "0.texts.f16.npy").write_bytes(b"no array"),
    ],
)
def test_a_shard_with_damaged_files_is_embedded_again(data, complete, tmp_path, caplog, damage):
    embed(data, tmp_path)
    damage(tmp_path)
    report = embed(data, tmp_path)
    assert ([shard.number for shard in report.shards], report.num_kept) == ([0], 2)
    assert "embedding shard 0 again: " in caplog.text
    assert contents(tmp_path) == contents(complete)


def test_data_without_captions_and_labels(tmp_path):
    data = write_layout(tmp_path / "set", (3,), label=False, text=False, classes=())
    embed(data, tmp_path / "out")
    assert arrays(tmp_path / "out", "texts").shape == (0, 24)
    assert [(row["captions"], row["label"]) for row in rows(tmp_path / "out")] == [([], None)] * 3


def test_some_samples_without_captions(tmp_path):
    samples = [(f"s{number}", sample(number, text=number != 1)) for number in range(3)]
    write_shard(tmp_path / "set" / "0.tar", samples)
    embed(tmp_path / "set", tmp_path / "out")
    shard = Collection(tmp_path / "out").shards[0]
    assert shard.text_starts().tolist() == [0, 1, 1, 4]
    pairs = oracle(tmp_path / "set")
    np.testing.assert_allclose(shard.texts(), pairs.texts.numpy(), atol=ROUNDING)


def test_shards_of_one_name_in_several_folders(tmp_path):
    for folder in ("a", "b"):
        write_shard(tmp_path / folder / "0.tar", [(folder, sample(ord(folder)))])
    source = f"{tmp_path}/a::{tmp_path}/b"
    embed(source, tmp_path / "out")
    assert [shard.name for shard in read_info(tmp_path / "out").shards] == ["0-0", "1-0"]
    assert [row["key"] for row in rows(tmp_path / "out")] == ["a", "b"]


def test_a_folder_of_images(tmp_path):
    for number, name in itertools.product(range(3), ("cats", "dogs")):
        path = tmp_path / "photos" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    embed(tmp_path / "photos", tmp_path / "out")
    info = read_info(tmp_path / "out")
    assert info.class_names == ("cats", "dogs")
    row = rows(tmp_path / "out")[-1]
    with tarfile.open(info.shards[-1].url) as tar:
        assert row["image_offset_bytes"] in [member.offset_data for member in tar]
    assert [row["label"] for row in rows(tmp_path / "out")] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_remote_shards(data, complete, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    files = {f"/{path.relative_to(data)}": path.read_bytes() for path in data.rglob("*.*")}
    trouble = Misbehaviour()
    with http_server(files, trouble) as url:
        embed(url, tmp_path / "out", num_workers=workers)
    assert (arrays(tmp_path / "out", "images") == arrays(complete, "images")).all()
    assert rows(tmp_path / "out") == rows(complete)
    assert read_info(tmp_path / "out").shards[0].url == f"{url}/test/0.tar"
    sizes = [len(file) for name, file in files.items() if name.endswith(".tar")]
    assert trouble.sent_bytes < 1.3 * sum(sizes)  # with the headers, which the index needs


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "1/0", "a/2", "1/2/3", "-1/2", "1.0/2"])
def test_a_part_that_does_not_exist_is_refused(text):
    with pytest.raises(ConfigError, match="part: expected"):
        Part.parse(text)


def test_captions_of_other_members(tmp_path):
    data = write_layout(tmp_path / "set", (3,))
    from clipkit.data import TextField

    embed(data, tmp_path / "out", caption=TextField("cls"))
    assert [row["captions"] for row in rows(tmp_path / "out")] == [["0"], ["1"], ["2"]]
    assert [len(captions(number)) for number in range(3)] == [1, 2, 3]
