"""ESC-50, UrbanSound8K and FSD50K as they are published: splits, classes, and what is refused."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from clipkit.data.packing.packed_cache import is_raw, pack_to_cache
from clipkit.data.packing.sound_sets.recognise import is_sound_set
from clipkit.data.packing.sources import open_source
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.reader import ShardReader
from clipkit.errors import DataError
from tests.helpers.sound_sets import ESC, write_esc50, write_fsd50k, write_urbansound8k


@pytest.fixture(scope="module")
def esc50(tmp_path_factory):
    return write_esc50(tmp_path_factory.mktemp("sets") / "ESC-50")


def samples(address):
    items = open_source(address).items
    return [(item.files[0].name, item.texts()) for item in items]


def folds(address):
    return [json.loads(texts["json"])["fold"] for _, texts in samples(address)]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("", {1: 12, 2: 12, 3: 12}),
        ("all", {1: 12, 2: 12, 3: 12}),
        ("fold2", {2: 12}),
        ("fold1+fold3", {1: 12, 3: 12}),
        ("except-fold2", {1: 12, 3: 12}),
        ("except-fold1+fold2", {3: 12}),
        ("esc10", {1: 8, 2: 8, 3: 8}),
        ("esc10-fold3", {3: 8}),
        ("esc10-except-fold3", {1: 8, 2: 8}),
    ],
)
def test_a_split_has_the_rows_of_its_folds(esc50, split, expected):
    found = folds(esc50 / split if split else esc50)
    assert {fold: found.count(fold) for fold in sorted(set(found))} == expected


def test_classes_are_numbered_without_gaps_and_named_without_underscores(esc50):
    by_number = sorted(ESC, key=ESC.__getitem__)
    assert open_source(esc50).files["classnames.txt"] == "dog\ncrackling fire\nchainsaw\n"
    assert open_source(esc50 / "esc10-fold1").files["classnames.txt"] == "dog\nchainsaw\n"
    for name, texts in samples(esc50):
        number = int(name.rpartition("-")[2].removesuffix(".wav"))
        expected = by_number.index(next(n for n, of in ESC.items() if of == number))
        assert int(texts["cls"]) == expected
    facts = json.loads(samples(esc50 / "fold1")[0][1]["json"])
    assert facts == {"captions": ["dog"], "fold": 1, "recording": "100"}


def test_packed_splits_have_the_bytes_of_the_files(esc50):
    assert is_raw(str(esc50 / "fold1"))
    packed = pack_to_cache(str(esc50 / "fold1"))
    assert pack_to_cache(str(esc50 / "fold1")).shards == packed.shards
    assert pack_to_cache(str(esc50 / "fold2")).shards != packed.shards
    reader = ShardReader(ShardIndex.from_urls(packed.shards))
    first = reader.read(0).members
    assert first["wav"] == (esc50 / "audio" / "1-00-A-0.wav").read_bytes()
    assert packed.class_names == ("dog", "crackling fire", "chainsaw")


def test_urbansound8k_has_its_folds_in_folders(tmp_path):
    root = write_urbansound8k(tmp_path / "UrbanSound8K")
    assert folds(root) == [1, 1, 2, 2]
    assert folds(root / "except-fold1") == [2, 2]
    assert open_source(root).files["classnames.txt"] == "air conditioner\ncar horn\n"
    assert not is_raw(str(root / "audio" / "fold9"))
    for other in ("{0..3}.tar", "0.tar", "train.csv", "*.tar", "audio", "fold1/audio"):
        assert not is_sound_set(root / other)


def test_fsd50k_has_several_classes_per_sound(tmp_path):
    root = write_fsd50k(tmp_path / "FSD50K")
    for split, expected in {
        "train": ["1.wav", "2.wav"], "val": ["3.wav"], "dev": ["1.wav", "2.wav", "3.wav"],
        "eval": ["4.wav", "5.wav", "6.wav"],
    }.items():  # fmt: skip
        assert [name for name, _ in samples(root / split)] == expected
    assert len(samples(root)) == 6
    source = open_source(root / "eval")
    assert source.files["dataset_type.txt"] == "multilabel\n"
    texts = source.items[1].texts()
    assert json.loads(texts["json"])["labels"] == [1, 2]
    assert np.load(io.BytesIO(texts["npy"])).tolist() == [0, 1, 1]
    assert texts["txt"] == b"Bark\nDog"


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "no split 'test'; expected all, fold1, fold2, fold3.*5 runs"),
        ("fold6", "no split 'fold6'"),
        ("fold01", "no split 'fold01'"),
        ("fold1+", "no split"),
        ("except-", "no split"),
        ("except-fold1+fold2+fold3", "no fold left"),
        ("esc10-fold4", "no split 'fold4'"),
    ],
)
def test_unknown_splits_are_refused(esc50, split, message):
    with pytest.raises(DataError, match=message):
        open_source(esc50 / split)


ROW = "1-0-A-0.wav,1,0,dog,True,1,A"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("filename,fold\nx.wav,1\n", "expected the columns filename, fold, target"),
        ("", "expected the columns"),
        (f"HEAD\n{ROW}\n1-1-A-0.wav,x,0,dog,True,1,A\n", "line 3: fold: expected a number"),
        (f"HEAD\n{ROW}\n1-1-A-0.wav,1,-1,dog,True,1,A\n", "line 3: target: expected a number"),
        (f"HEAD\n{ROW}\n1-1-A-0.wav,1,0,cat,True,1,A\n", "line 3: class 0 is 'cat', but 'dog'"),
        (f"HEAD\n{ROW}\n1-1-A-0.wav,1,0,dog,maybe,1,A\n", "line 3: esc10"),
        (f"HEAD\n{ROW}\n../../etc/passwd,1,0,dog,True,1,A\n", "line 3: expected the name of a"),
        (f"HEAD\n{ROW}\n,1,0,dog,True,1,A\n", "line 3: no value in the column filename"),
        (f"HEAD\n{ROW}\n1-1-A-0.wav,1\n", "line 3: no value in the column target"),
        (f"HEAD\n{ROW}\nlost.wav,1,0,dog,True,1,A\n", "1 of 2 sounds are missing: .*lost.wav"),
        (f"HEAD\n{ROW}\n{ROW}\n", "1 sounds are in several rows of the table: .*1-0-A-0.wav"),
        ("HEAD\n", "has no such clips"),
        (f"HEAD\n{ROW}\n1-1-A-0.wav,{'9' * 5000},0,dog,True,1,A\n", "line 3: fold: .* 9 digits"),
    ],
)
def test_damaged_tables_are_named(tmp_path, table, message):
    root = write_esc50(tmp_path / "ESC-50", folds=1, per_class=1)
    (root / "audio" / "1-0-A-0.wav").write_bytes((root / "audio" / "1-00-A-0.wav").read_bytes())
    head = "filename,fold,target,category,esc10,src_file,take"
    (root / "meta" / "esc50.csv").write_text(table.replace("HEAD", head))
    with pytest.raises(DataError, match=message):
        open_source(root)


def test_a_cell_above_the_limit_of_the_reader_is_named(tmp_path):
    root = write_esc50(tmp_path / "ESC-50", folds=1, per_class=1)
    (root / "meta" / "esc50.csv").write_text(f"{'x' * 2000}\n")
    before = csv.field_size_limit(1000)  # reading other tables raises that of the process
    try:
        with pytest.raises(DataError, match="line 1: field larger than field limit"):
            open_source(root)
    finally:
        csv.field_size_limit(before)


def test_damaged_tables_of_fsd50k_are_named(tmp_path):
    root = write_fsd50k(tmp_path / "FSD50K")
    truth = root / "FSD50K.ground_truth"
    with pytest.raises(DataError, match="no split 'test'; expected train, val, dev, eval"):
        open_source(root / "test")
    (truth / "eval.csv").write_text("fname,labels,mids\n4,Cat,/m/x\n")
    with pytest.raises(
        DataError, match=r"eval\.csv: line 2: the label 'Cat' is not in .*vocabulary"
    ):
        open_source(root / "eval")
    (truth / "dev.csv").write_text("fname,labels,mids,split\n1,Dog,/m/x,test\n")
    with pytest.raises(DataError, match="split: expected train or val, got 'test'"):
        open_source(root / "dev")
    (truth / "dev.csv").unlink()
    with pytest.raises(DataError, match=r"dev\.csv: cannot be read"):
        open_source(root / "dev")
    (truth / "vocabulary.csv").write_text("index,label,mid\n0,Accordion,/m/0\n")
    with pytest.raises(DataError, match=r"vocabulary\.csv: line 1: expected 0"):
        open_source(root / "eval")
