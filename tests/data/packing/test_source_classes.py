"""One numbering of the classes of several sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipkit.data.packing.source_classes import SourceClasses, classes_of, join_classes
from clipkit.data.packing.sources import open_source
from clipkit.errors import DataError
from tests.helpers.factories import image_bytes, write_shards


def given(*names: str, where: str = "a") -> SourceClasses:
    return SourceClasses(where, names, are_given=True)


def by_name(*names: str, where: str = "b") -> SourceClasses:
    return SourceClasses(where, names, are_given=False)


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ([by_name("a", "b", "c"), by_name("a", "c")], ("a", "b", "c")),
        ([by_name("a", "c"), by_name("b", "c")], ("a", "c", "b")),
        ([by_name("b"), given("", "a")], ("", "a", "b")),  # number 0 may be another class
        ([given("a", "", "c"), given("", "b", "c", "d")], ("a", "b", "c", "d")),
        ([given(), by_name("a")], ("a",)),
        ([], ()),
    ],
)
def test_names_are_joined(sources, names):
    assert join_classes(sources) == names


def test_known_names_are_not_added_to():
    assert join_classes([by_name("c", "x")], ["a", "b", "c"]) == ("a", "b", "c")


def test_one_number_with_two_names_is_refused():
    with pytest.raises(DataError, match="y: class 1 is 'c', but 'b' in x"):
        join_classes([given("a", "b", where="x"), given("a", "c", where="y")])
    with pytest.raises(DataError, match="a: class 0 is 'b', but 'a' in the model"):
        join_classes([given("b")], ["a", "b"])


def test_sources_without_names_are_named(caplog):
    join_classes([given("a", where="x"), given(where="nameless")])
    assert "nameless: no class names" in caplog.text


def test_every_kind_of_source_tells_its_names(tmp_path: Path):
    for name in ("dog", "cat"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "1.jpg").write_bytes(image_bytes())
    (tmp_path / "t.csv").write_text("image,label,class_name\na,3,dog\n")
    write_shards(tmp_path / "packed", (2,))
    write_shards(tmp_path / "layout" / "train", (2,))
    for folder in ("packed", "layout"):
        (tmp_path / folder / "classnames.txt").write_text("red\ngreen\n")
    found = {
        source: classes_of(str(tmp_path / source))
        for source in ("tree", "t.csv", "packed", "layout/train", "layout/train/*.tar")
    }
    assert {source: (c.names, c.are_given) for source, c in found.items()} == {
        "tree": (("cat", "dog"), False),
        "t.csv": (("", "", "", "dog"), True),
        "packed": (("red", "green"), True),
        "layout/train": (("red", "green"), True),
        "layout/train/*.tar": (("red", "green"), True),
    }


def test_names_that_are_not_utf8_are_named(tmp_path: Path):
    write_shards(tmp_path / "packed", (2,))
    (tmp_path / "packed" / "classnames.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"packed/classnames\.txt: not UTF-8"):
        classes_of(str(tmp_path / "packed"))
    with pytest.raises(DataError, match=r"classnames\.txt: expected a text in UTF-8"):
        open_source(tmp_path / "packed")
