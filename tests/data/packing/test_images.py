"""Which files of class folders are packed, and what is said about the others."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import pytest
from PIL import Image, features

from clipkit.data import ShardIndex, ShardReader
from clipkit.data.packing.images import find_images, member_extension, visible_shards
from clipkit.data.packing.pack import pack
from clipkit.errors import DataError, SampleError
from clipkit.evaluation import open_dataset
from tests.helpers.factories import image_bytes, write_shards
from tests.helpers.fakes import flat_stream
from tests.helpers.letters import Letters


def members_of(folder: Path) -> list[dict[str, bytes]]:
    index = ShardIndex.from_urls(str(folder / "*.tar"))
    reader = ShardReader(index)
    return [dict(reader.read(number).members) for number in range(len(index))]


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(out, kind)
    return out.getvalue()


def test_every_format_that_pillow_reads_is_packed_and_trained_on(tmp_path, caplog):
    folder = tmp_path / "photos" / "cat"
    folder.mkdir(parents=True)
    kinds = {"a.jfif": "JPEG", "b": "PNG", "c.JPE": "JPEG", "d.jp2": "JPEG2000", "e.2020": "JPEG"}
    if features.check("avif"):
        kinds["f.avif"] = "AVIF"
    for name, kind in kinds.items():
        (folder / name).write_bytes(encoded(kind))
    for name in ("notes.md", "more.md", "clip.mp4", "README", ".DS_Store"):
        (folder / name).write_text("no image")
    (tmp_path / "photos" / "stray.jpg").write_bytes(image_bytes())
    with caplog.at_level(logging.WARNING):
        pack(tmp_path / "photos", tmp_path / "out")
    (said,) = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert f"{len(kinds)} images; skipped 6 files" in said
    for part in ("2 .md", "1 .mp4", "1 without a suffix", "1 hidden", "1 outside the folders"):
        assert part in said
    images = [{*sample} - {"txt", "cls"} for sample in members_of(tmp_path / "out")]
    assert images == [{"jpg"}, {"png"}, {"jpg"}, {"image"}, {"jpg"}, *[{"image"}]][: len(kinds)]
    index = ShardIndex.from_urls(str(tmp_path / "out"))
    stream = flat_stream(index, tokenizer=Letters(), batch_size=1, image_size=16, shuffle=False)
    assert len([batch for batch in stream if batch.images.float().std() > 0]) == len(kinds)
    data = open_dataset(tmp_path / "out")
    assert all(data.sample(number).image for number in range(len(data)))


def test_hidden_folders_and_links_are_not_entered(tmp_path):
    for place in ("a/.thumbs", "a/deep", "other"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.jpg").write_bytes(image_bytes())
    (tmp_path / "a" / "link").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "a" / "pipe")
    found = find_images(tmp_path / "a")
    assert [str(path.relative_to(tmp_path)) for path in found.files] == ["a/deep/1.jpg"]
    assert found.skipped == {"links to folders": 1, "without a suffix": 1}


def test_folders_that_would_be_one_class_are_refused(tmp_path):
    for name in ("red_panda", "red panda"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "1.jpg").write_bytes(image_bytes())
    with pytest.raises(DataError, match="'red panda' and 'red_panda' are both the class"):
        pack(tmp_path / "tree", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_class_without_images_is_named(tmp_path, caplog):
    (tmp_path / "tree" / "empty").mkdir(parents=True)
    (tmp_path / "tree" / "full").mkdir()
    (tmp_path / "tree" / "full" / "1.jpg").write_bytes(image_bytes())
    pack(tmp_path / "tree", tmp_path / "out")
    assert "no images of the class 'empty'" in caplog.text
    assert members_of(tmp_path / "out")[0]["cls"] == b"1"


def test_a_file_that_is_no_image_is_named(tmp_path):
    with pytest.raises(SampleError, match="not an image that the installed Pillow can read"):
        member_extension(tmp_path / "x.heic", b"nothing")
    assert member_extension(tmp_path / "x.JPG", b"nothing") == "jpg"  # known names are believed


def test_shards_in_hidden_folders_are_not_seen(tmp_path):
    write_shards(tmp_path / ".clipkit" / "train-1", (1,))
    write_shards(tmp_path / "shards", (1,))
    assert visible_shards(tmp_path) == [tmp_path / "shards" / "00000.tar"]
