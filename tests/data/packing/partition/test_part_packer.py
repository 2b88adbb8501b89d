"""Parts of a table are together what ``pack`` makes of it, whoever packs them, and when."""

from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipkit.data.packing import shard_packer
from clipkit.data.packing.pack import pack
from clipkit.data.packing.partition.part_files import check_parts, merge_parts
from clipkit.data.packing.partition.part_packer import PartPacker, PartPlan
from clipkit.data.packing.shard_packer import PackOptions
from clipkit.data.packing.tables.columns import TableColumns
from clipkit.errors import ConfigError, DataError, FaultBudgetExceeded
from clipkit.part import Part
from tests.helpers.factories import image_bytes


def content(folder: Path) -> dict[str, bytes]:
    """Return what the folder contains for readers; index files have the times of the tars."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if not path.name.endswith(".index.npz")
        and path.name != "pack.json"
        and not path.name.startswith(".part-")
    }


def write_table(folder: Path, rows: list[str], header: str = "image,caption,label") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = {row.partition(",")[0] for row in rows}
    for name in names:
        (folder / name).write_bytes(image_bytes("red", (8, 6), seed=len(name)))
    path = folder / "t.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def pack_parts(plan: PartPlan, order: list[int] | None = None) -> int:
    """Pack every part as a process of its own would; return the number of samples."""
    numbers = order or list(range(1, plan.num_parts + 1))
    return sum(PartPacker(plan).pack(number).num_samples for number in numbers)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Images in several rows far apart, classes by name, of which the last is in one row only."""
    rows = [f"{n % 9}.jpg,caption {n},{['cat', 'red_panda'][n % 9 % 2]}" for n in range(20)]
    return write_table(tmp_path / "photos", [*rows, "x.jpg,last,aardvark"])


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    images=st.lists(st.integers(0, 7), min_size=1, max_size=16),
    num_parts=st.integers(1, 12),
    size=st.integers(1, 5),
    data=st.data(),
)
def test_parts_are_the_whole_for_any_number_of_parts(
    tmp_path_factory, images, num_parts, size, data
):
    folder = tmp_path_factory.mktemp("any")
    rows = [f"{image}.jpg,caption {n},{image % 3}" for n, image in enumerate(images)]
    table = write_table(folder / "photos", rows)
    whole = pack(table, folder / "whole", samples_per_shard=size)
    plan = PartPlan(table, folder / "parts", num_parts, options=PackOptions(size))
    order = data.draw(st.permutations(range(1, num_parts + 1)))
    assert pack_parts(plan, order) == whole.num_samples == len(set(images))
    assert content(folder / "parts") == content(folder / "whole")


@given(total=st.integers(0, 500), count=st.integers(1, 60))
def test_ranges_of_parts_are_all_numbers_once(total, count):
    ranges = [Part(number, count).range_of(total) for number in range(1, count + 1)]
    assert [number for each in ranges for number in each] == list(range(total))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
    spread = [Part(number, count).of(range(total)) for number in range(1, count + 1)]
    assert sorted(chain(*spread)) == list(range(total))


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "a/b", "-1/4", "1/0", "1/4/2", "1 / 4"])
def test_parts_that_are_none(text):
    with pytest.raises(ConfigError, match="part: expected"):
        Part.parse(text)


def test_classes_have_equal_numbers_where_one_is_missing(table, tmp_path):
    pack(table, tmp_path / "whole", samples_per_shard=2)
    plan = PartPlan(table, tmp_path / "parts", 3, options=PackOptions(2))
    PartPacker(plan).pack(2)  # has no aardvark, whose number is 0
    names = (tmp_path / "parts" / "classnames.txt").read_text()
    assert names == "aardvark\ncat\nred panda\n"
    assert not (tmp_path / "parts" / "sizes.json").exists()
    assert merge_parts(tmp_path / "parts") == (1, 3)
    with pytest.raises(DataError, match="parts that are not packed yet: 1, 3; run"):
        check_parts(tmp_path / "parts")
    pack_parts(plan, [3, 1])
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_a_class_of_another_row_of_an_image_counts(tmp_path):
    rows = ["a.jpg,one,", "b.jpg,one,7", "c.jpg,one,", "a.jpg,two,3", "c.jpg,two,"]
    table = write_table(tmp_path / "photos", rows)
    pack(table, tmp_path / "whole", samples_per_shard=1)
    plan = PartPlan(table, tmp_path / "parts", 3, options=PackOptions(1))
    pack_parts(plan)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    table.write_text(table.read_text() + "a.jpg,three,4\n")
    with pytest.raises(DataError, match=r"t\.csv: a\.jpg: class 3 in row 1 and 4 in row 6"):
        PartPacker(plan)


def test_parts_at_once_in_one_folder(table, tmp_path):
    """Every part twice, at the same time, as when a machine that counts as lost still runs."""
    pack(table, tmp_path / "whole", samples_per_shard=2)
    plan = PartPlan(table, tmp_path / "parts", 3, options=PackOptions(2))
    packers = [PartPacker(plan) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: packers[n].pack(n % 3 + 1), range(6)))
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert not list((tmp_path / "parts").glob(".*.tmp"))


def test_a_killed_part_continues(table, tmp_path, monkeypatch):
    pack(table, tmp_path / "whole", samples_per_shard=2)
    plan = PartPlan(table, tmp_path / "parts", 2, options=PackOptions(2))
    prepare, calls = shard_packer.prepare, []

    def fail_at_the_fourth(members, size):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return prepare(members, size)

    monkeypatch.setattr(shard_packer, "prepare", fail_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        PartPacker(plan).pack(2)
    assert (tmp_path / "parts" / "00002.tar").exists()
    calls.clear()
    progress: list[tuple[int, int]] = []
    monkeypatch.setattr(shard_packer, "prepare", lambda m, s: calls.append(1) or prepare(m, s))
    PartPacker(plan).pack(2, lambda *numbers: progress.append(numbers))
    assert (progress[0], progress[-1]) == ((2, 6), (6, 6))
    assert len(calls) <= 4
    PartPacker(plan).pack(1)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    calls.clear()
    pack_parts(plan)
    assert calls == []


def test_another_number_of_parts_or_another_table_is_refused(table, tmp_path):
    plan = PartPlan(table, tmp_path / "parts", 2, options=PackOptions(2))
    PartPacker(plan).pack(1)
    with pytest.raises(DataError, match=r"differs in num_parts\); choose another folder"):
        PartPacker(PartPlan(table, tmp_path / "parts", 3, options=PackOptions(2))).pack(2)
    with pytest.raises(DataError, match="differs in fingerprint"):
        pack(table, tmp_path / "parts", samples_per_shard=2)
    pack(table, tmp_path / "whole", samples_per_shard=2)
    with pytest.raises(DataError, match="another source or other options"):
        PartPacker(PartPlan(table, tmp_path / "whole", 2, options=PackOptions(2))).pack(1)
    table.write_text(table.read_text().replace("caption 19", "another"))
    with pytest.raises(DataError, match=r"differs in table\)"):
        PartPacker(plan).pack(2)


def test_an_image_that_changed_is_refused_and_an_old_time_of_the_table_is_not(table, tmp_path):
    plan = PartPlan(table, tmp_path / "parts", 2, options=PackOptions(2))
    PartPacker(plan).pack(1)
    os.utime(table, (1, 1))  # a copy on another machine
    PartPacker(plan).pack(1)
    os.utime(table.parent / "0.jpg", (1, 1))
    with pytest.raises(DataError, match="part 1/2 was begun with other images or captions"):
        PartPacker(plan).pack(1)


def test_more_parts_than_shards_and_a_part_without_any(table, tmp_path):
    plan = PartPlan(table, tmp_path / "parts", 7)
    reports = [PartPacker(plan).pack(number) for number in range(1, 8)]
    assert [len(report.shards) for report in reports] == [0, 0, 0, 0, 0, 0, 1]
    pack(table, tmp_path / "whole")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    with pytest.raises(ConfigError, match="expected 1/N to N/N, got 8/7"):
        PartPacker(plan).pack(8)
    with pytest.raises(ConfigError, match="num_parts: expected at least 1, got 0"):
        PartPlan(table, tmp_path / "parts", 0)


def test_broken_samples_of_a_part_are_counted_and_kept_out(table, tmp_path):
    (table.parent / "8.jpg").unlink()
    options = PackOptions(2, max_bad_samples=1)
    plan = PartPlan(table, tmp_path / "parts", 2, options=options)
    with pytest.raises(FaultBudgetExceeded):
        PartPacker(PartPlan(table, tmp_path / "parts", 2, options=PackOptions(2))).pack(2)
    assert [fault[1] for fault in PartPacker(plan).pack(2).faults] == ["no such file"]
    assert [fault[1] for fault in PartPacker(plan).pack(2).faults] == ["no such file"]
    PartPacker(plan).pack(1)
    pack(table, tmp_path / "whole", samples_per_shard=2, max_bad_samples=1)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_images_outside_of_the_folder_are_refused_by_their_part(tmp_path):
    rows = ["0.jpg,a,1", "1.jpg,b,2"]
    table = write_table(tmp_path / "photos", rows)
    (tmp_path / "secret.jpg").write_bytes(image_bytes("red", (8, 6)))
    table.write_text(table.read_text().replace("1.jpg", "../secret.jpg"))
    plan = PartPlan(table, tmp_path / "parts", 2, options=PackOptions(1))
    PartPacker(plan).pack(1)
    with pytest.raises(DataError, match="1 of 1 images are outside of"):
        PartPacker(plan).pack(2)
    allowed = PartPlan(table, tmp_path / "parts", 2, allow_outside=True, options=PackOptions(1))
    assert PartPacker(allowed).pack(2).num_samples == 1


@pytest.mark.parametrize("row_group", [2, 5, 100])
@pytest.mark.parametrize("failed", [(), (0, 3, 4, 11)])
def test_parquet_with_bytes_paths_and_failed_downloads(tmp_path, row_group, failed):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / "photos"
    folder.mkdir()
    for first in (0, 7):
        numbers = range(first, first + 7)
        images = [image_bytes("red", (8, 6), seed=n) for n in numbers]
        (folder / "1.jpg").write_bytes(images[1])
        paths = [f"{n}.jpg" for n in numbers]
        cells: list[dict[str, Any] | None] = [
            {"bytes": None if n % 3 == 1 else image, "path": "1.jpg" if n % 3 == 1 else path}
            for n, image, path in zip(numbers, images, paths, strict=True)
        ]
        cells = [cell if n not in failed else None for n, cell in zip(numbers, cells, strict=True)]
        columns = {
            "image": pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "depth": pa.array(images),
            "caption": [[f"one of {n}", "two"] for n in numbers],
            "class_name": [["cat", "dog", None][n % 3] for n in numbers],
            "status": ["failed_to_download" if n in failed else "success" for n in numbers],
        }
        name = f"train-{first // 7:05d}-of-00002.parquet"
        parquet.write_table(pa.table(columns), folder / name, row_group_size=row_group)
    named = TableColumns(images=["image", "depth"])
    pack(folder, tmp_path / "whole", samples_per_shard=2, columns=named)
    plan = PartPlan(folder, tmp_path / "parts", 3, columns=named, options=PackOptions(2))
    pack_parts(plan, [2, 3, 1])
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_given_class_names_and_image_size_are_those_of_pack(table, tmp_path):
    names = ["red panda", "cat", "aardvark"]
    pack(table, tmp_path / "whole", samples_per_shard=3, class_names=names, image_size=4)
    options = PackOptions(3, image_size=4, num_workers=2)
    pack_parts(PartPlan(table, tmp_path / "parts", 2, class_names=names, options=options))
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_what_cannot_be_packed_in_parts_is_named(table, tmp_path):
    pack(table, tmp_path / "shards")
    coco = tmp_path / "coco" / "captions.json"
    coco.parent.mkdir()
    coco.write_text("{}")
    for name in ("classes/cat", "downloads/00000", "two", "empty"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(table.parent / "0.jpg", tmp_path / "classes" / "cat" / "0.jpg")
    shutil.copy(table.parent / "0.jpg", tmp_path / "downloads" / "00000" / "0.jpg")
    (tmp_path / "downloads" / "00000_stats.json").write_text("{}")
    for name in ("a", "b"):
        shutil.copy(table, tmp_path / "two" / f"{name}.csv")
    sources = {
        "shards": "got shards, which are parts already",
        "shards/00000.tar": "got shards",
        "coco": "got a folder with a COCO-style JSON file",
        "coco/captions.json": "got a COCO-style JSON file, which is read as one piece",
        "classes": "got a folder with one folder per class",
        "downloads": "got the output of img2dataset as files",
        "two": "got a folder with several tables; name one of them",
        "empty": "got an empty folder",
        "classes/cat/0.jpg": "got another file",
        "nothing": "no such file or folder",
    }
    for name, message in sources.items():
        with pytest.raises(DataError, match=message):
            PartPacker(PartPlan(tmp_path / name, tmp_path / "out", 2))
    (tmp_path / "empty.csv").write_text("image,caption\n")
    with pytest.raises(DataError, match="no samples found"):
        PartPacker(PartPlan(tmp_path / "empty.csv", tmp_path / "out", 2))
    assert not (tmp_path / "out").exists()


def test_damaged_records_are_named(table, tmp_path):
    plan = PartPlan(table, tmp_path / "parts", 2, options=PackOptions(2))
    pack_parts(plan)
    record = tmp_path / "parts" / ".part-00001-of-00002.json"
    assert json.loads(record.read_text())["sizes"] == {"00000.tar": 2, "00001.tar": 2}
    for text in ("{", "[]"):
        record.write_text(text)
        with pytest.raises(DataError, match=r"part-00001-of-00002.json: damaged"):
            check_parts(tmp_path / "parts")
    record.unlink()
    PartPacker(plan).pack(1)
    check_parts(tmp_path / "parts")
    (tmp_path / "parts" / "pack.json").write_text('{"num_parts": "2"}')
    with pytest.raises(DataError, match="num_parts: expected a number of parts, got '2'"):
        check_parts(tmp_path / "parts")


def test_a_table_that_shrinks_while_it_is_read_is_named(table, tmp_path):
    packer = PartPacker(PartPlan(table, tmp_path / "parts", 2, options=PackOptions(2)))
    table.write_text("\n".join(table.read_text().splitlines()[:9]) + "\n")
    with pytest.raises(DataError, match=r"t\.csv: has fewer rows than before; it changed mean"):
        packer.pack(2)


def test_a_full_disk_costs_the_shard_under_way_only(table, tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pack(table, tmp_path / "whole", samples_per_shard=2)
    plan = PartPlan(table, tmp_path / "parts", 1, options=PackOptions(2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            PartPacker(plan).pack(1)
    assert not any((tmp_path / "parts").iterdir())
    PartPacker(plan).pack(1)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
