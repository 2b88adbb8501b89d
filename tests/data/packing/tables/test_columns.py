"""Columns of a table: those of well-known data sets by name, others by option, typos named."""

from __future__ import annotations

import pytest

from clipkit.data.packing.tables.columns import (
    TableColumns,
    captions_in,
    member_of,
    used_columns,
)
from clipkit.errors import DataError

KNOWN = {
    "flickr30k results.csv": (
        ["image_name", "comment_number", "comment"],
        ("image_name", "comment"),
    ),
    "flickr30k on the hub": (
        ["image", "caption", "sentids", "split", "img_id", "filename"],
        ("image", "caption"),
    ),
    "flickr annotations": (["raw", "sentids", "split", "filename", "img_id"], ("filename", "raw")),
    "coco on the hub": (
        ["filepath", "sentids", "filename", "imgid", "sentences", "cocoid", "url", "image"],
        ("image", "sentences"),
    ),
    "coco 2017": (["file_name", "coco_url", "captions"], ("file_name", "captions")),
    "conceptual captions": (["image_url", "caption", "image"], ("image", "caption")),
    "laion with files": (["URL", "TEXT", "similarity", "image_path"], ("image_path", "TEXT")),
    "img2dataset": (["key", "url", "caption", "status", "jpg"], ("jpg", "caption")),
    "cifar": (["img", "label"], ("img",)),
    "capitals and blanks": (["Image", " Caption"], ("Image", " Caption")),
}


@pytest.mark.parametrize("name", KNOWN)
def test_columns_of_well_known_data_sets(name):
    columns, expected = KNOWN[name]
    used = used_columns("t", columns, TableColumns())
    assert (*used.images, *used.captions) == expected


@pytest.mark.parametrize(
    ("columns", "images", "sounds"),
    [
        (["audio", "text"], (), ("audio",)),
        (["path", "audio", "sentences"], (), ("audio",)),  # Common Voice: path is that of the audio
        (["file_name", "caption"], ("file_name",), ()),  # of either kind, by its content
        (["image", "audio", "caption"], ("image",), ("audio",)),
        (["Audio", "Caption"], (), ("Audio",)),
    ],
)
def test_columns_with_sounds(columns, images, sounds):
    used = used_columns("t", columns, TableColumns())
    assert (used.images, used.sounds) == (images, sounds)
    assert used.files == (*images, *sounds)


def test_named_columns_with_sounds():
    names = ["image", "audio", "noise", "caption"]
    used = used_columns("t", names, TableColumns(sounds=["noise", "audio"]))
    assert used.sounds == ("noise", "audio")
    assert used_columns("t", names, TableColumns(sounds=[])).sounds == ()
    with pytest.raises(DataError, match=r"columns\.sounds: no column 'nois'; did you mean 'noise'"):
        used_columns("t", names, TableColumns(sounds=["nois"]))


def test_a_named_image_column_is_no_sound():
    names = ["audio", "caption"]
    used = used_columns("t", names, TableColumns(images=["audio"]))
    assert (used.images, used.sounds) == (("audio",), ())
    used = used_columns("t", [*names, "wav"], TableColumns(images=["audio"]))
    assert (used.images, used.sounds) == (("audio",), ("wav",))


@pytest.mark.parametrize(
    ("columns", "options", "is_named"),
    [
        (["path", "caption", "audio"], TableColumns(), True),
        (["path", "caption", "audio"], TableColumns(images=["path"]), False),
        (["path", "caption", "audio", "image"], TableColumns(), False),
        (["caption", "audio"], TableColumns(), False),
        (["path", "caption"], TableColumns(), False),
    ],
)
def test_a_column_that_sounds_leave_out_is_named(columns, options, is_named, caplog):
    used_columns("t.csv", columns, options)
    assert ("clipkit shards pack --image-columns path" in caplog.text) == is_named
    assert ("t.csv: column 'audio' is used for sounds" in caplog.text) == is_named


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["URL", "TEXT"], "'URL' contains addresses, which are not downloaded here: use img2data"),
        (["imgae", "caption"], r"no column with images: .*'imgae': did you mean 'image'"),
        (["image", "captoin"], r"no column with captions: .*'captoin': did you mean 'caption'"),
        (["image", "x"], r"--caption-columns NAME, data\.storage\.columns\.captions for fit"),
    ],
)
def test_missing_columns_are_named(columns, message):
    with pytest.raises(DataError, match=message):
        used_columns("t.csv", columns, TableColumns())


def test_named_columns_are_used_as_they_are():
    names = ["photo", "depth", "prompt", "caption"]
    used = used_columns("t", names, TableColumns(["photo", "depth"], ["prompt", "caption"]))
    assert used.images == ("photo", "depth")
    assert used.captions == ("prompt", "caption")
    with pytest.raises(DataError, match=r"columns.images: no column 'foto'; did you mean 'photo'"):
        used_columns("t", names, TableColumns(["foto"], ["prompt"]))


def test_classes_may_stand_in_for_captions():
    used = used_columns("t", ["image", "label", "comment"], TableColumns())
    assert used.captions == ()
    assert used.has_classes


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ([{"raw": "a cat", "sentid": 3}, {"raw": "two  cats", "sentid": 4}], ["a cat", "two cats"]),
        ({"raw": "a cat", "tokens": ["a", "cat"]}, ["a cat"]),
        ('["a cat", "two cats"]', ["a cat", "two cats"]),
        ("[a cat", ["[a cat"]),
        (["a cat", None, ""], ["a cat"]),
    ],
)
def test_sentences_in_all_forms(cell, expected):
    assert captions_in({"sentences": cell}, ["sentences"]) == expected


def test_a_caption_that_looks_like_json_stays_one_caption():
    assert captions_in({"caption": '["a cat"]'}, ["caption"]) == ['["a cat"]']


def test_members_of_further_columns():
    assert member_of("Normal.map / 2") == "normal_map_2"
