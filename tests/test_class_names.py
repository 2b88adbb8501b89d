"""Lists of class names: read, written, shown, and matched against each other."""

from __future__ import annotations

import pytest

from clipkit.class_names import (
    class_names_text,
    conflict,
    map_classes,
    number_of,
    parse_class_names,
    read_class_names,
    shown_names,
)
from clipkit.errors import ConfigError, DataError


def test_a_blank_line_is_a_number_without_a_name(tmp_path):
    names = ("cat", "", "", "dog")
    assert parse_class_names(class_names_text(names)) == names
    assert parse_class_names("\ufeffcat\r\n\r\n dog \n\n\n") == ("cat", "", "dog")
    assert parse_class_names("") == ()
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    assert read_class_names(str(tmp_path / "names.txt"), "names") == ["cat", "", "dog"]
    with pytest.raises(ConfigError, match="names: cannot read"):
        read_class_names(str(tmp_path / "gone.txt"), "names")


def test_no_two_classes_are_shown_alike():
    shown = shown_names(["crane", "", "crane", "3"], 5)
    assert shown == ("crane (0)", "1", "crane (2)", "3", "4")
    assert shown_names(["7", *[""] * 7], 8)[:2] == ("7 (0)", "1")
    assert len(set(shown_names(["7", *[""] * 7], 8))) == 8
    assert shown_names(["a", "b", "c"], 2) == ("a", "b")


@pytest.mark.parametrize(
    ("given", "wanted", "found"),
    [
        (["a", "c"], ["a", "b", "c"], [0, 2]),
        (["a", "b"], ["b", "a"], [1, 0]),
        (["a", "x"], ["a", "b"], [0, -1]),
        (["a", "", "c"], ["a", "b", "c"], [0, 1, 2]),  # all names agree: numbers are believed
        (["a", "", "b"], ["a", "b", "c"], [0, -1, 1]),  # they do not: number 1 means nothing
        (["a", "", ""], ["a", "b"], [0, 1, -1]),
        (["crane", "a", "crane"], ["crane", "a", "crane"], [0, 1, 2]),
        (["a", "crane"], ["crane", "a", "crane"], [1, -1]),  # which crane is not known
        (["a", "a"], ["a", "b"], [0, -1]),
        (["a", "b"], ["", "b"], [-1, 1]),
        ([], ["a"], []),
    ],
)
def test_classes_are_matched_by_name(given, wanted, found):
    assert map_classes(given, wanted) == found


def test_the_number_next_to_a_name_decides_among_namesakes():
    names = ["crane", "a", "crane"]
    assert number_of("crane", names, 2, "t.csv") == 2
    assert number_of("a", names, 0, "t.csv") == 1
    with pytest.raises(DataError, match=r"t\.csv: class 'crane' is the name of 2 classes \(0, 2\)"):
        number_of("crane", names, None, "t.csv")
    with pytest.raises(DataError, match="class 'b' is not among the 3 known classes"):
        number_of("b", names, None, "t.csv")


def test_a_conflict_is_two_names_for_one_number():
    assert conflict(["a", "b"], ["a", "c"]) == 1
    assert conflict(["a", "", "c"], ["a", "b"]) is None
