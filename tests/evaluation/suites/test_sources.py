"""Every kind of source in one suite: the hub, a server, tables, folders of images, shards."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from clipkit.data.packing.packed_cache import pack_to_cache
from clipkit.evaluation import Suite, SuiteEntry, SuiteOptions, ZeroShotOptions, run_suite
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.suites.results import measurements
from clipkit.evaluation.suites.stamps import data_stamp
from clipkit.models import save_encoder
from tests.evaluation.suites.test_runner import few_retries
from tests.helpers.evaluation_data import captions, picture, tiny_encoder, write_layout
from tests.helpers.factories import write_shards
from tests.helpers.servers import Misbehaviour, http_server
from tests.helpers.sound_sets import write_esc50
from tests.helpers.sounds import sound_bytes

NUM = 5


def hub_parquet() -> bytes:
    """As the Hub writes COCO and Flickr30k: images as bytes, captions as lists."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": picture(n), "path": f"{n}.png"} for n in range(NUM)]
    texts = [captions(n) for n in range(NUM)]
    file = io.BytesIO()
    parquet.write_table(pa.table({"image": pa.array(images, kind), "caption": texts}), file)
    return file.getvalue()


def test_all_kinds_give_the_same_recalls(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    few_retries(monkeypatch)
    save_encoder(tiny_encoder(), tmp_path / "model")
    files = {"default/test/0000.parquet": hub_parquet()}
    hub.data_set("owner/pairs").commit(files, "refs/convert/parquet")
    write_layout(tmp_path / "wds_pairs", (NUM,), classes=(), templates=())
    served = {
        f"/{path.relative_to(tmp_path)}": path.read_bytes()
        for path in (tmp_path / "wds_pairs").rglob("*.*")
    }
    for n in range(NUM):
        folder = tmp_path / "folders" / "test" / ("cat", "dog")[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{n}.png").write_bytes(picture(n))
    Path("tables").mkdir()
    (tmp_path / "tables" / "0.parquet").write_bytes(hub_parquet())

    with http_server(served, Misbehaviour()) as url:
        entries = [
            SuiteEntry("hub", "hf://datasets/owner/pairs/default/test", task="retrieval"),
            SuiteEntry("dead", "http://127.0.0.1:9/pairs", task="retrieval"),
            SuiteEntry("server", f"{url}/wds_pairs"),
            SuiteEntry("shards", "wds_pairs/test", task="retrieval"),
            SuiteEntry("parquet", "tables/0.parquet", task="retrieval"),
            SuiteEntry("folders", "folders"),
        ]
        run = run_suite(Suite("all", tuple(entries)), ["model"], "out", SuiteOptions(device="cpu"))

    assert [failure.title for failure in run.failures] == ["model on dead"]
    records = [json.loads(path.read_text()) for path in Path("out").glob("*.json")]
    metrics = {record["dataset"]: record["metrics"] for record in records}
    assert "acc1" in metrics.pop("folders")
    assert set(metrics) == {"hub", "server", "shards", "parquet"}
    assert all(recalls == metrics["hub"] for recalls in metrics.values())


def test_a_split_of_a_set_and_a_pattern_have_the_stamp_of_their_files(tmp_path):
    root = write_esc50(tmp_path / "ESC-50")
    write_shards(tmp_path / "shards", (1, 1))
    names = [f"{root}/fold1", f"{tmp_path}/shards/*.tar", f"{tmp_path}/shards/0000{{0,1}}.tar",
             f"{tmp_path}/shards/00000.tar::{tmp_path}/shards/00001.tar"]  # fmt: skip
    stamps = [data_stamp(name) for name in names]
    assert "" not in stamps
    assert len(set(stamps)) == 2  # the files of a pattern are those of the union
    assert data_stamp(f"{root}/fold2") == stamps[0]
    pack_to_cache(root / "fold1")
    assert [data_stamp(name) for name in names] == stamps
    (root / "audio" / "1-00-A-0.wav").write_bytes(sound_bytes(0.3))
    write_shards(tmp_path / "shards", (1, 2))
    assert not set(stamps) & {data_stamp(name) for name in names}
    for unknown in (
        "https://a.b/0.tar",
        "hf://datasets/a/b/c/d",
        f"{tmp_path}/x/*.tar",
        "s3://a::b",
    ):
        assert data_stamp(unknown) == ""


def rewrite(path: Path, data: bytes) -> None:
    """Write a file, with another time of change."""
    path.write_bytes(data)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("t.csv", b"path,caption\na/0.png,ein Wort\na/1.png,zwei\n"),
        ("t.tsv", b"audio\tlabel\na/0.png\tdog\na/1.png\tcat\n"),
        ("choices.csv", b"image_0,image_1,caption_0,caption_1\na/0.png,a/1.png,one,two\n"),
        ("c.json", b'{"0": {"filename": "a/1.png", "caption": "x", "negative_caption": "y"}}'),
        ("p-*.parquet", None),
    ],
)
def test_the_stamp_of_a_table_covers_the_files_of_its_rows(tmp_path, name, table):
    (tmp_path / "a").mkdir()
    for number in range(3):
        rewrite(tmp_path / f"a/{number}.png", b"1")
    if table is None:
        rows = {"image": [{"bytes": None, "path": "a/1.png"}], "caption": ["x"]}
        parquet.write_table(pa.table(rows), tmp_path / "p-0.parquet")
    else:
        rewrite(tmp_path / name, table)
    before = data_stamp(str(tmp_path / name))
    rewrite(tmp_path / "a/2.png", b"12")  # is not in the table
    assert data_stamp(str(tmp_path / name)) == before != ""
    rewrite(tmp_path / "a/1.png", b"2")
    changed = data_stamp(str(tmp_path / name))
    (tmp_path / "a/1.png").unlink()
    assert len({before, changed, data_stamp(str(tmp_path / name))}) == 3


@pytest.mark.parametrize("content", [b"", b"path\n\xff\xfe", b"a,b\n1\n", b'path\n"\0"\n'])
def test_a_broken_table_has_the_stamp_of_its_file(tmp_path, content):
    stamps = set()
    for suffix in (".csv", ".parquet", ".json"):
        path = tmp_path / f"t{suffix}"
        rewrite(path, content)
        stamps.add(data_stamp(str(path)))
    assert "" not in stamps
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    assert data_stamp(str(deep)) != ""


def test_files_of_the_options_are_part_of_the_request(tmp_path):
    names = tmp_path / "names.txt"
    entry = SuiteEntry("set", "nowhere", zero_shot=ZeroShotOptions(class_names=str(names)))

    def request(entry):
        (planned,) = measurements(["ViT-B-32"], None, (entry,), EmbedOptions())
        return planned.request()["stamps"]

    plain = request(replace(entry, zero_shot=ZeroShotOptions(class_names="imagenet")))
    assert plain == request(entry) == {"model": "", "data": ""}
    rewrite(names, b"dog\ncat")
    before = request(entry)
    rewrite(names, b"cat\ndog")
    assert len({before["options"], request(entry)["options"], ""}) == 3
