"""An image outside of its table's folder is packed only if the user allows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipkit.data import ShardIndex, ShardReader, pack
from clipkit.data.packing.packed_cache import pack_to_cache
from clipkit.data.packing.roots import refuse_outside
from clipkit.errors import DataError
from tests.helpers.factories import image_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one image, beside a file that is nobody's business."""
    (tmp_path / "secret.jpg").write_bytes(b"a key")
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "a.jpg").write_bytes(image_bytes())
    return tmp_path / "data"


def table(folder: Path, *images: str) -> Path:
    path = folder / "table.csv"
    path.write_text("image,caption\n" + "".join(f"{image},a dog\n" for image in images))
    return path


def coco(folder: Path, *images: str) -> Path:
    path = folder / "captions.json"
    entries = [{"id": number, "file_name": name} for number, name in enumerate(images)]
    notes = [{"image_id": number, "caption": "a dog"} for number in range(len(images))]
    path.write_text(json.dumps({"images": entries, "annotations": notes}))
    return path


def linked(folder: Path) -> str:
    (folder / "images" / "link.jpg").symlink_to("../../secret.jpg")
    return "images/link.jpg"


def linked_folder(folder: Path) -> str:
    (folder / "up").symlink_to("..")
    return "up/secret.jpg"


OUTSIDE = {
    "relative": lambda folder: "../secret.jpg",
    "far": lambda folder: "../" * 20 + "etc/passwd",
    "absolute": lambda folder: str(folder.parent / "secret.jpg"),
    "inside and out": lambda folder: "images/../../secret.jpg",
    "a link": linked,
    "a linked folder": linked_folder,
    "missing": lambda folder: "../nothing.jpg",
    "a neighbour whose name begins alike": lambda folder: "../data2/a.jpg",
}


@pytest.mark.parametrize("kind", OUTSIDE)
@pytest.mark.parametrize("write", [table, coco])
def test_an_image_outside_is_refused_by_name(folder: Path, kind: str, write) -> None:
    name = OUTSIDE[kind](folder)
    source, out = write(folder, "images/a.jpg", name), folder.parent / "out"
    with pytest.raises(DataError, match="1 of 2 images are outside of"):
        pack(source, out, max_bad_samples=2)
    with pytest.raises(DataError, match="outside"):
        pack_to_cache(str(source))
    assert not out.exists()
    assert not list(folder.rglob("*.tar"))


def members(shards: object) -> list[bytes]:
    reader = ShardReader(index := ShardIndex.from_urls(shards))  # type: ignore[arg-type]
    return [reader.read(number).members["jpg"] for number in range(len(index))]


def test_it_is_packed_where_it_is_allowed(folder: Path) -> None:
    source, out = table(folder, "images/a.jpg", "../secret.jpg"), folder.parent / "out"
    pack(source, out, allow_outside=True)
    assert members(out) == [image_bytes(), b"a key"]
    assert members(pack_to_cache(source, allow_outside=True).shards) == [image_bytes(), b"a key"]


def test_the_folder_that_images_are_relative_to_is_the_limit(folder: Path) -> None:
    source = table(folder, "a.jpg")
    assert pack(source, folder.parent / "one", images=folder / "images").num_samples == 1
    source = table(folder, str(folder / "images" / "a.jpg"))
    assert pack(source, folder.parent / "two").num_samples == 1
    assert pack(source, folder.parent / "three", images=Path("/")).num_samples == 1
    with pytest.raises(DataError, match="outside"):
        pack(table(folder, "../table.csv"), folder.parent / "four", images=folder / "images")


def test_a_linked_folder_is_where_it_leads(folder: Path) -> None:
    """A table that is reached by a link finds its images beside itself."""
    (folder.parent / "link").symlink_to(folder)
    table(folder, "images/a.jpg")
    assert pack_to_cache(folder.parent / "link" / "table.csv").shards


def test_links_out_of_a_folder_of_classes_are_refused(folder: Path) -> None:
    (folder / "red").mkdir()
    (folder / "red" / "a.jpg").write_bytes(image_bytes())
    (folder / "red" / "b.jpg").symlink_to("../images/a.jpg")
    assert pack(folder, folder.parent / "one").num_samples == 3
    (folder / "red" / "c.jpg").symlink_to(folder.parent / "secret.jpg")
    with pytest.raises(DataError, match=r"1 of 4 images are outside of .*secret\.jpg"):
        pack(folder, folder.parent / "two")
    assert pack(folder, folder.parent / "two", allow_outside=True).num_samples == 4


def test_links_in_a_circle_and_odd_names_are_no_way_out(folder: Path) -> None:
    (folder / "a.jpg").symlink_to("b.jpg")
    (folder / "b.jpg").symlink_to("a.jpg")
    harmless = [folder / "a.jpg", folder / ("x" * 300), folder / "a\0.jpg"]
    refuse_outside(harmless, folder, folder)  # reading them will say what they are
    with pytest.raises(DataError, match="outside"):
        refuse_outside([folder / "\0/../../secret.jpg"], folder, folder)
