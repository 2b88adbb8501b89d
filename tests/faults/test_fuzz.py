"""Any input: one clear error or a result in which nothing was lost in silence, never a traceback.

``CLIPKIT_FUZZ=50`` makes fifty times the examples; the suite takes few, always the same.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from clipkit.cli.main import main
from clipkit.data import MultiLabels, ShardIndex, ShardReader, pack
from clipkit.data.packing.verify import verify_shards
from clipkit.data.shards.shard_table import split_name
from clipkit.errors import ClipkitError, DataError
from clipkit.evaluation import open_dataset
from clipkit.yaml_files import read_yaml
from tests.helpers import fuzz_inputs as inputs
from tests.helpers.fakes import ByteTokenizer, flat_stream

FACTOR = int(os.environ.get("CLIPKIT_FUZZ", "1"))


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=FACTOR * examples,
        derandomize=FACTOR == 1,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        for image, data in inputs.IMAGES.items():
            (Path(name) / image).write_bytes(data)
        yield Path(name)


def pack_exactly(path: Path, num_images: int | None) -> None:
    """Pack a table; every image is in the shards or among the faults."""
    try:
        report = pack(path, path.parent / "out", max_bad_samples=10**6)
    except ClipkitError:
        return
    if num_images is not None:
        assert report.num_samples + len(report.faults) == num_images
    index = ShardIndex.from_urls(path.parent / "out")
    reader = ShardReader(index)
    packed = [reader.read(number).members for number in range(index.num_samples)]
    assert len(packed) == report.num_samples
    assert not list((path.parent / "out").glob(".*.tmp"))


@fuzz(150)
@given(inputs.csv_tables(), st.sampled_from([".csv", ".tsv"]), st.sampled_from(inputs.ENCODINGS))
def test_text_tables(table, suffix, encoding):
    columns, rows = table
    with new_folder() as folder:
        path = folder / f"table{suffix}"
        inputs.write_csv(path, columns, rows, encoding)
        images = None
        if columns[:1] == ["image"] and columns.count("image") == 1:
            images = len({row[0] for row in rows})
        pack_exactly(path, images)


@fuzz(60)
@given(inputs.parquet_columns(), st.data())
def test_parquet_tables(table, data):
    columns, values = table
    with new_folder() as folder:
        path = folder / "table.parquet"
        try:
            arrays = [pa.array(value) for value in values]
        except (pa.ArrowException, OverflowError):
            arrays = [pa.array([str(item) for item in value]) for value in values]
        parquet.write_table(pa.Table.from_arrays(arrays, names=columns), path)
        if data.draw(st.booleans()):
            path.write_bytes(data.draw(inputs.damaged(path.read_bytes())))
            pack_exactly(path, None)
        elif columns[0] == "image" and columns.count("image") == 1:
            pack_exactly(path, len(set(map(str, values[0]))))


@fuzz(60)
@given(st.binary(max_size=200), st.sampled_from([".csv", ".tsv", ".parquet", ".json", ".tar"]))
def test_any_bytes_as_a_source(content, suffix):
    with new_folder() as folder:
        (folder / f"table{suffix}").write_bytes(content)
        pack_exactly(folder / f"table{suffix}", None)


@fuzz(150)
@given(inputs.json_files)
def test_json_beside_shards_and_as_sources(content):
    with new_folder() as folder:
        (folder / "s").mkdir()
        (folder / "s" / "0.tar").write_bytes(inputs.tar_bytes([("a.txt", b"x"), ("b.txt", b"y")]))
        text = json.dumps(content)
        for name in ("sizes.json", "index.json", "captions.json"):
            (folder / "s" / name).write_text(text)
        with contextlib.suppress(ClipkitError):
            assert ShardIndex.from_urls(folder / "s").num_samples == 2
        with contextlib.suppress(ClipkitError):
            ShardIndex.from_urls(str(folder / "s" / "index.json"))
        (folder / "c.json").write_text(text)
        pack_exactly(folder / "c.json", None)


def expected_samples(files: list[tuple[str, bytes]]) -> list[dict[str, bytes]] | None:
    """The samples of a tar by WebDataset's rule; None where it has to be refused."""
    samples: dict[str, dict[str, bytes]] = {}
    last = None
    for name, content in files:
        if (parts := split_name(name)) is None:
            continue
        key, extension = parts
        if (key != last and key in samples) or extension in samples.get(key, {}):
            return None
        samples.setdefault(key, {})[extension] = content
        last = key
    return list(samples.values()) or None


@fuzz(150)
@given(inputs.members, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_whole_tars(files, tar_format):
    with new_folder() as folder:
        (folder / "0.tar").write_bytes(inputs.tar_bytes(files, tar_format))
        expected = expected_samples(files)
        try:
            index = ShardIndex.from_urls(folder / "0.tar")
        except ClipkitError:
            assert expected is None
            return
        reader = ShardReader(index)
        assert [reader.read(n).members for n in range(index.num_samples)] == expected


@fuzz(150)
@given(inputs.members, st.data())
def test_damaged_tars_and_sidecars(files, data):
    with new_folder() as folder:
        path = folder / "0.tar"
        path.write_bytes(inputs.tar_bytes(files))
        with contextlib.suppress(ClipkitError):
            ShardIndex.from_urls(path)
        sidecar = folder / "0.tar.index.npz"
        if sidecar.exists() and data.draw(st.booleans()):
            sidecar.write_bytes(data.draw(inputs.damaged(sidecar.read_bytes())))
        else:
            path.write_bytes(data.draw(inputs.damaged(path.read_bytes())))
        num_samples = 0
        try:
            index = ShardIndex.from_urls(path)
            num_samples = index.num_samples
            reader = ShardReader(index)
            for number in range(num_samples):
                reader.read(number)
        except ClipkitError:
            pass
        report = verify_shards(str(path))
        assert report.faults or report.num_samples == num_samples


@fuzz(60)
@given(inputs.samples, st.booleans())
def test_every_sample_is_trained_on_or_named(samples, shuffle):
    files = [(f"{n}.{kind}", data) for n, sample in enumerate(samples) for kind, data in sample]
    with new_folder() as folder:
        (folder / "0.tar").write_bytes(inputs.tar_bytes(files))
        index = ShardIndex.from_urls(folder / "0.tar")
        try:
            stream = flat_stream(
                index, tokenizer=ByteTokenizer(), batch_size=2, image_size=8, shuffle=shuffle,
                tail="keep", max_bad_fraction=1.0, fields=[MultiLabels(num_classes=3)],
            )  # fmt: skip
            keys = []
            for batch in stream:
                keys += batch.keys
                stream.commit(batch)
        except DataError:
            return  # too many are bad, or all of those that are tried first
        assert len(set(keys)) + stream.counters()["bad_samples"] == len(samples)
        report = verify_shards(str(folder / "0.tar"))
        assert report.num_samples == len(samples)
        data = open_dataset(folder)
        for number in range(len(samples)):
            with contextlib.suppress(ClipkitError):
                data.sample(number)
                data.classes(number)


@fuzz(200)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_as_yaml(content):
    with new_folder() as folder:
        (folder / "a.yaml").write_bytes(content)
        with contextlib.suppress(ClipkitError):
            read_yaml(folder / "a.yaml")


def run(*words: str) -> int | str:
    """The status of a command; one line says what is wrong where it is 2."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            status: int | str = main(list(words))
        except SystemExit as leaving:  # argparse's own
            status = int(leaving.code or 0)
    if status == 2:
        lines = [line for line in error.getvalue().splitlines() if "error: " in line]
        assert len(lines) == 1, error.getvalue()
    return status


@fuzz(8)
@given(
    st.dictionaries(st.sampled_from(inputs.SECTIONS), inputs.yaml_values, min_size=1, max_size=2)
)
def test_configurations(options):
    """As far as they are parsed; what a model or a trainer makes of them is tested elsewhere."""
    with new_folder() as folder:
        path = folder / "a.yaml"
        content = {}
        for name, value in options.items():
            content.update(inputs.nested(name, value))
        path.write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8", "surrogatepass")
        assert run("fit", "-c", str(path), "--print_config") in (0, 2)


WORDS = (
    *("--samples-per-shard", "--image-size", "--max-bad-samples", "--num-workers", "--images"),
    *("--max-bad-shards", "--output", "--tokenizer", "--help", "-h", "--", "-", "0", "1", "-1"),
)


@fuzz(150)
@given(
    st.sampled_from(["pack", "index", "verify", "stats"]),
    st.lists(
        st.sampled_from([*WORDS, "SHARD", "TABLE", "FOLDER", "NEW"]) | inputs.odd_text, max_size=5
    ),
)
def test_options_of_shards(command, words):
    with new_folder() as folder, contextlib.chdir(folder):
        shard = folder / "0.tar"
        shard.write_bytes(inputs.tar_bytes([("a.jpg", inputs.IMAGES["0.jpg"]), ("a.txt", b"x")]))
        inputs.write_csv(folder / "t.csv", ["image", "caption"], [["0.jpg", "x"]], "utf-8")
        places = {"SHARD": shard, "TABLE": folder / "t.csv", "FOLDER": folder}
        given_words = [
            str(places.get(word, folder / "new" if word == "NEW" else word)) for word in words
        ]
        assert run("shards", command, *given_words) in (0, 1, 2)
