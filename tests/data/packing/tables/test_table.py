"""What a table tells about classes and captions: numbers are kept, nothing is dropped."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from clipkit.data.packing.tables.parts import open_parts
from clipkit.data.packing.tables.table import Table
from clipkit.errors import DataError


class Content:
    """Texts of the images of a table by name, and its classes."""

    def __init__(self, path: Path, names=None) -> None:
        table = Table.of(open_parts([path]), path.parent, names)
        self.class_names = table.class_names
        self.has_own_numbers = table.has_own_numbers
        self.samples = {item.files[0].name: item.texts() for item in table}


def read(tmp_path: Path, text: str, names=None):
    path = tmp_path / "t.csv"
    path.write_text(text)
    return Content(path, names)


def classes(table) -> dict[str, int | None]:
    labels = {image: texts.get("cls") for image, texts in table.samples.items()}
    return {image: None if label is None else int(label) for image, label in labels.items()}


def parquet(tmp_path: Path, columns):
    from pyarrow import parquet
    from pyarrow import table as arrow_table

    path = tmp_path / "t.parquet"
    parquet.write_table(arrow_table(columns), path)
    return Content(path)


def test_numbers_of_classes_are_kept_with_gaps(tmp_path):
    table = read(tmp_path, "image,label,class_name\na,388,panda\nb,7,cock\nc,388,panda\n")
    assert classes(table) == {"a": 388, "b": 7, "c": 388}
    assert len(table.class_names) == 389
    assert {n: name for n, name in enumerate(table.class_names) if name} == {
        7: "cock",
        388: "panda",
    }
    assert table.samples["b"]["txt"] == b"cock"
    assert read(tmp_path, "image,caption,label\na,one,30\n").class_names == ()


def test_two_classes_of_one_name_keep_their_numbers(tmp_path):
    rows = "image,label,class_name\na,134,crane\nb,517,crane\nc,2,shark\n"
    assert classes(read(tmp_path, rows)) == {"a": 134, "b": 517, "c": 2}
    with pytest.raises(DataError, match=r"class 'crane' is the name of 2 classes \(134, 517\)"):
        read(tmp_path, rows + "d,,crane\n")


def test_names_get_the_numbers_that_other_rows_give_them(tmp_path):
    rows = "image,label,class_name\na,5,cat\nb,,cat\nc,5,\nd,2,\ne,,\n"
    table = read(tmp_path, rows)
    assert classes(table) == {"a": 5, "b": 5, "c": 5, "d": 2, "e": None}
    assert table.samples["c"]["txt"] == b"cat"
    with pytest.raises(DataError, match="class 'dog' is not among the 1 known classes"):
        read(tmp_path, rows + "f,,dog\n")


def test_given_names_decide_over_the_numbers_of_a_table(tmp_path):
    rows = "image,label,class_name\na,0,dog\nb,1,cat\nc,1,\n"
    assert classes(read(tmp_path, rows, ["cat", "dog"])) == {"a": 1, "b": 0, "c": 1}
    with pytest.raises(DataError, match="class 2: expected 0 to 1"):
        read(tmp_path, "image,caption,label\na,one,2\n", ["cat", "dog"])


def test_whole_floats_are_numbers(tmp_path):
    rows = "image,label\na,10.0\nb,\nc,2.0\nd,-100\n"
    assert classes(read(tmp_path, rows)) == {"a": 10, "b": None, "c": 2, "d": None}
    lists = read(tmp_path, "image,labels\na,1.0;2.0\nb,3.0\n")
    assert [json.loads(t["json"])["labels"] for t in lists.samples.values()] == [[1, 2], [3]]
    columns = {"image": ["a", "b"], "label": [10.0, float("nan")], "labels": [[1.0], None]}
    table = parquet(tmp_path, columns)
    assert classes(table) == {"a": 10, "b": None}
    assert json.loads(table.samples["a"]["json"])["labels"] == [1]


def test_the_integer_caption_0_is_a_caption(tmp_path):
    table = parquet(tmp_path, {"image": ["a", "b", "c"], "caption": [0, 7, None]})
    assert [texts["txt"] for texts in table.samples.values()] == [b"0", b"7", b""]
    lists = parquet(tmp_path, {"image": ["a"], "caption": [[0, 1]]})
    assert lists.samples["a"]["txt"] == b"0\n1"


def test_a_column_of_names_may_hold_numbers(tmp_path):
    table = read(tmp_path, "image,class_name\na,7\nb,seven\nc,007\n")
    assert table.class_names == ("007", "7", "seven")
    assert classes(table) == {"a": 1, "b": 2, "c": 0}
    assert classes(read(tmp_path, "image,class\na,3\nb,0\n")) == {"a": 3, "b": 0}
    flags = parquet(tmp_path, {"image": ["a", "b"], "label": [True, False]})
    assert flags.class_names == ("False", "True")


def test_a_later_row_of_an_image_may_bring_its_class(tmp_path):
    rows = "image,caption,label\na,one,\na,two,3\na,three,3\n"
    table = read(tmp_path, rows)
    assert classes(table) == {"a": 3}
    assert table.samples["a"]["txt"] == b"one\ntwo\nthree"


BAD = {
    "two rows": ("image,label\na,cat\na,dog\n", r"t\.csv: a: class 'cat' in row 1 and 'dog' in"),
    "two numbers": ("image,label\na,1\na,2\n", "class 1 in row 1 and 2 in row 2"),
    "two columns": ("image,label,class_id\na,1,2\n", "row 1 has several classes: label 1 and cl"),
    "two names": ("image,label,class\na,cat,pet\n", "label 'cat' and class 'pet'"),
    "twin columns": ("image,label,label\na,1,2\n", "2 columns are called 'label'"),
    "mixed": ("image,label\na,cat\nb,7\n", "numbers and names mixed: 'cat' in row 1, '7' in row 2"),
    "half": ("image,label\na,1\nb,1.5\n", "numbers and names mixed"),
    "mixed lists": ("image,labels\na,cat;dog\nb,7\n", "column labels: numbers and names mixed"),
    "both lists": ("image,labels,classes\na,1,2\n", "row 1 has classes in labels and classes"),
    "apart": ("image,label,class_name\na,1,\nb,,cat\n", "others the name .'cat'."),
    "one number": ("image,label,class_name\na,1,cat\nb,1,dog\n", "class 1 is 'cat' in row 1 and"),
    "negative": ("image,label\na,-1\n", "column label, row 1: expected a class number from 0"),
    "huge": (f"image,label\na,{2**63}\n", f"got {2**63}"),
    "far": ("image,label,class_name\na,9999999,cat\n", "expected less than 1048576 where classes"),
    "spelt": (
        "image,label\na,red_panda\nb,red panda\n",
        "'red_panda' and 'red panda' are both the",
    ),
    "spelt lists": ("image,labels\na,red_panda;red panda\n", "are both the class 'red panda'"),
    "no image": ("image,label\n,1\n", "row 1 names no image"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_would_be_lost_is_refused(name, tmp_path):
    text, message = BAD[name]
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_a_list_in_a_column_of_one_class_is_refused(tmp_path):
    with pytest.raises(DataError, match="several classes go into a column labels"):
        parquet(tmp_path, {"image": ["a"], "label": [[1, 2]]})


def test_a_csv_of_flickr30k_and_a_header_over_two_lines(tmp_path):
    rows = "image_name| comment_number| comment\na.jpg| 0| Two dogs .\na.jpg| 1| Dogs, two .\n"
    assert read(tmp_path, rows).samples["a.jpg"]["txt"] == b"Two dogs .\nDogs, two ."
    odd = read(tmp_path, '"image","caption","a\nnote"\na.jpg,one,x\n')
    assert odd.samples["a.jpg"]["txt"] == b"one"


def test_a_row_of_another_length_is_named(tmp_path):
    with pytest.raises(DataError, match=r"row 2 has another number of columns .*: expected 2, got"):
        read(tmp_path, "image,caption\na.jpg,one\nb.jpg,one,two\n")


def peak_bytes(path: Path, num_rows: int) -> int:
    """Return the most memory that opening a table takes, and reading its first and last samples."""
    lines = (
        f"{number:08d}.jpg,a caption of some forty-five letters {number}\n"
        for number in range(num_rows)
    )
    path.write_text("filepath,title\n" + "".join(lines))
    tracemalloc.start()
    try:
        table = Table.of(open_parts([path]), path.parent)
        assert len(table) == num_rows
        assert table[num_rows - 1].files[0].name == f"{num_rows - 1:08d}.jpg"
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_row_takes_some_bytes_of_memory_and_not_its_text(tmp_path):
    """With its texts in dictionaries a row takes more than 1,000 bytes."""
    few, many = 2_000, 12_000
    peak_bytes(tmp_path / "t.csv", few)  # imports and caches
    growth = peak_bytes(tmp_path / "t.csv", many) - peak_bytes(tmp_path / "t.csv", few)
    assert growth < 150 * (many - few)


def test_each_question_and_hypothesis_is_a_sample(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image,caption,question,answers\na,x,which?,b;c\na,x,how many?,2\n")
    first, second = (item.texts() for item in Table.of(open_parts([path]), tmp_path))
    assert (first["txt"], second["txt"]) == (b"which?", b"how many?")
    assert json.loads(first["json"])["answers"] == "b;c"
    assert "cls" not in first
    path.write_text("image,hypothesis,label\na,one dog,yes\na,,no\n")
    table = Table.of(open_parts([path]), tmp_path)
    assert [item.texts()["cls"] for item in table] == [b"1", b"0"]
    assert [item.texts()["txt"] for item in table] == [b"one dog", b""]
    path.write_text("image,caption,question\na,x,which?\na,y,how?\n")
    assert [item.texts()["txt"] for item in Table.of(open_parts([path]), tmp_path)] == [b"x\ny"]
