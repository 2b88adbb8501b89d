"""Images inside tables: the Hub's structs, plain bytes, names of files, and ``datasets``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipkit.data import ShardIndex, ShardReader, TableColumns, pack
from clipkit.data.packing.sources import open_source, source_of_dataset
from clipkit.errors import DataError, FaultBudgetExceeded
from tests.helpers.factories import image_bytes

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

IMAGES = [image_bytes(seed=n) for n in range(5)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def structs(images, paths=None):
    paths = paths or [None] * len(images)
    cells = [{"bytes": data, "path": path} for data, path in zip(images, paths, strict=True)]
    return pa.array(cells, STRUCT)


def write(path: Path, columns, **options) -> Path:
    parquet.write_table(pa.table(columns), path, **options)
    return path


def samples_of(report):
    reader = ShardReader(ShardIndex.from_urls(list(report.shards)))
    return [reader.read(n).members for n in range(reader.num_samples)]


@pytest.mark.parametrize("group", [1, 2, 100])
@pytest.mark.parametrize("statistics", [True, False])
def test_every_row_of_the_hubs_form_is_a_sample(tmp_path, group, statistics):
    columns = {"image": structs(IMAGES, ["image.jpg"] * 5), "caption": list("abcde")}
    file = write(tmp_path / "t.parquet", columns, row_group_size=group, write_statistics=statistics)
    samples = samples_of(pack(file, tmp_path / "out", samples_per_shard=2, num_workers=2))
    assert [sample["jpg"] for sample in samples] == IMAGES
    assert [sample["txt"] for sample in samples] == [b"a", b"b", b"c", b"d", b"e"]
    assert json.loads(samples[2]["json"]) == {
        "caption": "c",
        "captions": ["c"],
        "image": "image.jpg",
    }


def test_several_captions_per_image(tmp_path):
    captions = pa.array([["a", "b"], ["c"]], pa.list_(pa.string()))
    file = write(tmp_path / "t.parquet", {"image": structs(IMAGES[:2]), "caption": captions})
    assert [i.texts()["txt"] for i in open_source(file).items] == [b"a\nb", b"c"]


def test_plain_bytes_are_images(tmp_path):
    file = write(tmp_path / "t.parquet", {"jpg": IMAGES, "caption": list("abcde")})
    assert [s["jpg"] for s in samples_of(pack(file, tmp_path / "out"))] == IMAGES


def test_rows_without_bytes_name_files_of_the_folder(tmp_path):
    (tmp_path / "b.jpg").write_bytes(IMAGES[1])
    cells = structs([IMAGES[0], None], ["a.jpg", "b.jpg"])
    file = write(tmp_path / "t.parquet", {"image": cells, "caption": ["a", "b"]})
    assert [s["jpg"] for s in samples_of(pack(file, tmp_path / "out"))] == IMAGES[:2]
    cells = structs([IMAGES[0], None], ["a.jpg", "/etc/passwd"])
    file = write(tmp_path / "u.parquet", {"image": cells, "caption": ["a", "b"]})
    with pytest.raises(DataError, match="1 of 1 images are outside"):
        pack(file, tmp_path / "out2")


def test_several_image_columns_become_members(tmp_path):
    depth = [image_bytes(seed=n, format="PNG") for n in range(10, 15)]
    columns = {"photo": structs(IMAGES), "Depth": depth, "other": IMAGES, "prompt": list("abcde")}
    file = write(tmp_path / "t.parquet", columns)
    options = TableColumns(images=["photo", "Depth"], captions=["prompt"])
    samples = samples_of(pack(file, tmp_path / "out", columns=options))
    assert [set(sample) for sample in samples] == [{"jpg", "depth.png", "txt", "json"}] * 5
    assert [sample["depth.png"] for sample in samples] == depth
    assert "other" not in json.loads(samples[0]["json"])


def test_names_of_classes_come_from_the_hubs_description(tmp_path):
    features = {"label": {"names": ["cat", "big_dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": structs(IMAGES[:3]), "label": [1, 0, -1]})
    parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert source.files["classnames.txt"].split("\n")[:2] == ["cat", "big dog"]
    assert [item.texts().get("cls") for item in source.items] == [b"1", b"0", None]
    assert source.items[0].texts()["txt"] == b"big dog"


def test_failed_downloads_are_skipped_with_a_count(tmp_path, caplog):
    columns = {
        "jpg": [IMAGES[0], None, IMAGES[2]],
        "caption": list("abc"),
        "status": ["success", "failed_to_download", "success"],
    }
    source = open_source(write(tmp_path / "00000.parquet", columns))
    assert [item.texts()["txt"] for item in source.items] == [b"a", b"c"]
    assert source.items[1].members()["jpg"] == IMAGES[2]
    assert "skipped 1 rows of failed downloads" in caplog.text


def test_parts_in_a_folder_are_one_table(tmp_path):
    for part, captions in enumerate((["a", "b"], ["c"])):
        name = f"train-{part:05d}-of-00002.parquet"
        columns = {"image": structs(IMAGES[part * 2 : part * 2 + len(captions)])}
        write(tmp_path / name, {**columns, "caption": captions})
    texts = [item.texts()["txt"] for item in open_source(tmp_path).items]
    assert texts == [b"a", b"b", b"c"]
    pattern = tmp_path / "train-*.parquet"
    assert [item.members()["jpg"] for item in open_source(pattern).items] == IMAGES[:3]
    write(tmp_path / "test-00000-of-00001.parquet", {"image": structs(IMAGES), "caption": IMAGES})
    with pytest.raises(DataError, match="contains several tables"):
        open_source(tmp_path)
    with pytest.raises(DataError, match=r"x-\*\.parquet: no files match"):
        open_source(tmp_path / "x-*.parquet")


def test_parts_with_other_columns_are_refused(tmp_path):
    write(tmp_path / "0000.parquet", {"image": structs(IMAGES), "caption": list("abcde")})
    write(tmp_path / "0001.parquet", {"image": structs(IMAGES), "text": list("abcde")})
    with pytest.raises(DataError, match=r"0001\.parquet: expected the columns of .*0000\.parquet"):
        open_source(tmp_path)


def test_hostile_parquet_is_named(tmp_path):
    file = write(tmp_path / "t.parquet", {"image": structs(IMAGES), "caption": list("abcde")})
    whole = file.read_bytes()
    for name, data in {"cut": whole[: len(whole) // 2], "head": whole[:10], "none": b""}.items():
        torn = tmp_path / f"{name}.parquet"
        torn.write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}\.parquet: not a complete Parquet file"):
            open_source(torn)
    lists = pa.array([IMAGES] * 2, pa.list_(pa.binary()))
    file = write(tmp_path / "l.parquet", {"image": lists, "caption": ["a", "b"]})
    with pytest.raises(DataError, match="column image: expected one file per row"):
        open_source(file)
    file = write(tmp_path / "n.parquet", {"image": structs([IMAGES[0], None]), "caption": ["", ""]})
    with pytest.raises(DataError, match="row 2 names no image"):
        open_source(file)
    file = write(tmp_path / "b.parquet", {"image": structs([b"no image"]), "caption": ["a"]})
    with pytest.raises(FaultBudgetExceeded, match="row 1: not an image"):
        pack(file, tmp_path / "out")


def test_damage_found_while_packing_is_named(tmp_path):
    columns = {"image": structs(IMAGES), "caption": list("abcde")}
    file = write(tmp_path / "t.parquet", columns, compression="none")
    data = bytearray(file.read_bytes())
    source = open_source(file)
    data[4:3000] = bytes(2996)
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"t\.parquet: not a complete Parquet file"):
        source.items[0].members()


def test_a_changed_file_has_another_fingerprint(tmp_path):
    file = write(tmp_path / "t.parquet", {"image": structs(IMAGES), "caption": list("abcde")})
    first = open_source(file).fingerprint()
    assert open_source(file).fingerprint() == first
    write(file, {"image": structs(IMAGES[::-1]), "caption": list("abcde")})
    assert open_source(file).fingerprint() != first


def test_a_dataset_is_read_with_its_selection(tmp_path):
    datasets = pytest.importorskip("datasets")
    cells = [{"bytes": data, "path": None} for data in IMAGES]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    columns = {"image": cells, "caption": list("abcde"), "label": [0, 1, 0, 1, 0]}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    chosen = dataset.select([4, 1, 3])
    samples = samples_of(pack(chosen, tmp_path / "out", samples_per_shard=2))
    assert [sample["jpg"] for sample in samples] == [IMAGES[n] for n in (4, 1, 3)]
    assert [sample["cls"] for sample in samples] == [b"0", b"1", b"1"]
    assert (tmp_path / "out" / "classnames.txt").read_text().split() == ["cat", "dog"]
    again = source_of_dataset(dataset.select([4, 1, 3])).fingerprint()
    assert again == source_of_dataset(chosen).fingerprint()
    assert again != source_of_dataset(dataset.select([1, 4, 3])).fingerprint()
    with pytest.raises(DataError, match="no samples"):
        pack(dataset.select([]), tmp_path / "none")


def test_objects_that_are_not_one_split_are_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"image": ["a.jpg"], "caption": ["a"]})
    with pytest.raises(DataError, match="DatasetDict: expected one split, got 'train', 'test'"):
        pack(datasets.DatasetDict({"train": dataset, "test": dataset}), tmp_path / "out")
    with pytest.raises(DataError, match=r"IterableDataset: .*load it without streaming=True"):
        pack(dataset.to_iterable_dataset(), tmp_path / "out")
    with pytest.raises(DataError, match=r"list: expected a path, an address or a datasets\.Data"):
        pack([1], tmp_path / "out")
    with pytest.raises(DataError, match="are outside of"):
        pack(datasets.Dataset.from_dict({"image": ["/etc/x"], "caption": ["a"]}), tmp_path / "out")
