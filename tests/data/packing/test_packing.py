"""From every kind of source to the same bytes, and what happens in between."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkit.data.packing import shard_packer
from clipkit.data.packing.pack import pack
from clipkit.data.packing.sources import open_source
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.reader import ShardReader
from clipkit.errors import ConfigError, DataError, FaultBudgetExceeded
from tests.helpers.factories import COLORS, image_bytes, pair, write_shard, write_shards


def write_pictures(folder: Path, count: int = 7) -> list[str]:
    folder.mkdir(parents=True)
    names = [f"{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        color = list(COLORS)[number % len(COLORS)]
        (folder / name).write_bytes(image_bytes(color, (60, 40), seed=number))
    return names


def read_all(folder: Path) -> list[dict[str, bytes]]:
    index = ShardIndex.from_urls(str(folder / "*.tar"))
    reader = ShardReader(index)
    return [reader.read(number).members for number in range(index.num_samples)]


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    names = write_pictures(tmp_path / "photos" / "images")
    lines = ["image,caption,label,note"]
    lines += [f'images/{name},"a photo, number {n}",{n % 3},n{n}' for n, name in enumerate(names)]
    path = tmp_path / "photos" / "captions.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_csv_table(table: Path, tmp_path: Path) -> None:
    report = pack(table, tmp_path / "out", samples_per_shard=3)
    assert [path.name for path in report.shards] == ["00000.tar", "00001.tar", "00002.tar"]
    assert report.num_samples == 7
    assert report.faults == ()
    samples = read_all(tmp_path / "out")
    assert samples[4]["txt"] == b"a photo, number 4"
    assert samples[4]["cls"] == b"1"
    assert samples[4]["jpg"] == (table.parent / "images" / "4.jpg").read_bytes()
    assert json.loads(samples[4]["json"])["note"] == "n4"
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {
        "00000.tar": 3,
        "00001.tar": 3,
        "00002.tar": 1,
    }
    assert (tmp_path / "out" / "00000.tar.index.npz").exists()


def test_a_folder_with_a_table_and_pictures_elsewhere(table: Path, tmp_path: Path) -> None:
    pack(table.parent, tmp_path / "one")
    moved = tmp_path / "elsewhere" / "captions.tsv"
    moved.parent.mkdir()
    moved.write_text(table.read_text().replace('"', "").replace("photo, ", "photo ; "))
    moved.write_text(moved.read_text().replace(",", "\t").replace(" ; ", ", "))
    pack(moved, tmp_path / "two", images=table.parent)
    assert tars(tmp_path / "one") == tars(tmp_path / "two")


def test_a_parquet_table_with_lists_of_captions(tmp_path: Path) -> None:
    from pyarrow import parquet
    from pyarrow import table as arrow_table

    names = write_pictures(tmp_path / "images", 3)
    captions = [["one", "two"], ["three"], ["four"]]
    parquet.write_table(
        arrow_table({"filepath": names, "caption": captions, "cls": [0, None, 2]}),
        tmp_path / "images" / "data.parquet",
    )
    pack(tmp_path / "images" / "data.parquet", tmp_path / "out")
    samples = read_all(tmp_path / "out")
    assert [sample["txt"] for sample in samples] == [b"one\ntwo", b"three", b"four"]
    assert [sample.get("cls") for sample in samples] == [b"0", None, b"2"]


CELLS = {
    "words": ["dog;old_horse", "cat", "", "[]"],
    "numbers": ["1;2", "0", "", "[]"],
    "json": ['["dog", "old horse"]', '["cat"]', "", "[]"],
}


@pytest.mark.parametrize("kind", [*CELLS, "parquet"])
def test_several_classes_a_picture(kind: str, tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "images", 4)
    path = tmp_path / "images" / "table.tsv"
    if kind == "parquet":
        from pyarrow import parquet
        from pyarrow import table as arrow_table

        path = path.with_suffix(".parquet")
        cells = [["dog", "old_horse"], ["cat"], None, []]
        parquet.write_table(arrow_table({"image": names, "labels": cells}), path)
    else:
        with path.open("w", newline="") as file:
            rows = csv.writer(file, delimiter="\t")
            rows.writerows([("image", "classes"), *zip(names, CELLS[kind], strict=True)])
    pack(path, tmp_path / "out", class_names=["cat", "dog", "old horse"])
    samples = read_all(tmp_path / "out")
    found = [json.loads(sample["json"])["labels"] for sample in samples]
    assert found == [[1, 2], [0], None, []]
    assert (tmp_path / "out" / "classnames.txt").read_text().split("\n")[2] == "old horse"
    assert [sample["txt"] for sample in samples] == [b"dog, old horse", b"cat", b"", b""]


def test_classes_of_several_rows_are_joined_and_numbered_by_name(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 2)
    rows = "image,caption,labels\n0.jpg,one,tree\n0.jpg,two,car; tree\n1.jpg,three,bus\n"
    (tmp_path / "images" / "all.csv").write_text(rows)
    pack(tmp_path / "images", tmp_path / "out")
    samples = read_all(tmp_path / "out")
    assert [json.loads(sample["json"])["labels"] for sample in samples] == [[1, 2], [0]]
    assert (tmp_path / "out" / "classnames.txt").read_text() == "bus\ncar\ntree\n"


@pytest.mark.parametrize("cell", ['"[1, ""dog""]"', "[1", "[-1]", "[true]"])
def test_classes_that_are_no_list_are_named(cell: str, tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 1)
    table = tmp_path / "images" / "t.csv"
    table.write_text(f"image,labels\n0.jpg,{cell}\n")
    with pytest.raises(DataError, match=r"t\.csv: column labels, row 1: expected several classes"):
        pack(table, tmp_path / "out")


def test_rows_of_one_picture_are_one_sample(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 2)
    (tmp_path / "images" / "all.csv").write_text(
        "image,caption,split\n1.jpg,one,a\n0.jpg,two,b\n1.jpg,three,c\n0.jpg,,d\n"
    )
    pack(tmp_path / "images", tmp_path / "out")
    samples = read_all(tmp_path / "out")
    assert [sample["txt"] for sample in samples] == [b"one\nthree", b"two"]
    record = json.loads(samples[0]["json"])
    assert record["captions"] == ["one", "three"]
    assert record["split"] == "a"


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    write_pictures(tmp_path / "tree" / "b_class", 2)
    write_pictures(tmp_path / "tree" / "a class", 1)
    (tmp_path / "tree" / "a class" / "notes.md").write_text("no picture")
    pack(tmp_path / "tree", tmp_path / "out")
    samples = read_all(tmp_path / "out")
    assert [(s["cls"], s["txt"]) for s in samples] == [
        (b"0", b"a class"),
        (b"1", b"b class"),
        (b"1", b"b class"),
    ]
    assert (tmp_path / "out" / "classnames.txt").read_text() == "a class\nb class\n"


def test_coco_captions(tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "val", 2)
    content = {
        "images": [{"id": 10 + n, "file_name": name} for n, name in enumerate(names)],
        "annotations": [
            {"image_id": 11, "caption": " b1\nb1 "},
            {"image_id": 10, "caption": "a1"},
            {"image_id": 11, "caption": "b2"},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    pack(tmp_path / "captions.json", tmp_path / "out", images=tmp_path / "val")
    assert [sample["txt"] for sample in read_all(tmp_path / "out")] == [b"a1", b"b1 b1\nb2"]


def test_coco_captions_of_images_that_are_not_listed_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (name,) = write_pictures(tmp_path / "val", 1)
    annotations = [{"image_id": number, "caption": "a"} for number in (1, 2, 2)]
    content = {"images": [{"id": 1, "file_name": name}], "annotations": annotations}
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    pack(path, tmp_path / "out", images=tmp_path / "val")
    assert "skipping 2 captions of 1 images" in caplog.text
    content["images"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="one entry per image, got several with id 1"):
        pack(path, tmp_path / "twice", images=tmp_path / "val")


def test_shards_in_clip_benchmarks_layout(tmp_path: Path) -> None:
    write_shards(tmp_path / "data" / "test", [3, 4])
    (tmp_path / "data" / "test" / "nshards.txt").write_text("2")
    (tmp_path / "data" / "classnames.txt").write_text("red\ngreen\nblue\nyellow\n")
    report = pack(tmp_path / "data", tmp_path / "out", samples_per_shard=5)
    assert len(report.shards) == 2
    before = read_all(tmp_path / "data" / "test")
    after = read_all(tmp_path / "out")
    assert [dict(sorted(sample.items())) for sample in before] == after
    assert (tmp_path / "out" / "classnames.txt").read_text().startswith("red\n")
    write_shards(tmp_path / "data" / "train", [1])
    with pytest.raises(DataError, match=r"several folders \(test, train\)"):
        pack(tmp_path / "data", tmp_path / "again")


def test_bytes_depend_on_the_source_alone(table: Path, tmp_path: Path) -> None:
    for number, workers in enumerate((1, 3)):
        pack(
            table,
            tmp_path / f"out{number}",
            samples_per_shard=2,
            image_size=24,
            num_workers=workers,
        )
    assert tars(tmp_path / "out0") == tars(tmp_path / "out1")
    assert len(tars(tmp_path / "out0")) == 4


def test_pictures_are_reduced(tmp_path: Path) -> None:
    folder = tmp_path / "tree" / "class"
    folder.mkdir(parents=True)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    Image.new("RGB", (80, 40), "red").save(folder / "a.jpg", exif=rotated)
    Image.new("RGBA", (60, 90), (0, 0, 0, 0)).save(folder / "b.png")
    Image.new("RGB", (20, 300), "blue").save(folder / "c.webp")
    pack(tmp_path / "tree", tmp_path / "out", image_size=20)
    samples = read_all(tmp_path / "out")
    with Image.open(io.BytesIO(samples[0]["jpg"])) as image:
        assert image.size == (20, 40)
        assert np.allclose(np.asarray(image).mean((0, 1)), (254, 0, 0), atol=2)
    with Image.open(io.BytesIO(samples[1]["png"])) as image:
        assert (image.size, image.mode) == ((20, 30), "RGBA")
    assert samples[2]["webp"] == (folder / "c.webp").read_bytes()  # small enough as it is


def test_several_pictures_of_a_sample_stay_several(tmp_path: Path) -> None:
    """A reduced .webp was written as .jpg, over the picture that was trained on."""
    pictures = {
        "jpg": image_bytes("red", (60, 40), format="JPEG"),
        "webp": image_bytes("blue", (60, 40), format="WEBP"),
        "png": image_bytes("green", (60, 40), format="PNG"),
        "gif": image_bytes("yellow", (60, 40), format="GIF"),
        "jpeg": image_bytes("yellow", (60, 40), format="JPEG"),
        "txt": b"five",
    }
    alone = {"webp": pictures["webp"], "txt": b"one"}
    write_shard(tmp_path / "in" / "0.tar", [("many", pictures), ("one", alone)])
    pack(tmp_path / "in", tmp_path / "out", image_size=20)
    many, one = read_all(tmp_path / "out")
    assert set(many) == set(pictures)
    assert set(one) == {"jpg", "txt"}
    colors = {"jpg": "red", "webp": "blue", "png": "green", "gif": "yellow", "jpeg": "yellow"}
    for extension, color in colors.items():
        with Image.open(io.BytesIO(many[extension])) as image:
            assert image.size == (30, 20)
            assert image.format == {"jpg": "JPEG"}.get(extension, extension.upper())
            found = np.asarray(image.convert("RGB")).mean((0, 1))
        assert np.allclose(found, COLORS[color], atol=12)


def keys_in(folder: Path) -> list[str]:
    index = ShardIndex.from_urls(folder)
    reader = ShardReader(index)
    return [reader.read(number).key for number in range(index.num_samples)]


def test_shards_packed_again_keep_their_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for shard, keys in enumerate([["b/1", "a"], ["2", "c_d"]]):
        samples = [(key, pair(number)) for number, key in enumerate(keys)]
        write_shard(tmp_path / "in" / f"{shard}.tar", samples)
    pack(tmp_path / "in", tmp_path / "out", samples_per_shard=3)
    assert keys_in(tmp_path / "out") == ["b/1", "a", "2", "c_d"]
    assert "renamed" not in caplog.text
    assert read_all(tmp_path / "out") == read_all(tmp_path / "in")


def test_keys_that_several_shards_have_are_made_to_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for shard, keys in enumerate([["0", "1"], ["0", "0-2", "1"], ["/x/0", "0"]]):
        samples = [(key, pair(number)) for number, key in enumerate(keys)]
        write_shard(tmp_path / "in" / f"{shard}.tar", samples)
    expected = ["0", "1", "0-3", "0-2", "1-2", "x/0", "0-4"]
    for name, workers in (("one", 1), ("many", 4)):
        pack(tmp_path / "in", tmp_path / name, samples_per_shard=2, num_workers=workers)
        assert keys_in(tmp_path / name) == expected
    assert tars(tmp_path / "one") == tars(tmp_path / "many")
    assert "renamed 4 of 7 samples" in caplog.text
    assert "0 to 0-3, 1 to 1-2, /x/0 to x/0, ..." in caplog.text


def test_shards_of_equal_sizes_with_other_samples_are_another_source(tmp_path: Path) -> None:
    samples = [(name, pair(0)) for name in "ab"]
    write_shard(tmp_path / "in" / "0.tar", samples)
    pack(tmp_path / "in", tmp_path / "out")
    write_shard(tmp_path / "in" / "0.tar", samples[::-1])
    with pytest.raises(DataError, match="another source"):
        pack(tmp_path / "in", tmp_path / "out")


def test_an_interrupted_call_goes_on(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(table, tmp_path / "whole", samples_per_shard=2)
    prepare, calls = shard_packer.prepare, []

    def fail_at_the_fifth(members: dict[str, bytes], size: int | None) -> dict[str, bytes]:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return prepare(members, size)

    monkeypatch.setattr(shard_packer, "prepare", fail_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        pack(table, tmp_path / "out", samples_per_shard=2)
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"pack.json"}
    # A thread that was free may have taken the last shard before the others were called off.
    assert {"00000.tar", "00001.tar"} <= names <= {"00000.tar", "00001.tar", "00003.tar"}
    calls.clear()
    monkeypatch.setattr(shard_packer, "prepare", lambda m, s: calls.append(1) or prepare(m, s))
    progress: list[tuple[int, int]] = []
    pack(
        table,
        tmp_path / "out",
        samples_per_shard=2,
        on_sample=lambda done, total: progress.append((done, total)),
    )
    assert len(calls) == (2 if "00003.tar" in names else 3)
    assert progress[0] == (2, 7)
    assert progress[-1] == (7, 7)
    assert tars(tmp_path / "out") == tars(tmp_path / "whole")


def test_bad_samples_are_named_and_limited(table: Path, tmp_path: Path) -> None:
    (table.parent / "images" / "1.jpg").unlink()
    (table.parent / "images" / "5.jpg").write_bytes(image_bytes()[:400])
    with pytest.raises(FaultBudgetExceeded, match=r"1\.jpg: no such file"):
        pack(table, tmp_path / "strict", image_size=20)
    for _ in range(2):  # the second call finds the shards and says the same
        report = pack(
            table, tmp_path / "out", samples_per_shard=4, image_size=20, max_bad_samples=2
        )
        assert report.num_samples == 5
        assert [reason.split(":")[0] for _, reason in report.faults] == [
            "no such file",
            "image header cannot be read",
        ]
    assert len(read_all(tmp_path / "out")) == 5


def test_a_folder_that_holds_something_else(table: Path, tmp_path: Path) -> None:
    pack(table, tmp_path / "out", samples_per_shard=2)
    with pytest.raises(DataError, match="another source or other options"):
        pack(table, tmp_path / "out", samples_per_shard=3)
    table.write_text(table.read_text().replace("number 3", "number three"))
    with pytest.raises(DataError, match="another source or other options"):
        pack(table, tmp_path / "out", samples_per_shard=2)
    write_shards(tmp_path / "foreign", [2])
    with pytest.raises(DataError, match="not packed here"):
        pack(table, tmp_path / "foreign")


def test_sources_that_are_none(table: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        (tmp_path / "gone", "no such file or folder"),
        (empty, "found none of them"),
        (table.parent / "images" / "0.jpg", "expected one of"),
    ]
    bad = {
        "columns.csv": ("a,b\n1,2\n", "no column with images: .* got columns a, b"),
        "captions.csv": ("image,b\n1,2\n", "no column with captions"),
        "ragged.csv": ("image,caption\nx\n", "another number of columns"),
        "nothing.csv": ("image,caption\n", "no samples found"),
        "coco.json": ('{"images": []}', "expected COCO's captions"),
        "broken.json": ("{", "expected COCO's captions"),
        "broken.parquet": ("no parquet", "not a .*Parquet file"),
    }
    for name, (text, reason) in bad.items():
        (tmp_path / name).write_text(text)
        cases.append((tmp_path / name, reason))
    for path, reason in cases:
        with pytest.raises(DataError, match=reason):
            pack(path, tmp_path / "out")
    (table.parent / "more.tsv").write_text("image\tcaption\n")
    with pytest.raises(DataError, match=r"several tables \(captions\.csv, more\.tsv\)"):
        pack(table.parent, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_options(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="samples_per_shard: expected at least 1, got 0"):
        pack(table, tmp_path / "out", samples_per_shard=0)
    with pytest.raises(ConfigError, match="num_workers"):
        pack(table, tmp_path / "out", num_workers=0)
    with pytest.raises(ConfigError, match="image_size"):
        pack(table, tmp_path / "out", image_size=0)


def odd_images() -> dict[str, bytes]:
    """Images that Pillow opens and then cannot decode or store."""
    narrow, blp = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (9, 80_000)).save(narrow, format="BMP")  # a JPEG has at most 65,500 rows
    Image.new("P", (12, 9)).save(blp, format="BLP")
    damaged = bytearray(blp.getvalue())
    damaged[4] = 9
    return {"narrow.bmp": narrow.getvalue(), "damaged.bmp": bytes(damaged)}


@pytest.mark.parametrize("name", ["narrow.bmp", "damaged.bmp"])
def test_images_that_cannot_be_reduced_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "good.jpg").write_bytes(image_bytes())
    (tmp_path / name).write_bytes(odd_images()[name])
    (tmp_path / "t.csv").write_text(f"image,caption\ngood.jpg,a\n{name},b\n")
    report = pack(tmp_path / "t.csv", tmp_path / "out", image_size=8, max_bad_samples=1)
    assert report.num_samples == 1
    ((_, reason),) = report.faults
    assert reason.startswith("image")


def test_image_names_that_are_no_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(image_bytes())
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    names = ["good.jpg", "loop.jpg", "pipe.jpg", "x" * 300, "a\0.jpg", "good.jpg/x.jpg", "."]
    rows = "".join(f"{name},words\n" for name in names)
    (tmp_path / "t.csv").write_text(f"image,caption\n{rows}")
    report = pack(tmp_path / "t.csv", tmp_path / "out", max_bad_samples=6)
    assert report.num_samples == 1
    assert len(report.faults) == 6


def test_damaged_parquet_is_one_error(tmp_path: Path) -> None:
    """Columns that Arrow cannot read raise OSError, UnicodeDecodeError and others."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table(
        {"image": ["good.jpg"] * 50, "caption": ["words"] * 50}
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    for position in range(4, len(data) - 8, 17):
        changed = bytearray(data)
        changed[position] ^= 0x81
        (tmp_path / "t.parquet").write_bytes(changed)
        with contextlib.suppress(DataError):
            open_source(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        json.dumps({"images": [{"id": [], "file_name": "a.jpg"}], "annotations": []}),
        json.dumps({"images": [{"id": 1, "file_name": 2}], "annotations": []}),
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.jpg"}],
                "annotations": [{"image_id": 1, "caption": "\ud800"}],
            }
        ),
    ],
    ids=["deep", "id that is a list", "name that is a number", "half a character"],
)
def test_odd_coco_files_are_one_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(DataError, match="expected COCO's captions"):
        pack(tmp_path / "captions.json", tmp_path / "out")
