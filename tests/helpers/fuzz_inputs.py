"""What the fuzz tests feed: tables, tars, YAML and options, most of them nearly right."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.helpers.factories import image_bytes

IMAGES = {f"{number}.jpg": image_bytes(seed=number, size=(12, 9)) for number in range(4)}
COLUMNS = (
    *("image", "filepath", "caption", "captions", "txt", "label", "cls", "class_id"),
    *("class", "class_name", "labels", "classes", "x", ""),
)
ODD_TEXTS = (
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\n",
        "\r\n",
        "\t",
        '"',
        "'",
        ";",
        ",",
        "..",
        ".",
        "/",
        "~",
        "💥",
        "é",
    ),
    *("٣", "²", "\ud7ff", "x" * 300, "x" * 300 + ".jpg", "../0.jpg", "0.jpg/", "null", "NaN"),
    *("0", "1", "-1", "007", "10.0", "1e3", "9" * 30, "true", "dog", "a dog", "[1, 2]", "[[1]]"),
    *("a;b", '["a"]', '{"a": 1}', "[", "pipe:true", "a::b", "{a,b}", "zzz://x", "%s"),
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1")

odd_text = st.sampled_from(ODD_TEXTS) | st.text(max_size=8)
cell = st.sampled_from([*IMAGES, "none.jpg"]) | odd_text


@st.composite
def csv_tables(draw: Callable[..., Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows; now and then a column or a cell too many."""
    columns = draw(st.lists(st.sampled_from(COLUMNS), max_size=4))
    if draw(st.booleans()):  # most other tables are refused for want of columns
        columns = ["image", "caption", *columns]
    rows = draw(st.lists(st.tuples(*[cell for _ in columns]), max_size=5))
    rows = [list(row) for row in rows]
    if columns[:1] == ["image"]:
        rows = [[draw(st.sampled_from(list(IMAGES))), *row[1:]] for row in rows]
    if rows and draw(st.integers(0, 9)) == 0:
        rows[-1].append("more")
    return columns, rows


def write_csv(path: Path, columns: list[str], rows: list[list[str]], encoding: str) -> None:
    """The table, by commas or, for ``.tsv``, by tabulators."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if path.suffix == ".tsv" else ",")
    writer.writerows([columns, *rows])
    path.write_bytes(text.getvalue().encode(encoding, "replace"))


parquet_cell = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**63 - 1)
    | st.floats()
    | st.binary(max_size=5)
    | st.lists(st.integers(-2, 5), max_size=3)
    | st.lists(st.text(max_size=4), max_size=3)
    | st.dates()
    | cell
)


@st.composite
def parquet_columns(draw: Callable[..., Any]) -> tuple[list[str], list[list[Any]]]:
    """Names of columns, which may come twice, and their values."""
    columns = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4))
    length = draw(st.integers(0, 4))
    values = [draw(st.lists(parquet_cell, min_size=length, max_size=length)) for _ in columns]
    if draw(st.booleans()):
        columns, values = ["image", *columns], [draw_images(draw, length), *values]
    return columns, values


def draw_images(draw: Callable[..., Any], length: int) -> list[str]:
    """Names of images that exist."""
    return draw(st.lists(st.sampled_from(list(IMAGES)), min_size=length, max_size=length))


EXTENSIONS = ("jpg", "png", "webp", "txt", "json", "cls", "npy", "seg.png", "JPG", "")
contents = (
    st.sampled_from(
        [*IMAGES.values(), b"a dog", b"3", b'{"labels": [0]}', b"[" * 5000, b"", b"\xff"]
    )
    | st.binary(max_size=30)
    | odd_text.map(lambda text: text.encode("utf-8", "surrogatepass"))
)
member_names = st.builds(
    lambda key, extension: f"{key}.{extension}" if extension else key,
    st.sampled_from(["a", "b", "c", "d/a", "é", "b\udcff", "x" * 120, "__m__", ".h", "a b", "1"]),
    st.sampled_from(EXTENSIONS),
)
members = st.lists(st.tuples(member_names, contents), max_size=8)


kinds = st.sampled_from([kind for kind in EXTENSIONS if kind and kind != "JPG"])
odd_samples = st.lists(st.tuples(kinds, contents), min_size=1, max_size=4, unique_by=lambda m: m[0])
good_samples = st.sampled_from(list(IMAGES.values())).map(
    lambda image: [("jpg", image), ("txt", b"a dog"), ("cls", b"1"), ("json", b'{"labels": [0]}')]
)
samples = st.lists(good_samples | odd_samples, min_size=2, max_size=6)


def tar_bytes(files: list[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    """A whole tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in files:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


@st.composite
def damaged(draw: Callable[..., Any], data: bytes) -> bytes:
    """Bytes that were cut, or of which some were changed."""
    cut = draw(st.integers(0, len(data)))
    changed = bytearray(data[:cut] if draw(st.booleans()) else data)
    for _ in range(draw(st.integers(0, 4)) if changed else 0):
        position = draw(st.integers(0, min(len(changed), 1100) - 1))
        changed[position] ^= draw(st.integers(1, 255))
    return bytes(changed)


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd_text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(odd_text | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=6,
)
json_keys = st.sampled_from(
    [
        *("shardlist", "shard_counts", "url", "nsamples", "images", "annotations", "id"),
        *("image_id", "file_name", "caption", "0.tar", "1.tar", "x"),
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.floats() | odd_text | st.just("0.jpg"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_keys, inner, max_size=4),
    max_leaves=8,
)
image_name = json_values | st.just("0.jpg")
shard_name = json_values | st.just("0.tar")
coco_images = st.fixed_dictionaries({"id": json_values, "file_name": image_name})
coco_captions = st.fixed_dictionaries({"image_id": json_values, "caption": json_values})
wids_shards = st.fixed_dictionaries({"url": shard_name, "nsamples": json_values})
json_files = (
    json_values
    | st.fixed_dictionaries({"shardlist": st.lists(wids_shards, max_size=2)})
    | st.fixed_dictionaries(
        {
            "images": st.lists(coco_images, max_size=2),
            "annotations": st.lists(coco_captions, max_size=2),
        }
    )
    | st.fixed_dictionaries({"shard_counts": json_values})
)
SECTIONS = (
    *("data.train", "data.val", "data.batch_size", "data.seed", "data.num_workers", "data"),
    *("data.tokenizer", "data.caption", "model", "model.encoder", "model.loss", "trainer"),
    *("model.optimizer", "trainer.max_steps", "trainer.callbacks", "trainer.logger"),
    *("trainer.default_root_dir", "seed_everything", "ckpt_path", "nope"),
)


def nested(name: str, value: Any) -> Any:
    """``{"a": {"b": value}}`` of the name "a.b"."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value
