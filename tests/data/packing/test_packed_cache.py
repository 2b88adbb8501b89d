"""Tables and folders as data: packed once, the same shards each time, few-shot and by class."""

from __future__ import annotations

import csv
import errno
import logging
import os
import shutil
from pathlib import Path

import pytest

from clipkit.data import PairStream, ShardIndex, ShardReader
from clipkit.data.packing.packed_cache import is_raw, pack_classes_to_cache, pack_to_cache
from clipkit.data.packing.sources import open_source
from clipkit.data.packing.subsets import sample_per_class, split_by_class
from clipkit.errors import ConfigError, DataError
from tests.data.packing.tables.test_table import Content
from tests.helpers.factories import image_bytes, write_shards
from tests.helpers.letters import Letters

COUNTS = {"blue_rose": 5, "daisy": 3, "tulip": 2}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of one folder a class."""
    root = tmp_path / "photos"
    for name, count in COUNTS.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.jpg").write_bytes(image_bytes("red", seed=number))
    return root


@pytest.fixture
def table(folder) -> Path:
    """The same as a table with words for classes, in no order."""
    pictures = sorted(folder.rglob("*.jpg"), key=lambda path: (path.name, path.parent))
    with (folder.parent / "photos.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label"])
        writer.writerows([f"photos/{p.parent.name}/{p.name}", p.parent.name] for p in pictures)
    return folder.parent / "photos.csv"


def labels_of(shards) -> list[int]:
    index = ShardIndex.from_urls(list(shards))
    reader = ShardReader(index)
    return [int(reader.read(number).members["cls"]) for number in range(len(index))]


def stream(shards) -> PairStream:
    index = ShardIndex.from_urls(list(shards))
    return PairStream(index, tokenizer=Letters(), batch_size=2, image_size=16)


def test_a_shard_that_is_gone_from_the_cache_is_named(folder):
    first = Path(pack_to_cache(folder).shards[0])
    first.unlink()
    with pytest.raises(DataError, match=rf"{first.parent}: {first.name} is missing"):
        pack_to_cache(folder)
    shutil.rmtree(first.parent)
    assert pack_to_cache(folder).shards == (first,)


def test_a_folder_of_classes_is_packed_once_beside_it(folder, monkeypatch):
    first = pack_to_cache(folder)
    assert Path(first.shards[0]).parents[1] == folder.parent / ".clipkit"
    assert first.class_names == ("blue rose", "daisy", "tulip")
    assert sorted(labels_of(first.shards)) == [0] * 5 + [1] * 3 + [2] * 2

    monkeypatch.setattr(
        "clipkit.data.packing.packed_cache.pack", None
    )  # a second packing would fail
    assert pack_to_cache(folder) == first


def test_the_order_outlives_the_cache(folder):
    before = stream(pack_to_cache(folder).shards)
    batches = iter(before)
    before.commit(next(batches))
    state = before.state_dict()
    rest = [key for batch in batches for key in batch.keys]
    shutil.rmtree(folder.parent / ".clipkit")

    after = stream(pack_to_cache(folder).shards)
    after.load_state_dict(state)

    assert [key for batch in after for key in batch.keys] == rest


def test_a_changed_picture_makes_other_shards(folder):
    before = pack_to_cache(folder).shards
    (folder / "tulip" / "0.jpg").write_bytes(image_bytes("blue", seed=99))
    after = pack_to_cache(folder).shards
    assert before != after
    assert Path(before[0]).exists()


def test_words_in_a_table_are_classes_and_captions(table):
    prepared = pack_to_cache(table)
    assert prepared.class_names == ("blue rose", "daisy", "tulip")
    members = ShardReader(ShardIndex.from_urls(list(prepared.shards))).read(0).members
    assert (members["cls"], members["txt"]) == (b"0", b"blue rose")


def test_a_table_may_number_its_names_itself(tmp_path):
    (tmp_path / "t.csv").write_text("file,class_index,class_name\na.jpg,1,cat\nb.jpg,0,dog\n")
    read = Content(tmp_path / "t.csv")
    assert read.class_names == ("dog", "cat")
    assert read.samples["a.jpg"]["cls"] == b"1"


def test_class_names_of_the_training_data_number_the_validation(folder, tmp_path):
    shutil.rmtree(folder / "daisy")
    assert set(
        labels_of(pack_to_cache(folder, class_names=["x", "tulip", "blue rose"]).shards)
    ) == {1, 2}
    with pytest.raises(DataError, match="class 'blue rose' is not among the 1 known classes"):
        pack_to_cache(folder, class_names=["tulip"])


def test_few_of_each_class_by_seed(folder, caplog):
    source = open_source(folder)
    with caplog.at_level(logging.WARNING):
        three = sample_per_class(source, 3, seed=1)
    sizes = {label: len(part.items) for label, part in split_by_class(three).items()}
    assert sizes == {0: 3, 1: 3, 2: 2}
    assert "class 2 has 2 samples of 3" in caplog.text
    assert three.items == sample_per_class(source, 3, seed=1).items
    assert (
        len({tuple(i.identity for i in sample_per_class(source, 2, s).items) for s in range(6)}) > 1
    )
    assert {i.identity for i in sample_per_class(source, 2, 1).items} <= {
        i.identity for i in three.items
    }
    assert len(labels_of(pack_to_cache(folder, samples_per_class=1).shards)) == 3
    with pytest.raises(ConfigError, match="samples_per_class: expected at least 1"):
        sample_per_class(source, 0)


def test_classes_apart(folder):
    classes = pack_classes_to_cache(folder)
    assert {name: len(labels_of(p.shards)) for name, p in classes.items()} == {
        "blue rose": 5,
        "daisy": 3,
        "tulip": 2,
    }


def test_shards_can_be_chosen_from_too(tmp_path):
    write_shards(tmp_path / "shards", (6, 6))
    classes = pack_classes_to_cache(f"{tmp_path}/shards/*.tar", samples_per_class=2)
    assert {name: labels_of(p.shards) for name, p in classes.items()} == {
        str(label): [label, label] for label in range(4)
    }


def test_data_without_classes_are_refused(tmp_path):
    write_shards(tmp_path / "shards", (3,), label=False)
    with pytest.raises(DataError, match="have no classes"):
        pack_to_cache(tmp_path / "shards", samples_per_class=1)


def test_what_is_raw(folder, table, tmp_path):
    write_shards(tmp_path / "layout" / "test", (2,))
    assert is_raw(folder)
    assert is_raw(table)
    for other in (tmp_path / "layout", tmp_path / "layout/test", f"{tmp_path}/*.tar", "s3://b/c"):
        assert not is_raw(other)


def test_a_folder_that_cannot_be_written_to(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "home"))
    (folder.parent / ".clipkit").write_text("in the way")
    assert Path(pack_to_cache(folder).shards[0]).is_relative_to(tmp_path / "home" / "packed")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_disk_that_refuses_the_cache(folder, monkeypatch, tmp_path, number, caplog):
    """The next cache is taken, aloud; only where all refuse is it an error, and nothing is left."""
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "home"))
    refused = [folder.parent / ".clipkit"]
    real = os.fsync

    def fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        if any(target.is_relative_to(place) for place in refused):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert Path(pack_to_cache(folder).shards[0]).is_relative_to(tmp_path / "home" / "packed")
    assert os.strerror(number) in caplog.text
    assert [p for p in refused[0].rglob("*") if p.is_dir() or p.suffix == ".tar"] == []

    refused.append(tmp_path / "home")
    (folder / "daisy" / "0.jpg").write_bytes(image_bytes("blue"))  # other shards are needed
    with pytest.raises(DataError, match="CLIPKIT_CACHE"):
        pack_to_cache(folder)


def test_an_edited_table_is_packed_again_where_its_folder_is_named(folder, caplog):
    """The cache lies inside that folder, and its shards are of the table's earlier state."""
    (folder / "train.csv").write_text("file,label\ndaisy/0.jpg,daisy\ntulip/0.jpg,tulip\n")
    for picture in folder.rglob("*.jpg"):
        picture.touch()
    before = pack_to_cache(folder / "train.csv")
    (folder / "train.csv").write_text("file,label\ndaisy/0.jpg,tulip\n")
    assert is_raw(folder)
    by_folder = pack_to_cache(folder)
    assert len(labels_of(by_folder.shards)) == 1
    assert by_folder.class_names == ("tulip",)
    assert not caplog.text  # the folder was never packed before
    after = pack_to_cache(folder / "train.csv")
    assert labels_of(after.shards) == [0] != labels_of(before.shards)
    assert "train.csv or its images changed since it was packed into" in caplog.text
    assert str(Path(before.shards[0]).parent) in caplog.text
    caplog.clear()
    pack_to_cache(folder / "train.csv", samples_per_class=1)  # another choice is no other state
    assert pack_to_cache(folder / "train.csv") == after
    assert not caplog.text


def test_classes_of_one_name_stay_apart(folder):
    rows = "file,label,class_name\ndaisy/0.jpg,4,crane\ntulip/0.jpg,9,crane\ntulip/1.jpg,2,\n"
    (folder / "t.csv").write_text(rows)
    classes = pack_classes_to_cache(folder / "t.csv")
    found = {name: labels_of(part.shards) for name, part in classes.items()}
    assert found == {"2": [2], "crane (4)": [4], "crane (9)": [9]}
